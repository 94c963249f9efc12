//! A block computed beside others is, bit for bit, what it is alone in the same row; and a fault at any stage leaves the
//! session as it was.

use std::cell::RefCell;

use acdit_model::{Config, Preset, diffusion::SolverKind};
use tch::Kind;

use super::*;
use crate::Settings;

type Fault = Box<dyn FnMut(Stage) -> Result<()>>;

thread_local! {
    /// Asked at every stage that a step of this thread reaches.
    static FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
}

pub(super) fn fault(stage: Stage) -> Result<()> {
    FAULT.with_borrow_mut(|fault| fault.as_mut().map_or(Ok(()), |fault| fault(stage)))
}

/// Runs `work` with `fault` asked at every stage.
pub(crate) fn with_fault<T>(fault: impl FnMut(Stage) -> Result<()> + 'static, work: impl FnOnce() -> T) -> T {
    FAULT.set(Some(Box::new(fault)));
    let result = work();
    FAULT.set(None);
    result
}

/// The shipped world's sizes, one layer of two instead of six: its products are what must not mix rows.
fn world(context_window: Option<i64>, kind: Kind) -> World {
    let config = Config {
        hidden_size: 256,
        num_layers: 2,
        num_attention_heads: 8,
        intermediate_size: 1024,
        patch_size: 4,
        context_window,
        ..Config::video(Preset::B, 64, 5)
    };
    World::random(&config, 7, Device::Cpu, kind).unwrap()
}

fn sampling(guidance: f64) -> Sampling {
    Sampling { steps: 2, guidance, solver: SolverKind::DpmSolverPlusPlus, guided: 1.0 }
}

/// A session whose window is full and which stands at a block of its own.
fn session(world: &World, seed: u64, guidance: f64) -> Session {
    let settings = Settings { sampling: sampling(guidance), ..Settings::of(world, seed) };
    let mut session = Session::new(world, settings).unwrap();
    for _ in 0..4 + seed % 3 {
        session.step(world, &input(seed)).unwrap();
    }
    session
}

fn input(seed: u64) -> StepInput {
    StepInput { label: (seed % 5) as i64, inject: None }
}

/// `frames` frames of shades that depend on `seed`.
fn frames(seed: u64, frames: i64) -> Option<Tensor> {
    let values = Tensor::arange(frames * 4 * 8 * 8, (Kind::Float, Device::Cpu)) * (0.7 + seed as f64);
    Some(values.sin().view([frames, 4, 8, 8]))
}

fn batch(sessions: &mut [Session], inputs: Vec<StepInput>) -> Vec<(&mut Session, StepInput)> {
    sessions.iter_mut().zip(inputs).collect()
}

#[test]
fn a_block_beside_seven_others_is_the_block_alone_in_its_row() {
    for (window, guidance, guided, kind) in
        [(Some(3), 1.0, 1.0, Kind::Float), (Some(3), 1.5, 0.5, Kind::BFloat16), (None, 1.5, 1.0, Kind::Float)]
    {
        let world = world(window, kind);
        let mut sessions: Vec<Session> = (0..8).map(|seed| session(&world, seed, guidance)).collect();
        for session in &mut sessions {
            session.set_sampling(&world, Sampling { guided, ..sampling(guidance) }).unwrap();
        }
        for round in 0..2 {
            let before = sessions.clone();
            let inputs = || {
                (0..8).map(|seed| match seed % 4 {
                    3 => StepInput { inject: frames(seed, 1 + round), ..input(seed) },
                    _ => input(seed),
                })
            };
            let together = step_batch(&world, &mut batch(&mut sessions, inputs().collect()), 8);
            let rows = before.into_iter().zip(inputs()).zip(together).enumerate();
            for (slot, ((mut alone, input), beside)) in rows.filter(|(slot, _)| slot % 3 != 1) {
                let beside = beside.unwrap().0;
                assert_eq!(beside.row, Row { batch: 8, slot: slot as u32 });
                let apart = alone.clone().step(&world, &input).unwrap();
                let padded = alone.step_at(&world, &input, beside.row).unwrap();
                assert_eq!(padded.hash, beside.hash, "round {round}, slot {slot}, {kind:?}");
                assert_eq!(alone.state_hash().unwrap(), sessions[slot].state_hash().unwrap());
                let error = (&apart.latents - &beside.latents).abs().max().double_value(&[]);
                let scale = apart.latents.abs().max().double_value(&[]);
                assert!(error < scale * if kind == Kind::Float { 1e-4 } else { 0.1 }, "{error} of {scale}");
            }
        }
    }
}

#[test]
fn guidance_may_end_before_the_last_step() {
    let world = world(Some(3), Kind::Float);
    let block = |guidance, guided| {
        let mut session = session(&world, 5, 1.0);
        session.set_sampling(&world, Sampling { guided, ..sampling(guidance) }).unwrap();
        session.step(&world, &input(1)).unwrap().latents
    };
    let (never, half, whole) = (block(3.0, 0.0), block(3.0, 0.5), block(3.0, 1.0));
    assert_eq!(never, block(1.0, 1.0));
    let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    assert!(apart(&half, &never) > 1e-3 && apart(&half, &whole) > 1e-3);
    let steps = |steps, guidance, guided| Sampling { steps, guided, ..sampling(guidance) }.guided_steps();
    assert_eq!(
        [steps(4, 2.0, 0.5), steps(5, 2.0, 0.5), steps(25, 2.0, 1.0), steps(4, 1.0, 1.0)],
        [2, 3, 25, 0]
    );
    let mut session = session(&world, 5, 2.0);
    assert!(session.set_sampling(&world, Sampling { guided: f64::NAN, ..sampling(2.0) }).is_err());
}

