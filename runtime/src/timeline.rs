//! A session with its past: what happened, the way back, and the way to disk.
//!
//! The log ([`Entry`]) says how every block came to be. The history is the newest [`KEPT`] blocks themselves and, every
//! [`ANCHOR_EVERY`] blocks, the session as it was. Going back takes the nearest session before the wanted block and runs the
//! clean pass over the kept blocks in between, each in the row in which it was computed: the window is then the same to
//! its last bit, and nothing is denoised. Tensors are shared, so a fork has its prefix for nothing.

mod log;
mod replay;
mod snapshot;

use std::collections::VecDeque;

use tch::Tensor;

pub use self::log::{Entry, Latents, Log, Stamp, read_log, turns, write_log};
pub use self::replay::Again;
pub use self::snapshot::Saver;
use crate::batch::Row;
use crate::{Block, Error, Result, Sampling, Session, Settings, StepInput, World};

/// Blocks that can be gone back to, at least: two minutes at four blocks a second. A block's latents are kept, a few KiB.
const KEPT: usize = 512;

/// Blocks from one kept session to the next: going back costs at most so many clean passes, and a kept session may hold
/// the keys and values of a whole window.
const ANCHOR_EVERY: u64 = 32;

/// A committed block, as going back needs it.
#[derive(Debug)]
struct Kept {
    /// (1, B, p²·C).
    tokens: Tensor,
    label: i64,
    settings: Settings,
    row: Row,
    /// Frames, from the first, that came from outside.
    injected: usize,
}

/// A block that can be gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its index.
    pub block: u64,
    /// The label that it was made with.
    pub label: i64,
    /// Frames, from the first, that came from outside.
    pub injected: usize,
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        Self { tokens: self.tokens.shallow_clone(), ..*self }
    }
}

/// A session, its label and its past. Cloning shares all tensors.
#[derive(Clone, Debug)]
pub struct Timeline {
    session: Session,
    label: i64,
    paused: bool,
    /// Blocks from that of the first anchor up to the session's newest.
    kept: VecDeque<Kept>,
    /// The session before some blocks, oldest first; never empty.
    anchors: VecDeque<Session>,
    log: Log,
}

impl Timeline {
    /// A session with no context.
    ///
    /// # Errors
    /// As [`Session::new`]; [`Error::Input`] for a label that the world does not have.
    pub fn new(world: &World, settings: Settings, label: i64) -> Result<Self> {
        check_label(world, label)?;
        let session = Session::new(world, settings)?;
        let stamp = Box::new(Stamp::of(world));
        let start = Entry::Start { version: log::VERSION, stamp, settings, label };
        let anchors = VecDeque::from([session.clone()]);
        let (paused, kept, log) = (false, VecDeque::new(), Log::from_iter([start]));
        Ok(Self { session, label, paused, kept, anchors, log })
    }

