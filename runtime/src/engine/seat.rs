//! One stream's place in the engine: its session, its clock, and what is owed to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use acdit_codec::Frame;
use tch::Tensor;

use super::{EncodeFrames, Reply, StreamId};
use crate::batch::Stepped;
use crate::pipeline::{self, BLOCKS_IN_FLIGHT, Content, Demand, Job, Place, Route};
use crate::{
    Beginning, Block, Control, Cut, Error, Failure, Moments, Outcome, Pace, Producer, Refusal, Result,
    Sampling, Session, Settings, Stage, State, StepInput, Timeline, Timings, World, turns,
};

/// Blocks of a stream that may fail in one stage one after the other; then it is paused.
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
    /// The picture before the next block is to be shown: that block may be long in coming.
    still: bool,
    /// The next block to be shown begins with a keyframe.
    cut: bool,
    /// It left another session, or was saved beside others, and has shown nothing yet: it falls in with a stream that plays, so
    /// that both can be made in one batch for as long as they go on.
    falls_in: bool,
    /// Blocks in the pipeline.
    in_flight: usize,
    /// Answers to pauses, each with the next block, that wait until nothing moves any more.
    pausing: Vec<(u64, Reply)>,
    /// Blocks lost in each [`Stage`] since the last that came through it.
    lost: [u32; 3],
    next_frame: u64,
    state: State,
    states: Producer<State>,
}

impl Seat {
    pub(super) fn open(world: &World, opening: Opening, now: Duration) -> Result<Self> {
        let Opening { route, beginning, settings, label, block, demand, states } = opening;
        let falls_in = matches!(beginning, Beginning::Fork { .. } | Beginning::Same(_));
        let timeline = match beginning {
            Beginning::New => Timeline::prompted(world, settings, label)?,
            Beginning::Fork { of, block } => of.fork(world, block)?,
            Beginning::Same(timeline) => *timeline,
        };
        let mut seat = Self {
            timeline,
            pace: Pace::new(block),
            demand,
            steps: 0,
            inject: None,
            opening: VecDeque::new(),
            still: false,
            cut: false,
            falls_in,
            in_flight: 0,
            pausing: Vec::new(),
            lost: [0; 3],
            next_frame: 0,
            state: State::default(),
            states,
            route,
        };
        seat.still = seat.timeline.is_paused();
        seat.run_or_rest(now);
        seat.announce();
        Ok(seat)
    }

    pub(super) fn id(&self) -> StreamId {
        self.route.id
    }

    /// When the next block is due, if it is to be made at all; whether any stream has a `beat` to wait for.
    pub(super) fn due(&self, beat: bool) -> Option<Duration> {
        if !self.has_room() {
            None
        } else if self.steps > 0 {
            Some(Duration::ZERO)
        } else if beat && self.falls_in {
            None
        } else {
            self.pace.due()
        }
    }

    /// Whether the next block can be made now, should others be.
    pub(super) fn is_ready(&self, now: Duration) -> bool {
        self.has_room() && (self.steps > 0 || self.pace.is_ready(now))
    }

    fn has_room(&self) -> bool {
        self.in_flight < BLOCKS_IN_FLIGHT && self.opening.is_empty()
    }

    /// The clock that others can fall in with.
    pub(super) fn beat(&self) -> Option<&Pace> {
        (self.pace.has_beat() && !self.falls_in).then_some(&self.pace)
    }

    pub(super) fn waits_for_a_beat(&self) -> bool {
        self.falls_in
    }

