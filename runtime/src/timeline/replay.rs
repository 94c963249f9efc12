//! A log computed again, from its first line to its last.

use super::{Entry, Stamp, Timeline, check_label, log};
use crate::{Block, Error, Result, World};

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
        let mut timeline = Self::new(world, *settings, *label)?;
        timeline.follow(world, rest, &mut each)?;
        Ok(timeline)
    }

    /// Does again what a log has after its first line.
    pub(super) fn follow<E: From<Error>>(
        &mut self,
        world: &World,
        entries: &[Entry],
        each: &mut impl FnMut(&Again) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (mut inject, mut turn) = (None, 0);
        for (entry, line) in entries.iter().zip(2..) {
            turn += u64::from(entry.turns());
            match entry {
                Entry::Start { .. } => return Err(Error::Input("a log with two starts".to_owned()).into()),
                Entry::Label { label, .. } => {
                    check_label(world, *label)?;
                    self.set_label_unchecked(*label);
                }
                Entry::Seed { seed, .. } => self.set_seed(*seed),
                Entry::Sampling { sampling, .. } => self.set_sampling(world, *sampling)?,
                Entry::Inject { latents, .. } => inject = Some(latents.tensor()),
                Entry::Block { block: index, hash, row } => {
                    let block = self.step(world, inject.take(), *row)?;
                    each(&Again { line, turn, block: &block, index: *index, expected: *hash })?;
                }
                Entry::Rewind { block } => self.rewind(world, *block)?,
                Entry::Fork { block } => *self = self.fork(world, *block)?,
                Entry::Restart { seed } => self.forget(world, *seed)?,
                Entry::Moved { .. } => self.log.push(entry.clone()),
                Entry::Pause { .. } => self.set_paused(true),
                Entry::Resume { .. } => self.set_paused(false),
            }
        }
        Ok(())
    }
}
