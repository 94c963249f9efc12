//! What streams equals the training computation.
//!
//! The probe: give the training forward the very blocks a session produced, noised as at one denoising step, and compare
//! its prediction for each block with what the session's own cache predicts there.

use acdit_model::{Config, KvStore, Preset, RopeKind, TrainingBatch, diffusion::SolverKind};
use acdit_runtime::{Sampling, Session, Settings, StepInput, Window, WindowMode, World};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 2e-5;

fn config(rope: RopeKind, context_window: Option<i64>) -> Config {
    Config {
        hidden_size: 64,
        num_layers: 3,
        num_attention_heads: 2,
        intermediate_size: 128,
        rope,
        context_window,
        patch_size: 2,
        ..Config::video(Preset::B, 32, 5)
    }
}

fn world(rope: RopeKind, context_window: Option<i64>) -> World {
    World::random(&config(rope, context_window), 7, Device::Cpu, Kind::Float)
        .expect("the test config is valid")
}

fn settings(world: &World) -> Settings {
    let sampling = Sampling { steps: 2, guidance: 1.5, solver: SolverKind::Ddim, guided: 1.0 };
    Settings { sampling, ..Settings::of(world, 3) }
}

/// Standard normal values from a generator of their own: libtorch's is shared by tests that run at once.
fn normal(shape: &[i64], seed: u64) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = StandardNormal.sample_iter(rng).take(count).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Blocks with unit-scale latents, so that errors are not hidden by large values.
fn real_block(world: &World, index: u64) -> Tensor {
    normal(&world.model.config().block_shape(), 100 + index)
}

fn inject(world: &World, session: &mut Session, index: u64) -> Tensor {
    let input = StepInput { label: (index % 5) as i64, inject: Some(real_block(world, index)) };
    session.step(world, &input).expect("the block fits").latents
}

fn tokens(world: &World, latents: &Tensor) -> Tensor {
    acdit_model::Patcher::new(world.model.config()).tokens(&latents.unsqueeze(0))
}

/// The session's prediction for a noised block at its next position.
fn streamed(world: &World, window: &Window, noised: &Tensor, label: i64) -> Tensor {
    let rope = world.model.rope().table(window.position(), 1, Device::Cpu).unwrap();
    let (t, y) = (Tensor::from_slice(&[500i64]), Tensor::from_slice(&[label]));
    let modulation = &world.model.modulations(&t, &y).unwrap()[0];
    world.model.denoise(noised, modulation, &rope, &mut window.reader()).unwrap()
}

/// The training forward's predictions for all blocks of a clip, each noised to `noised`.
fn trained(world: &World, clean: &[Tensor], noised: &[Tensor], labels: &[i64]) -> Tensor {
    let count = clean.len() as i64;
    let batch = TrainingBatch {
        clean: Tensor::stack(clean, 1),
        noised: Tensor::stack(noised, 1),
        timesteps: Tensor::full([1, count], 500, (Kind::Int64, Device::Cpu)),
        labels: Tensor::from_slice(labels).unsqueeze(0),
    };
    world.model.training_forward(&batch).unwrap()
}

fn error(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[]) / b.abs().max().double_value(&[])
}

/// Streams `blocks` blocks and returns their clean tokens with what the session predicted for each before it was known.
fn stream(world: &World, blocks: u64) -> (Vec<Tensor>, Vec<Tensor>, Vec<i64>, Vec<Tensor>) {
    let mut session = Session::new(world, settings(world)).unwrap();
    let (mut clean, mut noised, mut labels, mut predictions) = (vec![], vec![], vec![], vec![]);
    for index in 0..blocks {
        let shape = [1, world.model.config().block_tokens(), world.model.config().token_width()];
        let noise = normal(&shape, 900 + index);
        let label = (index % 5) as i64;
        predictions.push(streamed(world, session.window(), &noise, label));
        noised.push(noise);
        labels.push(label);
        clean.push(tokens(world, &inject(world, &mut session, index)));
    }
    (clean, noised, labels, predictions)
}