    /// A session that goes on from one of the world's prompts, as [`Session::prompted`].
    ///
    /// # Errors
    /// As [`Self::new`] and [`Session::prompted`].
    pub fn prompted(world: &World, settings: Settings, label: i64) -> Result<Self> {
        let mut timeline = Self::new(world, settings, label)?;
        if let Some(prompt) = world.prompt(settings.seed) {
            timeline.prime(world, &prompt, world.model.null_label())?;
        }
        Ok(timeline)
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to be stepped in a batch; [`Self::took`] must hear of every block.
    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Index of the next block.
    pub fn index(&self) -> u64 {
        self.session.index()
    }

    /// The label of the next block.
    pub fn label(&self) -> i64 {
        self.label
    }

    /// Whether blocks wait to be resumed. It changes no block: whoever steps the session heeds it.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Notes a pause or its end.
    pub fn set_paused(&mut self, paused: bool) {
        if paused != self.paused {
            self.paused = paused;
            let block = self.index();
            self.log.push(if paused { Entry::Pause { block } } else { Entry::Resume { block } });
        }
    }

    /// All that happened, oldest first.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The first block that can be gone back to.
    pub fn reach(&self) -> u64 {
        let first = &self.anchors[0];
        first.index() + u64::from(!first.window().is_cached())
    }

    /// The blocks that can be gone back to, oldest first.
    pub fn past(&self) -> impl Iterator<Item = Past> {
        let (first, reach) = (self.anchors[0].index(), self.reach());
        let blocks = (first..).zip(&self.kept).skip((reach - first) as usize);
        blocks.map(|(block, &Kept { label, injected, .. })| Past { block, label, injected })
    }

    /// Uses another label from the next block on.
    ///
    /// # Errors
    /// [`Error::Input`] for one that the world does not have.
    pub fn set_label(&mut self, world: &World, label: i64) -> Result<()> {
        check_label(world, label)?;
        if label != self.label {
            self.label = label;
            self.log.push(Entry::Label { block: self.index(), label });
        }
        Ok(())
    }

    /// Changes the noise of the blocks to come.
    pub fn set_seed(&mut self, seed: u64) {
        self.session.set_seed(seed);
        self.log.push(Entry::Seed { block: self.index(), seed });
    }

    /// Changes how the blocks to come are sampled.
    ///
    /// # Errors
    /// As [`Session::set_sampling`].
    pub fn set_sampling(&mut self, world: &World, sampling: Sampling) -> Result<()> {
        self.session.set_sampling(world, sampling)?;
        self.log.push(Entry::Sampling { block: self.index(), sampling });
        Ok(())
    }

    /// Appends one block, which begins with the latents `inject`, if any.
    ///
    /// # Errors
    /// As [`Session::step`]; nothing has changed then.
    pub fn step(&mut self, world: &World, inject: Option<Tensor>, row: Row) -> Result<Block> {
        let input = StepInput { label: self.label, inject };
        let block = self.session.step_at(world, &input, row)?;
        self.took(input.inject, &block);
        Ok(block)
    }

    /// Notes a block that the session has just committed.
    pub(crate) fn took(&mut self, inject: Option<Tensor>, block: &Block) {
        let Block { index, label, hash, row, injected, .. } = *block;
        if let Some(latents) = inject {
            self.log.push(Entry::Inject { block: index, latents: Latents::new(&latents) });
        }
        self.log.push(Entry::Block { block: index, hash, row });
        self.keep(label, row, injected);
    }

    fn keep(&mut self, label: i64, row: Row, injected: usize) {
        let newest = self.session.window().blocks().last().expect("a block was committed");
        let tokens = newest.shallow_clone();
        self.kept.push_back(Kept { tokens, label, settings: *self.session.settings(), row, injected });
        if self.index().is_multiple_of(ANCHOR_EVERY) {
            self.anchors.push_back(self.session.without_spare_cache());
        }
        while self.anchors.len() > 1 && (self.index() - self.anchors[1].index()) as usize >= KEPT {
            let gone = self.anchors[1].index() - self.anchors[0].index();
            self.kept.drain(..gone as usize);
            self.anchors.pop_front();
        }
    }

    /// Makes real frames the context, as [`Session::prime`].
    ///
    /// # Errors
    /// As [`Session::prime`].
    pub fn prime(&mut self, world: &World, latents: &Tensor, label: i64) -> Result<Vec<Block>> {
        let (own, mut primed) = (self.label, self.clone());
        let frames = world.model.config().block_shape()[0];
        primed.set_label_unchecked(label);
        let blocks = (self.session.clips(world, latents)?.into_iter())
            .map(|clip| primed.step(world, Some(clip), Row::ALONE))
            .collect::<Result<Vec<_>>>()?;
        debug_assert!(blocks.iter().all(|block| block.injected as i64 == frames));
        primed.set_label_unchecked(own);
        *self = primed;
        Ok(blocks)
    }

    /// Begins anew from nothing, or from the prompt that the seed picks.
    ///
    /// # Errors
    /// As [`Self::prompted`]; nothing has changed then.
    pub fn restart(&mut self, world: &World, seed: u64) -> Result<()> {
        let mut anew = self.clone();
        anew.forget(world, seed)?;
        if let Some(prompt) = world.prompt(seed) {
            anew.prime(world, &prompt, world.model.null_label())?;
        }
        *self = anew;
        Ok(())
    }

    /// Begins anew from the last blocks of a clip, which are returned.
    ///
    /// # Errors
    /// As [`Session::prime`]; nothing has changed then.
    pub fn restart_from(&mut self, world: &World, latents: &Tensor) -> Result<Vec<Block>> {
        let mut anew = self.clone();
        anew.forget(world, self.session.settings().seed)?;
        let blocks = anew.prime(world, latents, self.label)?;
        *self = anew;
        Ok(blocks)
    }

    fn forget(&mut self, world: &World, seed: u64) -> Result<()> {
        self.session = Session::new(world, Settings { seed, ..*self.session.settings() })?;
        self.kept.clear();
        self.anchors = VecDeque::from([self.session.clone()]);
        self.log.push(Entry::Restart { seed });
        Ok(())
    }

    /// Goes back to before block `block`, to the label, seed and sampling that it was made with: the same block again is
    /// the same bits.
    ///
    /// # Errors
    /// [`Error::Input`] for a block that is not kept any more or not made yet. Nothing has changed then.
    pub fn rewind(&mut self, world: &World, block: u64) -> Result<()> {
        self.go_back(world, block)?;
        self.log.push(Entry::Rewind { block });
        Ok(())
    }

    /// Another session that shares this one's past up to block `block`, and has its label, seed and sampling.
    ///
    /// # Errors
    /// As [`Self::rewind`].
    pub fn fork(&self, world: &World, block: u64) -> Result<Self> {
        let mut fork = self.clone();
        fork.go_back(world, block)?;
        fork.paused = false;
        fork.log.push(Entry::Fork { block });
        Ok(fork)
    }

    fn go_back(&mut self, world: &World, block: u64) -> Result<()> {
        let (first, next) = (self.reach(), self.index());
        if !(first..=next).contains(&block) {
            return Err(Error::Input(format!("block {block}: {first} to {next} can be gone back to")));
        }
        if block == next {
            return Ok(());
        }
        let usable = |anchor: &&Session| {
            anchor.index() < block || anchor.index() == block && anchor.window().is_cached()
        };
        let anchor = self.anchors.iter().rev().find(usable).expect("the reach begins at a usable anchor");
        let mut session = anchor.clone();
        let start = self.anchors[0].index();
        for kept in self.kept.range((session.index() - start) as usize..(block - start) as usize) {
            session.take_again(world, &kept.tokens, kept.row)?;
        }
        let kept = &self.kept[(block - start) as usize];
        session.set_settings(kept.settings);
        self.label = kept.label;
        self.session = session;
        self.kept.truncate((block - start) as usize);
        self.anchors.retain(|anchor| anchor.index() <= block);
        Ok(())
    }

    /// Latents (F, C, h, w) of the newest block, on the CPU, if the session still sees it.
    pub(crate) fn newest(&self, world: &World) -> Option<(Tensor, i64)> {
        let tokens = self.session.window().blocks().last()?;
        let latents = world.patcher.latents(tokens).to_device(tch::Device::Cpu).to_kind(tch::Kind::Float);
        let label = self.kept.back().map_or(self.label, |kept| kept.label);
        Some((latents.get(0).contiguous(), label))
    }

    fn set_label_unchecked(&mut self, label: i64) {
        if label != self.label {
            self.label = label;
            self.log.push(Entry::Label { block: self.index(), label });
        }
    }
}

fn check_label(world: &World, label: i64) -> Result<()> {
    let labels = world.model.config().num_classes;
    if (0..=labels).contains(&label) {
        return Ok(());
    }
    Err(Error::Input(format!("label {label}: expected 0 to {}", labels - 1)))
}

#[cfg(test)]
mod tests;