#[test]
fn only_sessions_with_the_same_operations_share_a_batch() {
    let world = world(Some(3), Kind::Float);
    let mut sessions: Vec<Session> = (0..6).map(|seed| session(&world, seed, 1.0)).collect();
    sessions[1].set_sampling(&world, sampling(2.0)).unwrap();
    sessions[3] = Session::new(&world, *sessions[3].settings()).unwrap();
    let inputs = (0..6).map(|seed| match seed {
        4 => StepInput { inject: frames(4, 4), ..input(4) },
        _ => input(seed),
    });
    let rows: Vec<Row> = step_batch(&world, &mut batch(&mut sessions, inputs.collect()), 2)
        .into_iter()
        .map(|stepped| stepped.unwrap().0.row)
        .collect();
    let row = |batch, slot| Row { batch, slot };
    let (first, second) = (row(2, 0), row(2, 1));
    assert_eq!(rows, [first, Row::ALONE, second, Row::ALONE, Row::ALONE, Row::ALONE]);
}

#[test]
fn a_row_that_is_not_finite_fails_alone() {
    let world = world(Some(3), Kind::Float);
    let mut sessions: Vec<Session> = (0..4).map(|seed| session(&world, seed, 1.0)).collect();
    let mut undisturbed = sessions.clone();
    let good: Vec<blake3::Hash> =
        step_batch(&world, &mut batch(&mut undisturbed, (0..4).map(input).collect()), 8)
            .into_iter()
            .map(|stepped| stepped.unwrap().0.hash)
            .collect();
    let before = sessions[2].state_hash().unwrap();
    let poison = StepInput { inject: frames(2, 1).map(|frame| frame / 0.0), ..input(2) };
    let inputs = vec![input(0), input(1), poison, input(3)];
    let stepped = step_batch(&world, &mut batch(&mut sessions, inputs), 8);
    for (slot, stepped) in stepped.into_iter().enumerate() {
        match stepped {
            Ok((block, _)) => assert_eq!(block.hash, good[slot]),
            Err(error) => assert!(slot == 2 && matches!(error, Error::Diverged { .. }), "{slot}: {error}"),
        }
    }
    assert_eq!(sessions[2].state_hash().unwrap(), before);
    assert_eq!(sessions[2].step_at(&world, &input(2), Row { batch: 4, slot: 2 }).unwrap().hash, good[2]);
}

/// Every stage fails once at every pass through it, by an error and by a panic.
#[test]
fn a_fault_at_any_stage_changes_nothing() {
    let world = world(Some(3), Kind::Float);
    let fresh: Vec<Session> = (0..3).map(|seed| session(&world, seed, 1.0)).collect();
    let reference: Vec<blake3::Hash> = (fresh.iter().cloned().zip(0..))
        .map(|(mut session, seed)| session.step(&world, &input(seed)).unwrap().hash)
        .collect();
    let hashes = |sessions: &[Session]| -> Vec<blake3::Hash> {
        sessions.iter().map(|session| session.state_hash().unwrap()).collect()
    };
    let before = hashes(&fresh);
    for (stage, passes) in [(Stage::Input, 3), (Stage::Denoise, 2), (Stage::Context, 1), (Stage::Hash, 3)] {
        for (failing, panics) in (0..passes).flat_map(|pass| [(pass, false), (pass, true)]) {
            let mut sessions = fresh.clone();
            let mut reached = 0;
            // Where a batch fails as a whole, its first session fails again when it is tried alone.
            let fault = move |at: Stage| {
                if at != stage {
                    return Ok(());
                }
                reached += 1;
                let again = matches!(stage, Stage::Denoise | Stage::Context) && reached == failing + 2;
                match reached == failing + 1 || again {
                    true if panics => panic!("fault"),
                    true => Err(Error::Input("fault".into())),
                    false => Ok(()),
                }
            };
            let stepped = with_fault(fault, || {
                step_batch(&world, &mut batch(&mut sessions, (0..3).map(input).collect()), 8)
            });
            // A panic while hashing costs the batch, and then nobody: each is tried alone.
            let lost = usize::from(!(panics && stage == Stage::Hash));
            assert_eq!(stepped.iter().filter(|stepped| stepped.is_err()).count(), lost, "{stage:?}");
            for (slot, stepped) in stepped.iter().enumerate() {
                let after = sessions[slot].state_hash().unwrap();
                assert_eq!(stepped.is_err(), after == before[slot], "{stage:?}, pass {failing}, slot {slot}");
            }
            for (slot, stepped) in stepped.into_iter().enumerate() {
                if stepped.is_err() {
                    let block = sessions[slot].step(&world, &input(slot as u64)).unwrap();
                    assert_eq!(block.hash, reference[slot]);
                }
            }
        }
    }
}