#[test]
fn forty_windowed_blocks_equal_one_training_forward() {
    let _guard = tch::no_grad_guard();
    let world = world(RopeKind::Axial, Some(3));
    let (clean, noised, labels, predictions) = stream(&world, 40);
    let trained = trained(&world, &clean, &noised, &labels);
    for (index, prediction) in predictions.iter().enumerate() {
        let error = error(prediction, &trained.select(1, index as i64));
        assert!(error < TOLERANCE, "block {index}: {error:.1e}");
    }
}

#[test]
fn appending_and_every_slide_of_recompute_equal_a_training_clip() {
    let _guard = tch::no_grad_guard();
    for rope in [RopeKind::Axial, RopeKind::Published] {
        let world = world(rope, None);
        let window = world.default_window().0;
        let (clean, noised, labels, predictions) = stream(&world, 10);
        for (index, prediction) in predictions.iter().enumerate() {
            let clip = index.saturating_sub(window)..index + 1;
            let forward = trained(&world, &clean[clip.clone()], &noised[clip.clone()], &labels[clip.clone()]);
            let error = error(prediction, &forward.select(1, clip.len() as i64 - 1));
            assert!(error < TOLERANCE, "{rope:?} block {index}: {error:.1e}");
        }
    }
}

/// The same comparison with the eviction rule broken must fail, or the test above proves nothing.
#[test]
fn a_window_one_block_short_is_noticed() {
    let _guard = tch::no_grad_guard();
    let full = world(RopeKind::Axial, Some(3));
    let (clean, noised, labels, predictions) = stream(&full, 12);
    let short = World::random(&config(RopeKind::Axial, Some(2)), 7, Device::Cpu, Kind::Float).unwrap();
    let trained = trained(&short, &clean, &noised, &labels);
    assert!(error(&predictions[11], &trained.select(1, 11)) > 1e-2);
}

/// The published sampler's cache: one copy of everything per guidance branch.
#[derive(Default)]
struct Doubled {
    layers: Vec<(Tensor, Tensor)>,
    complete: bool,
}

impl KvStore for Doubled {
    fn extend(&mut self, layer: usize, keys: Tensor, values: Tensor) -> (Tensor, Tensor) {
        if self.complete {
            let (past_keys, past_values) = &self.layers[layer];
            return (Tensor::cat(&[past_keys, &keys], 2), Tensor::cat(&[past_values, &values], 2));
        }
        self.layers.push((keys.shallow_clone(), values.shallow_clone()));
        (keys, values)
    }

    fn past_tokens(&self) -> i64 {
        0
    }
}

#[test]
fn shared_guidance_cache_equals_the_doubled_one() {
    let _guard = tch::no_grad_guard();
    let world = world(RopeKind::Axial, Some(3));
    let mut session = Session::new(&world, settings(&world)).unwrap();
    let clean: Vec<Tensor> =
        (0..3).map(|index| tokens(&world, &inject(&world, &mut session, index))).collect();
    let mut doubled = Doubled::default();
    world.model.encode_clean(&Tensor::stack(&clean, 1).repeat([2, 1, 1, 1]), 0, &mut doubled).unwrap();
    doubled.complete = true;

    let window = session.window();
    let noised = tokens(&world, &real_block(&world, 50)).repeat([2, 1, 1]);
    let (t, y) = (Tensor::from_slice(&[300i64]), Tensor::from_slice(&[2i64, 5]));
    let rope = world.model.rope().table(window.position(), 1, Device::Cpu).unwrap();
    let modulation = &world.model.modulations(&t, &y).unwrap()[0];
    let shared = world.model.denoise(&noised, modulation, &rope, &mut window.reader()).unwrap();
    let doubled = world.model.denoise(&noised, modulation, &rope, &mut doubled).unwrap();
    assert!(error(&shared, &doubled) < TOLERANCE);
    assert!(error(&shared.get(0), &shared.get(1)) > 1e-2, "the label has no effect: nothing was compared");
}

#[test]
fn a_label_change_leaves_the_cache_bit_equal() {
    let world = world(RopeKind::Axial, Some(3));
    let run = |labels: [i64; 4]| {
        let mut session = Session::new(&world, settings(&world)).unwrap();
        for (index, label) in labels.into_iter().enumerate() {
            let input = StepInput { label, inject: Some(real_block(&world, index as u64)) };
            session.step(&world, &input).unwrap();
        }
        session
    };
    let (one, other) = (run([0, 0, 0, 0]), run([1, 4, 2, 5]));
    for ((k1, v1), (k2, v2)) in one.window().layers().iter().zip(other.window().layers()) {
        assert!(k1.equal(k2) && v1.equal(v2));
    }
}

