//! How a session begins when somebody asks for one: anew, or with another one's past.

use std::sync::Arc;

use acdit_io::{Fork, Hub, Refusal, Wanted};
use acdit_runtime::{Beginning, Control, Timeline};

use super::House;
use crate::source::{StreamSource, check_steps};

/// A past that sessions share, once the first of them has it.
type Past = Option<(Fork, Timeline)>;

type Made = (Arc<StreamSource>, Hub);

impl House {
    /// Makes sessions, all or none. Those that leave another one at the same block get one and the same past, that of the first.
    pub(super) fn make_all(&self, wanted: &[(String, Wanted)]) -> anyhow::Result<Vec<Made>> {
        let Some(((id, first), others)) = wanted.split_first() else { return Ok(Vec::new()) };
        let mut past = None;
        let first = self.make(id, first, &mut past)?;
        // Side by side: each waits for the engine more than once, and the engine may be making a block.
        let others = std::thread::scope(|scope| {
            let begin = |(id, wanted): &'_ (String, Wanted)| {
                let (id, wanted, mut past) = (id.clone(), wanted.clone(), past.clone());
                scope.spawn(move || self.make(&id, &wanted, &mut past))
            };
            let threads: Vec<_> = others.iter().map(begin).collect();
            let made = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that made a session panicked")))
            });
            // Every thread is waited for, even if an earlier one has failed.
            made.collect::<Vec<_>>()
        });
        std::iter::once(Ok(first)).chain(others).collect()
    }

    fn make(&self, id: &str, wanted: &Wanted, past: &mut Past) -> anyhow::Result<Made> {
        check_steps(wanted.steps, &self.info).map_err(|message| refuse("bad_input", message))?;
        let made = match &wanted.fork {
            None => self.anew(id, wanted)?,
            Some(fork) => self.fork(id, wanted, fork, past)?,
        };
        if !wanted.ephemeral {
            self.note(id, wanted.private, wanted.unattended)?;
        }
        Ok(made)
    }

    fn anew(&self, id: &str, wanted: &Wanted) -> anyhow::Result<Made> {
        let mut config = self.config.clone();
        // The id is random, and a number of this size is the same in a browser.
        let seed = u64::from_str_radix(id, 16).unwrap_or_default() >> 32;
        config.settings.seed = wanted.seed.unwrap_or(seed);
        let sampling = &mut config.settings.sampling;
        sampling.steps = wanted.steps.map_or(sampling.steps, |steps| steps as usize);
        sampling.guidance = wanted.guidance.unwrap_or(sampling.guidance);
        config.label = wanted.label.map_or(config.label, i64::from);
        self.begin(id, &config, Beginning::New, !wanted.ephemeral)
    }

    fn fork(&self, id: &str, wanted: &Wanted, fork: &Fork, past: &mut Past) -> anyhow::Result<Made> {
        let beginning = match past {
            Some((same, past)) if same == fork => Beginning::Same(Box::new(past.clone())),
            _ => {
                let unknown = || refuse("no_session", "there is no such session".to_owned());
                let parent = self.find(&fork.session).ok_or_else(unknown)?;
                Beginning::Fork { of: Box::new(parent.handle.timeline()?), block: fork.block }
            }
        };
        let (source, hub) = self.begin(id, &self.config, beginning, !wanted.ephemeral)?;
        if past.as_ref().is_none_or(|(same, _)| same != fork) {
            // Nobody watches it yet: it is still as it was when it left the other one.
            *past = Some((fork.clone(), source.handle.timeline()?));
        }
        let (steps, guidance) = (wanted.steps.map(|steps| steps as usize), wanted.guidance);
        let changes = [
            wanted.label.map(|label| Control::Label(label.into())),
            wanted.seed.map(Control::Seed),
            (steps.is_some() || guidance.is_some()).then_some(Control::Sampling { steps, guidance }),
        ];
        for change in changes.into_iter().flatten() {
            source.handle.apply(change)?;
        }
        Ok((source, hub))
    }
}

fn refuse(code: &'static str, message: String) -> acdit_runtime::Refusal {
    acdit_runtime::Refusal { code, message }
}

/// What whoever asked is told.
pub(super) fn refusal(error: anyhow::Error) -> Refusal {
    let refusal = match error.downcast::<acdit_runtime::Refusal>() {
        Ok(refusal) => refusal,
        Err(error) => match error.downcast::<acdit_runtime::Error>() {
            Ok(acdit_runtime::Error::Full { .. }) => {
                refuse("full", "all sessions are taken: try again later".to_owned())
            }
            Ok(error) => error.into(),
            Err(error) => {
                tracing::error!("a session could not be made: {error:#}");
                refuse("failed", "the world could not do that".to_owned())
            }
        },
    };
    Refusal::new(refusal.code, refusal.message)
}
