//! The world that the benches run: the size of the shipped one, with random weights.

use acdit_model::{Config, Preset};
use acdit_runtime::{Sampling, Session, Settings, StepInput, World};
use tch::{Device, Kind};

/// A world of 64x64 pixels with a window of 3 blocks.
pub(crate) fn small() -> World {
    let config = Config {
        hidden_size: 256,
        num_layers: 6,
        num_attention_heads: 4,
        intermediate_size: 1024,
        context_window: Some(3),
        ..Config::video(Preset::B, 64, 5)
    };
    World::random(&config, 0, Device::Cpu, Kind::Float).expect("the config is valid")
}

/// A session of it with a full window, at 4 denoising steps.
#[allow(dead_code, reason = "not every bench needs one")]
pub(crate) fn session(world: &World, settings: Settings) -> Session {
    let sampling = Sampling { steps: 4, ..settings.sampling };
    let mut session = Session::new(world, Settings { sampling, ..settings }).expect("the settings fit");
    for _ in 0..=settings.window {
        session.step(world, &INPUT).expect("random weights are finite");
    }
    session
}

/// A block like any other.
#[allow(dead_code, reason = "not every bench needs one")]
pub(crate) const INPUT: StepInput = StepInput { label: 0, inject: None };
