//! A log computed again, from its first line to its last.

use tch::Tensor;

use super::{Entry, Stamp, Timeline, check_label, log};
use crate::batch::{Row, step_rows};
use crate::error::caught;
use crate::{Block, Error, Result, Session, StepInput, World};

/// A block of a log, computed again.
#[derive(Debug)]
pub struct Again<'a> {
    /// Its line in the log, from 1.
    pub line: usize,
    /// How often the log went back before it: see [`turns`](crate::turns).
    pub turn: u64,
    /// The block as it came out.
    pub block: &'a Block,
    /// Its index by the log.
    pub index: u64,
    /// Its hash by the log.
    pub expected: blake3::Hash,
}

impl Again<'_> {
    /// Whether it is the block of the log, to its last bit.
    ///
    /// # Errors
    /// [`Error::Replay`] if it is not.
    pub fn check(&self) -> Result<()> {
        let got = self.block.hash;
        if (self.block.index, got) == (self.index, self.expected) {
            return Ok(());
        }
        let text = |hash: blake3::Hash| hash.to_hex().to_string();
        Err(Error::Replay { block: self.index, expected: text(self.expected), got: text(got) })
    }
}

impl Timeline {
    /// Computes a log again to the same bits.
    ///
    /// # Errors
    /// [`Error::Replay`] for a block with another hash; [`Error::Input`] for a log that this process cannot compute to the
    /// same bits (another dtype, device or libtorch) or that contradicts itself, and whatever a step fails with.
    pub fn replay(world: &World, entries: &[Entry]) -> Result<Self> {
        let here = Stamp::of(world);
        if let Some(stamp) = entries.iter().filter_map(Entry::stamp).find(|stamp| **stamp != here) {
            return Err(Error::Input(format!("a log from {stamp:?}: this is {here:?}")));
        }
        Self::recompute(world, entries, |again| again.check())
    }

    /// Computes a log again on whatever is here, and shows every block to `each`.
    ///
    /// # Errors
    /// [`Error::Input`] for a log of another version or one that contradicts itself, whatever a step fails with, and what
    /// `each` returns.
    pub fn recompute<E: From<Error>>(
        world: &World,
        entries: &[Entry],
        mut each: impl FnMut(&Again) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        let Some((Entry::Start { version, settings, label, .. }, rest)) = entries.split_first() else {
            return Err(Error::Input("a log begins with a line of type start".to_owned()).into());
        };
        if *version != log::VERSION {
            let expected = log::VERSION;
            return Err(Error::Input(format!("a log of version {version}, expected {expected}")).into());
        }
        let mut follower = Follower::new(Self::new(world, *settings, *label)?, rest);
        while let Some(due) = follower.next_block(world)? {
            let (session, input, row) = follower.input(&due);
            let block = session.step_at(world, &input, row)?;
            each(&follower.took(&due, &block))?;
        }
        Ok(follower.timeline)
    }
}

/// A session that does again what a log tells.
pub(super) struct Follower<'a> {
    timeline: Timeline,
    /// What is left of the log.
    entries: std::slice::Iter<'a, Entry>,
    /// Lines of it that are done.
    line: usize,
    turn: u64,
    inject: Option<Tensor>,
}

/// A block that a log tells of.
pub(super) struct Due {
    index: u64,
    hash: blake3::Hash,
    row: Row,
}

impl<'a> Follower<'a> {
    /// `entries` are those that follow the line that led to `timeline`, the first of its log if nothing else.
    pub(super) fn new(timeline: Timeline, entries: &'a [Entry]) -> Self {
        Self { timeline, entries: entries.iter(), line: 1, turn: 0, inject: None }
    }

    /// Does all that comes before the next block, which is returned if there is one.
    fn next_block(&mut self, world: &World) -> Result<Option<Due>> {
        let timeline = &mut self.timeline;
        for entry in self.entries.by_ref() {
            self.line += 1;
            self.turn += u64::from(entry.turns());
            match entry {
                Entry::Start { .. } => return Err(Error::Input("a log with two starts".to_owned())),
                Entry::Label { label, .. } => {
                    check_label(world, *label)?;
                    timeline.set_label_unchecked(*label);
                }
                Entry::Seed { seed, .. } => timeline.set_seed(*seed),
                Entry::Sampling { sampling, .. } => timeline.set_sampling(world, *sampling)?,
                Entry::Inject { latents, .. } => self.inject = Some(latents.tensor()),
                Entry::Block { block: index, hash, row } => {
                    return Ok(Some(Due { index: *index, hash: *hash, row: *row }));
                }
                Entry::Rewind { block } => timeline.rewind(world, *block)?,
                Entry::Fork { block } => *timeline = timeline.fork(world, *block)?,
                Entry::Restart { seed } => timeline.forget(world, *seed)?,
                Entry::Moved { .. } => timeline.log.push(entry.clone()),
                Entry::Pause { .. } => timeline.set_paused(true),
                Entry::Resume { .. } => timeline.set_paused(false),
            }
        }
        Ok(None)
    }

    /// The session whose block is due, and what goes into it.
    fn input(&mut self, due: &Due) -> (&mut Session, StepInput, Row) {
        let inject = self.inject.as_ref().map(Tensor::shallow_clone);
        let label = self.timeline.label;
        (&mut self.timeline.session, StepInput { label, inject }, due.row)
    }

    /// Notes the block, which the session has committed.
    fn took<'b>(&mut self, due: &Due, block: &'b Block) -> Again<'b> {
        self.timeline.took(self.inject.take(), block);
        Again { line: self.line, turn: self.turn, block, index: due.index, expected: due.hash }
    }
}

/// Lets each follow its log to the end, to the same bits. Blocks of batches of one width are computed side by side, as they
/// were when they were made, as far as their rows are free.
pub(super) fn follow_all(world: &World, followers: Vec<Follower>) -> Vec<Result<Timeline>> {
    let mut ends: Vec<Option<Result<Timeline>>> = followers.iter().map(|_| None).collect();
    let mut going: Vec<(usize, Follower)> = followers.into_iter().enumerate().collect();
    let mut waiting: Vec<(usize, Follower, Due)> = Vec::new();
    loop {
        for (at, mut follower) in going.drain(..) {
            match caught(|| follower.next_block(world)) {
                Ok(Some(due)) => waiting.push((at, follower, due)),
                Ok(None) => ends[at] = Some(Ok(follower.timeline)),
                Err(error) => ends[at] = Some(Err(error)),
            }
        }
        if waiting.is_empty() {
            break;
        }
        let mut rows: Vec<Row> = Vec::new();
        let (mut together, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, _, due)| {
            let fits = rows.iter().all(|taken| taken.batch == due.row.batch && taken.slot != due.row.slot);
            rows.extend(fits.then_some(due.row));
            fits
        });
        waiting = later;
        let mut batch: Vec<_> = together.iter_mut().map(|(_, follower, due)| follower.input(due)).collect();
        let blocks = step_rows(world, &mut batch);
        for ((at, mut follower, due), block) in together.into_iter().zip(blocks) {
            match block.and_then(|(block, _)| follower.took(&due, &block).check()) {
                Ok(()) => going.push((at, follower)),
                Err(error) => ends[at] = Some(Err(error)),
            }
        }
    }
    ends.into_iter().map(|end| end.expect("nobody is going or waiting any more")).collect()
}
