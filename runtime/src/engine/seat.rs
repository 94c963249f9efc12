//! One stream's place in the engine: its session, its clock, and what is owed to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use acdit_codec::Frame;
use tch::Tensor;

use super::{EncodeFrames, StreamId};
use crate::batch::Stepped;
use crate::pipeline::{BLOCKS_IN_FLIGHT, Content, Demand, Job, Place, Route};
use crate::{
    Beginning, Block, Control, Error, Outcome, Pace, Producer, Refusal, Result, Session, Settings, State,
    StepInput, Timeline, Timings, World,
};

/// Steps of a stream that may fail one after the other; then it is paused.
const MAX_FAILURES: u32 = 3;

/// Single steps asked for and not yet made; more are refused as busy.
const MAX_STEPS: u32 = 64;

/// A clip's blocks with its own pixels.
type Pictured = VecDeque<(Block, Vec<Frame>)>;

/// What a stream begins with.
pub(crate) struct Opening {
    pub(crate) route: Route,
    pub(crate) beginning: Beginning,
    pub(crate) settings: Settings,
    pub(crate) label: i64,
    /// How long a block plays; zero for as fast as possible.
    pub(crate) block: Duration,
    pub(crate) demand: Arc<Demand>,
    pub(crate) states: Producer<State>,
}

pub(crate) struct Seat {
    route: Route,
    timeline: Timeline,
    pace: Pace,
    demand: Arc<Demand>,
    /// Single steps owed while paused.
    steps: u32,
    /// Latents for the first frames of the next block.
    inject: Option<Tensor>,
    /// A clip's own frames, shown before the blocks that continue it.
    opening: Pictured,
    /// Blocks in the pipeline.
    in_flight: usize,
    failures_in_a_row: u32,
    next_frame: u64,
    state: State,
    states: Producer<State>,
}

impl Seat {
    pub(super) fn open(world: &World, opening: Opening, now: Duration) -> Result<Self> {
        let Opening { route, beginning, settings, label, block, demand, states } = opening;
        let timeline = match beginning {
            Beginning::New => Timeline::prompted(world, settings, label)?,
            Beginning::Fork { of, block } => of.fork(world, block)?,
            Beginning::Saved(folder) => Timeline::restore(world, &folder)?,
        };
        let mut seat = Self {
            timeline,
            pace: Pace::new(block),
            demand,
            steps: 0,
            inject: None,
            opening: VecDeque::new(),
            in_flight: 0,
            failures_in_a_row: 0,
            next_frame: 0,
            state: State::default(),
            states,
            route,
        };
        seat.run_or_rest(now);
        seat.announce();
        Ok(seat)
    }

    pub(super) fn id(&self) -> StreamId {
        self.route.id
    }

    /// When the next block is due, if it is to be made at all.
    pub(super) fn due(&self) -> Option<Duration> {
        if self.in_flight >= BLOCKS_IN_FLIGHT || !self.opening.is_empty() {
            None
        } else if self.steps > 0 {
            Some(Duration::ZERO)
        } else {
            self.pace.due()
        }
    }

    /// Stops the clock while the stream is paused or nobody looks.
    pub(super) fn run_or_rest(&mut self, now: Duration) {
        if self.timeline.is_paused() || !self.demand.is_any() {
            self.pace.pause(now);
        } else {
            self.pace.resume(now);
        }
    }

    /// The session and what goes into its next block.
    pub(super) fn input(&mut self) -> (&mut Session, StepInput) {
        let inject = self.inject.as_ref().map(Tensor::shallow_clone);
        let label = self.timeline.label();
        (self.timeline.session_mut(), StepInput { label, inject })
    }

    /// The session with its past as it is now.
    pub(super) fn timeline(&self) -> Timeline {
        self.timeline.clone()
    }

    /// Takes the outcome of a step; a block goes on as a job.
    pub(super) fn scatter(&mut self, stepped: Stepped, now: Duration) -> Option<Job> {
        // Injected frames are for one block, and frames that cannot be sampled with would fail every time.
        let inject = self.inject.take();
        let job = match stepped {
            Ok((block, timings)) => {
                self.timeline.took(inject, &block);
                self.failures_in_a_row = 0;
                if self.steps > 0 {
                    self.steps -= 1;
                    self.pace.stepped(now);
                } else {
                    let Timings { decode, encode, .. } = self.state.timings;
                    let took = Timings { decode, encode, ..timings }.total();
                    self.pace.took(Duration::from_secs_f64(took));
                    self.pace.delivered(now);
                }
                self.state.underruns = self.pace.underruns();
                Some(self.job(&block, Content::Latents(block.latents.shallow_clone()), timings))
            }
            Err(error) => {
                self.lose(format!("generate: {error}"));
                self.failures_in_a_row += 1;
                if self.failures_in_a_row >= MAX_FAILURES {
                    self.timeline.set_paused(true);
                    self.steps = 0;
                }
                None
            }
        };
        self.announce();
        job
    }