    /// Lets the next block to be shown begin with a keyframe.
    pub(super) fn cut(&mut self) -> Cut {
        self.cut = true;
        let block = self.opening.front().map_or(self.timeline.index(), |(block, _)| block.index);
        Cut { generation: self.state.generation, block, turn: turns(self.timeline.log().iter()) }
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

    /// Takes the outcome of a step; a block goes on as a job. `leader` is the clock of a stream of the same batch.
    pub(super) fn scatter(&mut self, stepped: Stepped, now: Duration, leader: Option<&Pace>) -> Option<Job> {
        let inject = self.inject.take();
        let job = match stepped {
            Ok((block, timings)) => {
                self.timeline.took(inject, &block);
                self.lost[Stage::Denoise as usize] = 0;
                if self.steps > 0 {
                    self.steps -= 1;
                    self.pace.stepped(now);
                } else {
                    let Timings { decode, encode, .. } = self.state.timings;
                    let took = Timings { decode, encode, ..timings }.total();
                    self.pace.took(Duration::from_secs_f64(took));
                    match leader {
                        Some(leader) if self.falls_in => self.pace.fall_in(leader),
                        _ => self.pace.delivered(now),
                    }
                }
                self.falls_in = false;
                self.state.underruns = self.pace.underruns();
                Some(self.job(&block, Content::Latents(block.latents.shallow_clone()), timings))
            }
            Err(error) => {
                // Frames that cannot be sampled with would fail every time; what else fails may pass, and they were promised.
                let to_blame = matches!(error, Error::Diverged { .. } | Error::Input(_));
                self.lose(Stage::Denoise.failed(&error));
                self.inject = inject.filter(|_| !to_blame && self.state.gave_up.is_none());
                None
            }
        };
        self.announce();
        job
    }

    /// What is to be shown without a step, if anything is and there is room for it: the next block of a clip's own frames, or
    /// the picture before the next block.
    pub(super) fn next_to_show(&mut self, world: &World, now: Duration) -> Option<Job> {
        // A clip that nobody sees yet waits: whoever has sent it is still on the way to the session that it began.
        let unseen = !self.opening.is_empty() && !self.demand.is_any();
        if self.in_flight >= BLOCKS_IN_FLIGHT || unseen {
            return None;
        }
        let Some((block, frames)) = self.opening.pop_front() else {
            return std::mem::take(&mut self.still).then(|| self.last_picture(world)).flatten();
        };
        self.pace.delivered(now);
        Some(self.job(&block, Content::Pixels(frames), Timings::default()))
    }

    /// The last frame before the next block, if there is one. The block then begins with a keyframe, so that it does not
    /// depend on this picture.
    fn last_picture(&mut self, world: &World) -> Option<Job> {
        let (latents, label) = self.timeline.newest(world)?;
        let frames = latents.size()[0];
        let place = Place {
            generation: self.state.generation,
            block: self.timeline.index() - 1,
            label,
            first_frame: self.next_frame,
            injected: 0,
            keyframe: true,
        };
        let content = Content::Latents(latents.narrow(0, frames - 1, 1));
        self.cut = true;
        self.next_frame += 1;
        self.in_flight += 1;
        let begun = SystemTime::now();
        Some(Job { route: self.route.clone(), place, content, begun, timings: self.state.timings })
    }

    /// A block has left the pipeline.
    pub(super) fn back(&mut self, result: pipeline::Outcome) {
        self.in_flight -= 1;
        match result {
            Ok(Some(timings)) => {
                self.lost[Stage::Decode as usize] = 0;
                self.lost[Stage::Encode as usize] = 0;
                self.state.timings = timings;
            }
            Ok(None) => return,
            Err(failure) => self.lose(failure),
        }
        self.announce();
    }

    /// Answers a pause when nothing moves any more: what was under way is still shown.
    pub(super) fn pausing(&mut self, block: u64, reply: Reply) {
        self.pausing.push((block, reply));
    }

    /// Answers the pauses that are in effect, or over.
    pub(super) fn answer_pauses(&mut self) {
        let to_show = self.in_flight > 0 || !self.opening.is_empty() && self.demand.is_any();
        if to_show && self.timeline.is_paused() {
            return;
        }
        for (block, reply) in self.pausing.drain(..) {
            reply(Ok(block));
        }
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
                self.try_again();
                self.timeline.index()
            }
            Control::Step => {
                if self.steps == MAX_STEPS {
                    return Err(Refusal::busy());
                }
                self.timeline.set_paused(true);
                self.try_again();
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
            Control::Sampling { steps, guidance } => {
                let before = self.timeline.session().settings().sampling;
                let sampling = Sampling {
                    steps: steps.unwrap_or(before.steps),
                    guidance: guidance.unwrap_or(before.guidance),
                    ..before
                };
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
        self.still = self.timeline.is_paused() && self.opening.is_empty();
        self.falls_in = false;
        self.steps = 0;
        self.try_again();
        self.next_frame = 0;
        (self.state.hash, self.state.latents) = (None, None);
        self.pace.restart();
    }

    fn job(&mut self, block: &Block, content: Content, timings: Timings) -> Job {
        let place = Place {
            generation: self.state.generation,
            block: block.index,
            label: block.label,
            first_frame: self.next_frame,
            injected: block.injected,
            keyframe: std::mem::take(&mut self.cut),
        };
        self.state.hash = Some(block.hash.to_hex().to_string());
        self.state.latents = Some(Moments::of(&block.latents));
        self.next_frame += block.latents.size()[0] as u64;
        self.in_flight += 1;
        // The batch has ended just now.
        let begun = SystemTime::now() - Duration::from_secs_f64(timings.denoise + timings.context);
        Job { route: self.route.clone(), place, content, begun, timings }
    }

    /// Notes that a block is lost.
    fn lose(&mut self, failure: Failure) {
        tracing::warn!(stream = self.route.id, "a block is lost: {failure}");
        let in_a_row = &mut self.lost[failure.stage as usize];
        *in_a_row += 1;
        if *in_a_row >= MAX_FAILURES {
            self.timeline.set_paused(true);
            self.steps = 0;
            self.state.gave_up.get_or_insert(failure.stage);
        }
        self.state.failures += 1;
        self.state.failure = Some(failure);
    }

    /// Forgets what failed so far.
    fn try_again(&mut self) {
        self.lost = [0; 3];
        self.state.gave_up = None;
    }

    fn announce(&mut self) {
        let Settings { seed, sampling, .. } = *self.timeline.session().settings();
        (self.state.seed, self.state.sampling) = (seed, sampling);
        (self.state.block, self.state.label) = (self.timeline.index(), self.timeline.label());
        self.state.reach = self.timeline.reach();
        self.state.paused = self.timeline.is_paused();
        // Nobody may be reading, which is no reason to stop.
        let _ = self.states.push(self.state.clone());
    }
}
