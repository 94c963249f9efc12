//! The engine thread: it owns the weights and every session, and is the only one that runs the network.
//!
//! Its loop reads: receive what was asked, gather the streams whose next block is due, step them as one batch, scatter
//! the blocks. When nothing is due it sleeps in a receive, until the next deadline or for ever. It never waits for a
//! stage behind it: a stream has at most [`BLOCKS_IN_FLIGHT`] blocks out, and one that is back makes room for one more.

mod seat;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use acdit_codec::Frame;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use tch::Tensor;

pub(crate) use self::seat::{Opening, Seat};
use crate::batch::Stepped;
use crate::error::caught;
use crate::pipeline::{self, BLOCKS_IN_FLIGHT, Job};
use crate::{Control, Cut, Error, Outcome, Refusal, Result, Session, StepInput, Timeline, World};

/// Names a stream for as long as its engine runs; never used twice.
pub(crate) type StreamId = u64;

/// Streams at a time. One more is refused; the bound sizes the queue to the decode thread.
pub const MAX_STREAMS: usize = 16;

/// Sessions stepped in one batch unless told otherwise; more that are due together are stepped after them.
pub const MAX_BATCH: usize = 16;

/// Events that wait for the engine. A control that finds the queue full is refused as busy; the stages' reports wait.
pub(crate) const EVENTS: usize = 64;

/// Blocks to the decode thread that can wait: all that streams can have in flight, so that the engine never waits.
pub(crate) const JOBS: usize = MAX_STREAMS * BLOCKS_IN_FLIGHT;

/// [`step_batch`](crate::batch::step_batch), or a test's version of it.
pub(crate) type StepBatch = Box<dyn FnMut(&World, &mut [(&mut Session, StepInput)]) -> Vec<Stepped> + Send>;

/// Frames to latents (F, C, h, w) f32 on the CPU.
pub(crate) type EncodeFrames = Box<dyn FnMut(&[Frame]) -> Result<Tensor> + Send>;

/// Answers a control, from the engine thread.
pub(crate) type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// What wakes the engine.
pub(crate) enum Event {
    /// A stream begins.
    Open { stream: Opening, reply: Sender<Result<()>> },
    /// Somebody wants what was saved in these folders.
    Restore { folders: Vec<PathBuf>, reply: Sender<Vec<Result<Timeline>>> },
    /// A stream's handle is gone.
    Close { stream: StreamId },
    /// Something is asked of a stream.
    Control { stream: StreamId, control: Control, reply: Reply },
    /// A stream's next block shall begin with a keyframe.
    Cut { stream: StreamId, reply: Sender<Cut> },
    /// Somebody wants a stream's session with its past.
    Timeline { stream: StreamId, reply: Sender<Timeline> },
    /// A stream's [`Demand`](crate::pipeline::Demand) changed.
    Demand,
    /// A block left the pipeline: published with these timings, dropped as stale, or lost.
    Done { stream: StreamId, result: pipeline::Outcome },
    /// The engine's last handle is gone.
    Shutdown,
}

/// The engine thread's state.
pub(crate) struct Worker {
    pub(crate) world: World,
    pub(crate) step_batch: StepBatch,
    pub(crate) encode_frames: EncodeFrames,
    pub(crate) events: Receiver<Event>,
    pub(crate) jobs: Sender<Job>,
    /// Zero of all playback clocks.
    pub(crate) origin: Instant,
    pub(crate) seats: BTreeMap<StreamId, Seat>,
}

impl Worker {
    /// Runs until [`Event::Shutdown`].
    pub(crate) fn run(mut self) {
        while self.receive() {
            self.show_openings();
            self.step_due();
        }
    }

