//! Streams that begin with a world's own clips.

use acdit_model::diffusion::{Prediction, SchedulerConfig};
use acdit_model::{Acdit, Config, Preset};
use acdit_runtime::{Session, Settings, StepInput, World, WorldFolder, WorldMeta};
use tch::{Device, Kind, Tensor, nn};

/// Blocks of two frames of 4×4 latents, a windowed mask of two blocks.
fn config() -> Config {
    Config {
        hidden_size: 32,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        sample_height: 4,
        sample_width: 4,
        sample_frames: 6,
        frames_per_block: 2,
        axis_lengths: vec![6, 2, 2],
        context_window: Some(2),
        ..Config::video(Preset::B, 32, 3)
    }
}

/// Three clips of two blocks, in steps that bf16 can hold.
fn clips() -> Tensor {
    (Tensor::arange(3 * 4 * 64, (Kind::Float, Device::Cpu)).fmod(13.0) / 8.0).view([3, 4, 4, 4, 4])
}

#[test]
fn the_seed_picks_the_clip_that_the_stream_goes_on_from() {
    let mut world = World::random(&config(), 7, Device::Cpu, Kind::Float).unwrap();
    let go_on = |world: &World, mut session: Session| {
        session.step(world, &StepInput { label: 1, inject: None }).unwrap().hash
    };
    let settings = Settings { seed: 5, ..Settings::of(&world, 0) };
    let nothing = go_on(&world, Session::new(&world, settings).unwrap());
    assert_eq!(go_on(&world, Session::open(&world, settings).unwrap()), nothing);

    world.openings = Some(clips());
    let opened = Session::open(&world, settings).unwrap();
    assert_eq!((opened.index(), opened.window().len()), (2, 2));
    let primed = |clip: i64| {
        let mut session = Session::new(&world, settings).unwrap();
        session.prime(&world, &clips().get(clip), 0).unwrap();
        go_on(&world, session)
    };
    assert_eq!(go_on(&world, opened), primed(2)); // 5 mod 3
    assert_ne!(primed(2), primed(1));
}

#[test]
fn openings_travel_with_the_weights_and_must_fit_them() {
    let config = config();
    let vs = nn::VarStore::new(Device::Cpu);
    Acdit::new(&vs.root(), &config, Kind::Float).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |openings: &Tensor| {
        let world = WorldFolder {
            config: &config,
            tensors: &vs.variables().into_iter().collect(),
            kind: Kind::BFloat16,
            scheduler: &SchedulerConfig::paper(Prediction::Sample),
            meta: &WorldMeta::unnamed(&config),
            vae: None,
            openings: Some(openings),
        };
        world.write(folder.path()).unwrap();
        World::load(folder.path(), Device::Cpu, Kind::Float)
    };
    assert_eq!(write(&clips()).unwrap().openings.unwrap(), clips());
    for wrong in [clips().narrow(1, 0, 3), clips().narrow(2, 0, 3), clips().get(0), clips().narrow(0, 0, 0)] {
        let error = write(&wrong).unwrap_err().to_string();
        assert!(error.contains("openings.safetensors") && error.contains("a multiple of 2"), "{error}");
    }
}