    /// The next block of a clip's own frames, if one waits and there is room for it.
    pub(super) fn next_of_opening(&mut self, now: Duration) -> Option<Job> {
        if self.in_flight >= BLOCKS_IN_FLIGHT {
            return None;
        }
        let (block, frames) = self.opening.pop_front()?;
        self.pace.delivered(now);
        Some(self.job(&block, Content::Pixels(frames), Timings::default()))
    }

    /// A block has left the pipeline.
    pub(super) fn back(&mut self, result: std::result::Result<Option<Timings>, String>) {
        self.in_flight -= 1;
        match result {
            Ok(Some(timings)) => self.state.timings = timings,
            Ok(None) => return,
            Err(failure) => self.lose(failure),
        }
        self.announce();
    }

    /// Does what was asked, or nothing.
    pub(super) fn control(
        &mut self,
        world: &World,
        encode_frames: &mut EncodeFrames,
        control: Control,
        now: Duration,
    ) -> Outcome {
        let block = match control {
            Control::Label(label) => {
                self.timeline.set_label(world, label)?;
                self.timeline.index()
            }
            Control::Seed(seed) => {
                self.timeline.set_seed(seed);
                self.timeline.index()
            }
            Control::Rewind { block } => {
                self.timeline.rewind(world, block)?;
                self.begin(VecDeque::new());
                block
            }
            Control::Pause => {
                self.timeline.set_paused(true);
                self.steps = 0;
                self.timeline.index()
            }
            Control::Resume => {
                self.timeline.set_paused(false);
                self.steps = 0;
                self.failures_in_a_row = 0;
                self.timeline.index()
            }
            Control::Step => {
                if self.steps == MAX_STEPS {
                    return Err(Refusal::busy());
                }
                self.timeline.set_paused(true);
                self.steps += 1;
                self.timeline.index() + u64::from(self.steps) - 1
            }
            Control::Restart { seed } => {
                let seed = seed.unwrap_or(self.state.seed.wrapping_add(1));
                self.timeline.restart(world, seed)?;
                self.begin(VecDeque::new());
                self.timeline.index()
            }
            Control::Continue { frames } => {
                let opening = self.continued(world, encode_frames, frames)?;
                self.begin(opening);
                0
            }
            Control::Inject { frames } => {
                let most = world.model.config().frames_per_block as usize;
                if frames.len() > most {
                    return Err(Error::Input(format!("{} frames for a block of {most}", frames.len())).into());
                }
                self.inject = Some(encode_frames(&frames)?);
                self.timeline.index()
            }
            Control::Sampling(sampling) => {
                self.timeline.set_sampling(world, sampling)?;
                self.timeline.index()
            }
        };
        self.run_or_rest(now);
        self.announce();
        Ok(block)
    }

    /// Lets the session begin anew with the last blocks of a clip; returns them with the clip's own pixels.
    fn continued(
        &mut self,
        world: &World,
        encode_frames: &mut EncodeFrames,
        mut frames: Vec<Frame>,
    ) -> Result<Pictured> {
        let settings = *self.timeline.session().settings();
        let per_block = world.model.config().frames_per_block as usize;
        let whole = (frames.len() / per_block).min(settings.window);
        if whole == 0 {
            let got = frames.len();
            return Err(Error::Input(format!("a clip of {got} frames: at least {per_block} are needed")));
        }
        let frames = frames.split_off(frames.len() - whole * per_block);
        let blocks = self.timeline.restart_from(world, &encode_frames(&frames)?)?;
        let pictures = frames.chunks(per_block).map(<[Frame]>::to_vec);
        Ok(blocks.into_iter().zip(pictures).collect())
    }

    /// Opens a new generation. What is still in the pipeline is of the old one and will be dropped.
    fn begin(&mut self, opening: Pictured) {
        self.state.generation += 1;
        self.route.live.set(self.state.generation);
        self.opening = opening;
        self.inject = None;
        self.steps = 0;
        self.failures_in_a_row = 0;
        self.next_frame = 0;
        self.state.hash = None;
        self.pace.restart();
    }

    fn job(&mut self, block: &Block, content: Content, timings: Timings) -> Job {
        let place = Place {
            generation: self.state.generation,
            block: block.index,
            label: block.label,
            first_frame: self.next_frame,
            injected: block.injected,
        };
        self.next_frame += block.latents.size()[0] as u64;
        self.in_flight += 1;
        self.state.hash = Some(block.hash.to_hex().to_string());
        // The batch has ended just now.
        let begun = SystemTime::now() - Duration::from_secs_f64(timings.denoise + timings.context);
        Job { route: self.route.clone(), place, content, begun, timings }
    }

    fn lose(&mut self, failure: String) {
        tracing::warn!(stream = self.route.id, "a block is lost: {failure}");
        self.state.failures += 1;
        self.state.failure = Some(failure);
    }

    fn announce(&mut self) {
        let seed = self.timeline.session().settings().seed;
        (self.state.block, self.state.label, self.state.seed) =
            (self.timeline.index(), self.timeline.label(), seed);
        self.state.reach = self.timeline.reach();
        self.state.paused = self.timeline.is_paused();
        // Nobody may be reading, which is no reason to stop.
        let _ = self.states.push(self.state.clone());
    }
}