    /// Takes in everything that was asked, after waiting for something to do. `false` is the end.
    fn receive(&mut self) -> bool {
        let now = self.origin.elapsed();
        let beat = self.has_beat();
        let first = match self.seats.values().filter_map(|seat| seat.due(beat)).min() {
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => self.events.recv_timeout(due.saturating_sub(now)),
        };
        match first {
            Ok(event) => {
                if !self.handle(event) {
                    return false;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        // Those that are there now: whoever keeps asking must not keep blocks from being made.
        for _ in 0..self.events.len() {
            let Ok(event) = self.events.try_recv() else { break };
            if !self.handle(event) {
                return false;
            }
        }
        let now = self.origin.elapsed();
        for seat in self.seats.values_mut() {
            seat.run_or_rest(now);
            seat.answer_pauses();
        }
        true
    }

    fn handle(&mut self, event: Event) -> bool {
        let now = self.origin.elapsed();
        match event {
            Event::Shutdown => return false,
            Event::Open { stream, reply } => {
                // The opener waits for the answer; should it be gone, its Close follows.
                let _ = reply.send(self.open(stream, now));
            }
            Event::Restore { folders, reply } => {
                // Whoever asked may have left.
                let _ = reply.send(Timeline::restore_all(&self.world, &folders));
            }
            Event::Close { stream } => {
                self.seats.remove(&stream);
            }
            Event::Control { stream, control, reply } => {
                let Some(seat) = self.seats.get_mut(&stream) else {
                    reply(Err(Refusal::stopped()));
                    return true;
                };
                let pauses = matches!(control, Control::Pause);
                match caught(|| seat.control(&self.world, &mut self.encode_frames, control, now)) {
                    Ok(block) if pauses => seat.pausing(block, reply),
                    outcome => reply(outcome),
                }
            }
            Event::Timeline { stream, reply } => {
                if let Some(seat) = self.seats.get(&stream) {
                    // Whoever asked may have left.
                    let _ = reply.send(seat.timeline());
                }
            }
            Event::Cut { stream, reply } => {
                if let Some(seat) = self.seats.get_mut(&stream) {
                    // Whoever asked may have left.
                    let _ = reply.send(seat.cut());
                }
            }
            // Read by every stream before it is gathered.
            Event::Demand => {}
            Event::Done { stream, result } => {
                if let Some(seat) = self.seats.get_mut(&stream) {
                    seat.back(result);
                }
            }
        }
        true
    }

    fn open(&mut self, opening: Opening, now: Duration) -> Result<()> {
        if self.seats.len() >= MAX_STREAMS {
            return Err(Error::Full { streams: MAX_STREAMS });
        }
        let seat = caught(|| Seat::open(&self.world, opening, now))?;
        self.seats.insert(seat.id(), seat);
        Ok(())
    }

    /// Sends on what there is to show without a step, such as a clip to be continued, where there is room.
    fn show_openings(&mut self) {
        let now = self.origin.elapsed();
        for seat in self.seats.values_mut() {
            let mut next = || caught(|| Ok::<_, Error>(seat.next_to_show(&self.world, now)));
            loop {
                match next() {
                    Ok(Some(job)) => send(&self.jobs, job),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!("a picture before a block is not shown: {error}");
                        break;
                    }
                }
            }
        }
    }

    /// Whether any stream has a beat that others can fall in with.
    fn has_beat(&self) -> bool {
        self.seats.values().any(|seat| seat.beat().is_some())
    }

    /// Gather, step, scatter. Once a stream is due, those that nearly are go with it, and those that wait for a beat.
    fn step_due(&mut self) {
        let (now, beat) = (self.origin.elapsed(), self.has_beat());
        if !self.seats.values().any(|seat| seat.due(beat).is_some_and(|due| due <= now)) {
            return;
        }
        let (gathered, mut batch): (Vec<StreamId>, Vec<(&mut Session, StepInput)>) =
            (self.seats.values_mut())
                .filter(|seat| seat.is_ready(now))
                .map(|seat| (seat.id(), seat.input()))
                .unzip();
        let results = (self.step_batch)(&self.world, &mut batch);
        let now = self.origin.elapsed();
        // Those that have a beat come first: the others take it up as it is after this block.
        let (waiting, keeping): (Vec<_>, Vec<_>) =
            gathered.into_iter().zip(results).partition(|(id, _)| self.seats[id].waits_for_a_beat());
        let mut leader = None;
        for (id, result) in keeping.into_iter().chain(waiting) {
            let seat = self.seats.get_mut(&id).expect("seats change only between batches");
            let job = seat.scatter(result, now, leader.as_ref());
            leader = leader.or_else(|| seat.beat().cloned());
            if let Some(job) = job {
                send(&self.jobs, job);
            }
        }
    }
}

/// The queue has room for all that streams may have in flight, so this does not wait.
fn send(jobs: &Sender<Job>, job: Job) {
    if jobs.send(job).is_err() {
        tracing::error!("the decode thread is gone: a block is lost");
    }
}