#[test]
fn replay_is_bit_equal_and_seeds_and_labels_matter() {
    let world = world(RopeKind::Axial, Some(3));
    let run = |seed: u64, last: i64| {
        let mut session = Session::new(&world, Settings { seed, ..settings(&world) }).unwrap();
        let labels = [0, 1, 1, 4, 2, 2, last];
        labels.map(|label| session.step(&world, &StepInput { label, inject: None }).unwrap().hash)
    };
    assert_eq!(run(1, 3), run(1, 3));
    let (a, b, c) = (run(1, 3), run(1, 0), run(2, 3));
    assert_eq!(a[..6], b[..6]);
    assert_ne!(a[6], b[6]);
    assert!(a.iter().zip(&c).all(|(a, c)| a != c));
}

#[test]
fn pinned_frames_are_committed_bit_for_bit_and_steer_the_rest() {
    let world = world(RopeKind::Axial, Some(3));
    let session = Session::new(&world, settings(&world)).unwrap();
    let real = real_block(&world, 9);
    let free = session.clone().step(&world, &StepInput { label: 1, inject: None }).unwrap();
    for frames in 1..4 {
        let inject = Some(real.narrow(0, 0, frames));
        let block = session.clone().step(&world, &StepInput { label: 1, inject }).unwrap();
        assert!(block.latents.narrow(0, 0, frames).equal(&real.narrow(0, 0, frames)));
        assert!(!block.latents.narrow(0, 3, 1).equal(&free.latents.narrow(0, 3, 1)));
        assert_eq!(block.injected, frames as usize);
    }
}

#[test]
fn priming_uses_a_clips_last_blocks() {
    let world = world(RopeKind::Axial, Some(3));
    let clip = Tensor::cat(&(0..5).map(|i| real_block(&world, i)).collect::<Vec<_>>(), 0); // 20 frames
    let clip = clip.narrow(0, 1, 19); // not a whole number of blocks
    let mut session = Session::new(&world, settings(&world)).unwrap();
    let blocks = session.prime(&world, &clip, 0).unwrap();
    let latents: Vec<&Tensor> = blocks.iter().map(|block| &block.latents).collect();
    assert!(Tensor::cat(&latents, 0).equal(&clip.narrow(0, 7, 12)));
    assert_eq!((session.window().len(), session.index()), (3, 3));
    assert!(session.prime(&world, &clip.narrow(0, 0, 3), 0).is_err());
    assert_eq!(session.index(), 3);
}

#[test]
fn refused_steps_change_nothing() {
    let world = world(RopeKind::Axial, Some(3));
    let mut session = Session::new(&world, settings(&world)).unwrap();
    let first = StepInput { label: 0, inject: None };
    session.step(&world, &first).unwrap();
    let next = session.clone().step(&world, &first).unwrap().hash;
    let poison = real_block(&world, 1) * f64::NAN;
    for inject in [
        poison,
        Tensor::zeros([5, 4, 4, 4], (Kind::Float, Device::Cpu)),
        Tensor::zeros([4, 4, 4], (Kind::Float, Device::Cpu)),
    ] {
        assert!(session.step(&world, &StepInput { label: 0, inject: Some(inject) }).is_err());
    }
    assert!(session.step(&world, &StepInput { label: 6, inject: None }).is_err());
    assert!(session.set_sampling(&world, Sampling { steps: 0, ..Sampling::default() }).is_err());
    assert_eq!(session.step(&world, &first).unwrap().hash, next);
}

#[test]
fn windows_that_would_not_be_exact_are_refused() {
    let windowed = world(RopeKind::Axial, Some(3));
    let published = world(RopeKind::Published, None);
    for (world, blocks, mode) in [
        (&windowed, 4, WindowMode::Windowed),
        (&published, 3, WindowMode::Windowed),
        (&published, 4, WindowMode::Recompute),
        (&published, 0, WindowMode::Recompute),
    ] {
        assert!(Window::new(&world.model, blocks, mode).is_err(), "{blocks} {mode:?}");
    }
}
