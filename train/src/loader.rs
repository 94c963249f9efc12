//! Batches made ready by a thread of their own, so that no step waits for its data.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};

use crate::{Draws, Error, LatentBank, Windows};

/// Batches that wait for their step: with that many the thread pauses, so that memory stays bounded.
const READY: usize = 2;

/// Those of one step.
type Batch = Result<Windows, Error>;

/// The batches of successive steps.
#[derive(Debug)]
pub struct Loader {
    /// Gone only while it is dropped.
    ready: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

impl Loader {
    /// Begins with the batch of step `first`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system gives no thread.
    pub fn new(bank: &LatentBank, draws: Draws, first: u64) -> Result<Self, Error> {
        let bank = bank.clone();
        let (made, ready) = bounded(READY);
        let work = move || {
            for step in first.. {
                let batch = bank.batch(&draws, step);
                let last = batch.is_err();
                if made.send(batch).is_err() || last {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("loader".into()).spawn(work);
        let thread = thread.map_err(|e| Error::io("a thread that loads batches", e))?;
        Ok(Self { ready: Some(ready), thread: Some(thread), waited: Duration::ZERO })
    }

    /// The next step's batch.
    ///
    /// # Errors
    /// As [`LatentBank::batch`]; after that there are no more.
    pub fn next_batch(&mut self) -> Batch {
        let since = Instant::now();
        let ready = self.ready.as_ref().expect("it is gone only while self is dropped");
        let batch = ready.recv().unwrap_or_else(|_| Err(Error::Dataset("no more batches are loaded".into())));
        self.waited += since.elapsed();
        batch
    }

    /// How long steps have waited for their batches since this was last asked.
    pub fn take_wait(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Drop for Loader {
    /// Waits for the thread, which must not use libtorch while the process ends.
    fn drop(&mut self) {
        drop(self.ready.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::tests::counting;

    #[test]
    fn batches_come_in_order_from_any_step_on() {
        let (bank, draws) = (counting(&[30, 20]), Draws::new(5, 4, 3));
        for first in [0, 7] {
            let mut loader = Loader::new(&bank, draws, first).unwrap();
            for step in first..first + 9 {
                assert_eq!(loader.next_batch().unwrap(), bank.batch(&draws, step).unwrap(), "step {step}");
            }
            assert!(loader.take_wait() > Duration::ZERO && loader.take_wait() == Duration::ZERO);
        }
    }

    #[test]
    fn what_cannot_be_loaded_is_said_once_and_ends_it() {
        let mut loader = Loader::new(&counting(&[2]), Draws::new(0, 4, 3), 0).unwrap();
        assert!(loader.next_batch().unwrap_err().to_string().contains("has 3 blocks"));
        assert!(loader.next_batch().unwrap_err().to_string().contains("no more batches"));
    }
}
