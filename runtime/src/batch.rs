//! The next blocks of several sessions as one batch.
//!
//! A forward over N sessions reads the weights once instead of N times. Labels, seeds, positions and pinned frames differ
//! from row to row. Sessions share a batch only if their blocks take the same operations on tensors of the same sizes: the
//! same sampling (steps are passes, guidance decides on the branches), the same window and equally many blocks in it (a
//! shorter row would need padding under a mask, which changes its sums), and both or neither replaced by injected frames.
//!
//! **Exactness.** Rows do not mix, so a row's values do not depend on its neighbours. Its bits may depend on the sizes:
//! matrix products choose their kernels by the number of rows, and treat the last rows apart. So a block remembers its
//! [`Row`], the width of its batch and its place in it, and whoever computes it again takes the same row of an equally
//! wide batch, filled up with copies of itself.
//!
//! **Atomicity.** Everything is computed before anything is committed. A row that is not finite fails alone. If a batch
//! fails as a whole, as when memory is out, each of its sessions is tried alone.

use std::time::Instant;

use acdit_model::RopeTable;
use acdit_model::diffusion::{NoiseLevel, Solver, guided};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::engine::MAX_STREAMS;
use crate::error::caught;
use crate::session::Purpose;
use crate::window::positions;
use crate::{Block, Error, Result, Sampling, Session, StepInput, Timings, Window, WindowMode, World};

/// The row of a batch in which a block was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Sessions in the batch.
    pub batch: u32,
    /// Which of them, from 0.
    pub slot: u32,
}

impl Row {
    /// The only row of its batch.
    pub const ALONE: Self = Self { batch: 1, slot: 0 };

    /// Whether an engine can have computed a block there: what a file says may be anything.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub(crate) fn check(self) -> Result<()> {
        let Self { batch, slot } = self;
        if slot < batch && batch as usize <= MAX_STREAMS {
            return Ok(());
        }
        Err(Error::Input(format!("row {slot} of a batch of {batch}, expected one of at most {MAX_STREAMS}")))
    }
}

/// A step of a batch, with where its time went.
pub type Stepped = Result<(Block, Timings)>;

/// A block computed but not yet part of its session.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) latents: Tensor,
    pub(crate) label: i64,
    pub(crate) injected: usize,
    pub(crate) hash: blake3::Hash,
    pub(crate) row: Row,
    pub(crate) window: Window,
}

/// A block that its session has not taken in yet, with where its time went.
type Stepping = (Computed, Timings);

/// Where a step can be when it fails; tests make it fail at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Input,
    Denoise,
    Context,
    Hash,
}

/// A session with what was asked for its next block, checked.
struct Member<'a> {
    session: &'a Session,
    label: i64,
    /// Injected frames as tokens (1, k·B/F, p²·C).
    pinned: Option<Tensor>,
    injected: usize,
}

/// What the sessions of a batch have in common.
#[derive(Debug, PartialEq)]
struct Shape {
    sampling: Sampling,
    capacity: usize,
    mode: WindowMode,
    held: usize,
    replaced: bool,
}

/// Steps sessions whose blocks are due, at most `widest` in one batch: one result for each, in order. A session whose
/// step failed is as it was before.
pub fn step_batch(world: &World, sessions: &mut [(&mut Session, StepInput)], widest: usize) -> Vec<Stepped> {
    let members: Vec<Result<Member>> =
        sessions.iter().map(|(session, input)| caught(|| Member::new(world, session, input))).collect();
    let mut results: Vec<Option<Result<Stepping>>> = members.iter().map(|_| None).collect();
    for group in groups(world, &members, widest) {
        let rows: Vec<&Member> = group.iter().map(|&(_, member)| member).collect();
        for ((index, _), result) in group.into_iter().zip(compute_or_each(world, &rows)) {
            results[index] = Some(result);
        }
    }
    let results = finished(members, results);
    sessions.iter_mut().zip(results).map(|((session, _), result)| commit(session, result)).collect()
}

/// Steps sessions each in its row of a batch, all of one width, no row taken twice: the same bits as beside any others.
/// Rows that nobody has are filled up with copies. One result for each, as [`step_batch`].
pub(crate) fn step_rows(world: &World, sessions: &mut [(&mut Session, StepInput, Row)]) -> Vec<Stepped> {
    let members: Vec<Result<Member>> = (sessions.iter())
        .map(|(session, input, row)| {
            row.check()?;
            caught(|| Member::new(world, session, input))
        })
        .collect();
    let mut results: Vec<Option<Result<Stepping>>> = members.iter().map(|_| None).collect();
    for group in groups(world, &members, usize::MAX) {
        let row = |index: usize| sessions[index].2;
        let (first, filling) = group[0];
        let mut rows = vec![filling; row(first).batch as usize];
        group.iter().for_each(|&(index, member)| rows[row(index).slot as usize] = member);
        let mut computed: Vec<Option<Result<Stepping>>> = match attempt(world, &rows) {
            Ok(computed) => computed.into_iter().map(Some).collect(),
            Err(error) if group.len() == 1 => {
                results[first] = Some(Err(error));
                continue;
            }
            Err(error) => {
                tracing::warn!("{} sessions side by side failed, each is tried alone: {error}", group.len());
                rows.iter().map(|_| None).collect()
            }
        };
        for (index, member) in group {
            let Row { batch, slot } = row(index);
            let alone = || attempt(world, &vec![member; batch as usize])?.swap_remove(slot as usize);
            results[index] = Some(computed[slot as usize].take().unwrap_or_else(alone));
        }
    }
    let results = finished(members, results);
    sessions.iter_mut().zip(results).map(|((session, ..), result)| commit(session, result)).collect()
}

