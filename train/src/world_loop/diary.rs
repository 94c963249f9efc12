//! What a run tells while it goes on.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Progress, Recipe, Run};
use crate::Error;
use crate::log::Log;

/// A logged loss this many times the lowest one before it is no noise: the run has come apart.
const EXPLODED: f64 = 10.0;

#[derive(Serialize)]
struct Record {
    step: u64,
    loss: f64,
    gradient_norm: f64,
    rate: f64,
    seconds_per_step: f64,
    /// Of these, how many the step waited for its batch.
    data_wait: f64,
}

pub(super) struct Diary {
    /// The leading process's alone.
    log: Option<Log>,
    since: Instant,
}

impl Diary {
    pub(super) fn open(recipe: &Recipe, step: u64, run: &Run<'_>) -> Result<Self, Error> {
        let mut log = None;
        if run.group.leads() {
            std::fs::create_dir_all(run.out).map_err(|e| Error::io(run.out, e))?;
            log = Some(Log::open(&run.out.join("log.jsonl"), step, recipe.steps)?);
        }
        Ok(Self { log, since: Instant::now() })
    }

    /// Logs the steps since the last line, which waited for their batches as long as `waited`.
    ///
    /// # Errors
    /// [`Error::Diverged`] if they went so badly that no more should follow, and [`Error::Io`].
    pub(super) fn line(
        &mut self,
        progress: &mut Progress,
        gradient_norm: f64,
        rate: f64,
        waited: Duration,
    ) -> Result<(), Error> {
        let (step, steps) = (progress.step, progress.unlogged.len() as f64);
        let seconds_per_step = self.since.elapsed().as_secs_f64() / steps;
        let data_wait = waited.as_secs_f64() / steps;
        self.since = Instant::now();
        let (loss, lowest) = progress.log();
        if let Some(log) = &mut self.log {
            log.record(step, &Record { step, loss, gradient_norm, rate, seconds_per_step, data_wait })?;
            log.progress(step, format!("loss {loss:.4}"));
        }
        match lowest.filter(|lowest| loss > EXPLODED * lowest) {
            None => Ok(()),
            Some(lowest) => {
                let reason = format!("the loss is {loss:.3e}, at its lowest it was {lowest:.3e}");
                Err(Error::Diverged { step, reason, last_good: None })
            }
        }
    }
}
