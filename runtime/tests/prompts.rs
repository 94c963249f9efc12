//! Streams that begin with a world's own clips.

mod common;

use acdit_model::Acdit;
use acdit_model::diffusion::{Prediction, SchedulerConfig};
use acdit_runtime::{Session, Settings, StepInput, World, WorldFolder, WorldMeta};
use tch::{Device, Kind, Tensor, nn};

/// Three clips of two blocks, in steps that bf16 can hold.
fn clips() -> Tensor {
    (Tensor::arange(3 * 4 * 256, (Kind::Float, Device::Cpu)).fmod(13.0) / 8.0).view([3, 4, 4, 8, 8])
}

#[test]
fn the_seed_picks_the_clip_that_the_stream_goes_on_from() {
    let (mut world, _) = common::world();
    let go_on = |world: &World, mut session: Session| {
        session.step(world, &StepInput { label: 1, inject: None }).unwrap().hash
    };
    let settings = Settings { seed: 5, ..Settings::of(&world, 0) };
    let nothing = go_on(&world, Session::new(&world, settings).unwrap());
    assert_eq!(go_on(&world, Session::prompted(&world, settings).unwrap()), nothing);

    world.prompts = Some(clips());
    let opened = Session::prompted(&world, settings).unwrap();
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
fn prompts_travel_with_the_weights_and_must_fit_them() {
    let config = common::config();
    let vs = nn::VarStore::new(Device::Cpu);
    Acdit::new(&vs.root(), &config, Kind::Float).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |prompts: &Tensor| {
        let world = WorldFolder {
            config: &config,
            tensors: &vs.variables().into_iter().collect(),
            kind: Kind::BFloat16,
            scheduler: &SchedulerConfig::paper(Prediction::Sample),
            meta: &WorldMeta::unnamed(&config),
            vae: None,
            prompts: Some(prompts),
        };
        world.write(folder.path()).unwrap();
        World::load(folder.path(), Device::Cpu, Kind::Float)
    };
    assert_eq!(write(&clips()).unwrap().prompts.unwrap(), clips());
    for wrong in [clips().narrow(1, 0, 3), clips().narrow(2, 0, 3), clips().get(0), clips().narrow(0, 0, 0)] {
        let error = write(&wrong).unwrap_err().to_string();
        assert!(error.contains("prompts.safetensors") && error.contains("a multiple of 2"), "{error}");
    }
    let error = write(&(clips() / 0.0)).unwrap_err().to_string();
    assert!(error.contains("prompts.safetensors: latents that are not finite"), "{error}");
}