/// One block of one session, as if computed in `row`.
pub(crate) fn step_at(world: &World, session: &mut Session, input: &StepInput, row: Row) -> Stepped {
    let input = StepInput { inject: input.inject.as_ref().map(Tensor::shallow_clone), ..*input };
    step_rows(world, &mut [(session, input, row)]).remove(0)
}

/// Valid members, with their places, that can share a batch of at most `widest`.
fn groups<'a, 'b>(
    world: &World,
    members: &'b [Result<Member<'a>>],
    widest: usize,
) -> Vec<Vec<(usize, &'b Member<'a>)>> {
    let mut groups: Vec<(Shape, Vec<(usize, &Member)>)> = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let Ok(member) = member else { continue };
        let shape = member.shape(world);
        match groups.iter_mut().find(|(other, group)| *other == shape && group.len() < widest) {
            Some((_, group)) => group.push((index, member)),
            None => groups.push((shape, vec![(index, member)])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The results of valid members, and why the others are none.
fn finished(members: Vec<Result<Member>>, results: Vec<Option<Result<Stepping>>>) -> Vec<Result<Stepping>> {
    (members.into_iter().zip(results))
        .map(|(member, result)| member.and_then(|_| result.expect("every valid member is in a group")))
        .collect()
}

fn commit(session: &mut Session, stepping: Result<Stepping>) -> Stepped {
    stepping.map(|(computed, timings)| (session.commit(computed), timings))
}

impl<'a> Member<'a> {
    fn new(world: &World, session: &'a Session, input: &StepInput) -> Result<Self> {
        reach(Stage::Input)?;
        let config = world.model.config();
        if !(0..=config.num_classes).contains(&input.label) {
            return Err(Error::Input(format!("label {} of {}", input.label, config.num_classes)));
        }
        if config.square_block.is_some() && session.index() as i64 >= config.training_blocks() {
            return Err(Error::ImageComplete { blocks: config.training_blocks() });
        }
        let pinned =
            input.inject.as_ref().map(|latents| session.pinned_tokens(world, latents)).transpose()?;
        let injected = input.inject.as_ref().map_or(0, |latents| latents.size()[0] as usize);
        Ok(Self { session, label: input.label, pinned, injected })
    }

    fn shape(&self, world: &World) -> Shape {
        let window = self.session.window();
        Shape {
            sampling: self.session.settings().sampling,
            capacity: window.capacity(),
            mode: window.mode(),
            held: window.len(),
            replaced: self.replaced(world).is_some(),
        }
    }

    /// The block's tokens, where injected frames are all of it.
    fn replaced(&self, world: &World) -> Option<&Tensor> {
        let all = self.injected as i64 == world.model.config().block_shape()[0];
        self.pinned.as_ref().filter(|_| all)
    }
}

/// The blocks of a batch; if it fails as a whole, of each of its sessions alone.
fn compute_or_each(world: &World, members: &[&Member]) -> Vec<Result<Stepping>> {
    match attempt(world, members) {
        Ok(rows) => rows,
        Err(error) if members.len() == 1 => vec![Err(error)],
        Err(error) => {
            tracing::warn!("a batch of {} failed, each is tried alone: {error}", members.len());
            let alone = |&member: &&Member| attempt(world, &[member])?.remove(0);
            members.iter().map(alone).collect()
        }
    }
}

/// [`compute`], with panics of the tensor library as errors.
fn attempt(world: &World, members: &[&Member]) -> Result<Vec<Result<Stepping>>> {
    // Sessions and world are only read, so a panic leaves none of them half changed.
    caught(|| compute(world, members))
}

/// The blocks of a batch. A row that is not finite fails; the others do not see it.
fn compute(world: &World, members: &[&Member]) -> Result<Vec<Result<Stepping>>> {
    let _guard = tch::no_grad_guard();
    let started = Instant::now();
    let tokens = match members.iter().map(|member| member.replaced(world)).collect::<Option<Vec<_>>>() {
        Some(given) => Tensor::cat(&given, 0),
        None => denoise(world, members)?,
    };
    // Reading the result waits for the device, so that each half's time is its own.
    let finite = Vec::<bool>::try_from(tokens.isfinite().flatten(1, -1).all_dim(1, false))?;
    let denoised = Instant::now();

    reach(Stage::Context)?;
    let windows: Vec<&Window> = members.iter().map(|member| member.session.window()).collect();
    let windows = Window::all_appended(&windows, &world.model, &tokens)?;
    let latents = world.patcher.latents(&tokens).to_device(Device::Cpu).contiguous();
    let timings = Timings {
        denoise: (denoised - started).as_secs_f64(),
        context: denoised.elapsed().as_secs_f64(),
        ..Timings::default()
    };

    let batch = members.len() as u32;
    let row = |((member, window), (finite, slot)): ((&&Member, Window), (bool, u32))| {
        let Member { session, label, injected, .. } = **member;
        if !finite {
            return Err(Error::Diverged { block: session.index() });
        }
        reach(Stage::Hash)?;
        let latents = match batch {
            1 => latents.get(0),
            _ => latents.get(slot.into()).copy(),
        };
        let (hash, row) = (session.hash(&latents)?, Row { batch, slot });
        Ok((Computed { latents, label, injected, hash, row, window }, timings))
    };
    Ok(members.iter().zip(windows).zip(finite.into_iter().zip(0..)).map(row).collect())
}

/// Blocks from noise, (N, B, p²·C) f32 in tokens. In a guided step the network sees 2N rows: all labelled ones, then all
/// unlabelled ones.
fn denoise(world: &World, members: &[&Member]) -> Result<Tensor> {
    let sampling = members[0].session.settings().sampling;
    let Sampling { steps, guidance, solver, .. } = sampling;
    let model = &world.model;
    let (rows, device) = (members.len(), model.device());
    let mut labels: Vec<i64> = members.iter().map(|member| member.label).collect();
    labels.resize(2 * rows, model.null_label());
    let both = Tensor::from_slice(&labels).to_device(device);

    let windows: Vec<&Window> = members.iter().map(|member| member.session.window()).collect();
    let rope = positions(&windows, model)?;
    let rope_of_both = match rows {
        1 => RopeTable { cos: rope.cos.shallow_clone(), sin: rope.sin.shallow_clone() },
        _ => RopeTable { cos: rope.cos.repeat([2, 1, 1, 1]), sin: rope.sin.repeat([2, 1, 1, 1]) },
    };
    let mut reader = Window::readers(&windows);
    let mut solver = Solver::new(solver, &world.schedule, steps)?;
    let timesteps = Tensor::from_slice(solver.timesteps()).to_device(device);
    let modulations = model.modulations(&timesteps, &both)?;
    let pins: Vec<Option<(&Tensor, Tensor)>> = (members.iter())
        .map(|member| {
            let clean = member.pinned.as_ref()?;
            Some((clean, member.session.noise(world, Purpose::Pin).narrow(1, 0, clean.size()[1])))
        })
        .collect();

    let noise: Vec<Tensor> = members.iter().map(|m| m.session.noise(world, Purpose::Block)).collect();
    let mut tokens = Tensor::cat(&noise, 0);
    for (index, modulation) in modulations.iter().enumerate() {
        reach(Stage::Denoise)?;
        tokens = held(tokens, &pins, solver.level(index));
        let is_guided = index < sampling.guided_steps();
        let (branches, rope) = if is_guided { (2, &rope_of_both) } else { (1, &rope) };
        let branched = tokens.repeat([branches, 1, 1]);
        let modulation = modulation.first(branches * rows as i64);
        let predictions = model.denoise(&branched, &modulation, rope, &mut reader)?;
        let prediction = if is_guided { guided(&predictions, guidance) } else { predictions };
        tokens = solver.step(index, &tokens, &prediction);
    }
    Ok(held(tokens, &pins, NoiseLevel::CLEAN))
}

/// Tokens (N, B, p²·C) with each row's pinned ones in front, at noise level `level`.
fn held(tokens: Tensor, pins: &[Option<(&Tensor, Tensor)>], level: NoiseLevel) -> Tensor {
    if pins.iter().all(Option::is_none) {
        return tokens;
    }
    let rows = tokens.split(1, 0).into_iter().zip(pins).map(|(row, pin)| {
        let Some((clean, noise)) = pin else { return row };
        let (length, rest) = (clean.size()[1], row.size()[1] - clean.size()[1]);
        // the last level is the clean latents themselves: bit for bit what was injected
        let exact = level == NoiseLevel::CLEAN;
        let front = if exact { clean.shallow_clone() } else { level.mix(clean, noise) };
        Tensor::cat(&[front, row.narrow(1, length, rest)], 1)
    });
    Tensor::cat(&rows.collect::<Vec<_>>(), 0)
}

/// Passes a stage; in tests, fails there if the test wants it to.
fn reach(stage: Stage) -> Result<()> {
    #[cfg(test)]
    tests::fault(stage)?;
    let _ = stage;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
