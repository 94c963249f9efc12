//! Clips that a network makes, each block beside what it should have been: dataset aggregation (DAgger; Ross, Gordon and
//! Bagnell 2011, arXiv 1011.0686).
//!
//! A stream's context is the network's own work, and strays from any clip. A network that is only ever asked how the *clip*
//! goes on, whatever context it is shown ([`crate::world_loop::Recipe::self_context`]), learns to keep balls but no longer to
//! go on from where they are. Here the simulator is the expert: it looks at what the network has shown, says what
//! the rules make of that, and that is what the next block is to learn.

use acdit_codec::vae::Vae;
use acdit_codec::{Frame, Size, color};
use acdit_runtime::{Session, Settings, StepInput, World, step_batch};
use tch::{Device, Tensor};

use crate::bank::{Clip, Latents, Numbers};
use crate::checkpoint::bytes;
use crate::description::Streams;
use crate::gravity::tracker::Tracker;
use crate::gravity::{self, State};
use crate::{Error, Interrupt, LatentBank, Start, seeds};

/// Streams that are made as one batch.
const TOGETHER: usize = 16;

/// Streams of `gravity` for a bank, and who makes them.
#[derive(Debug)]
pub struct Dagger<'a> {
    /// The weights that training goes on from.
    pub start: &'a Start,
    /// They themselves.
    pub world: &'a World,
    /// Their VAE.
    pub vae: &'a Vae,
    /// How many streams.
    pub count: usize,
    /// Blocks of each, those of the simulator that it begins with among them.
    pub blocks: usize,
    /// Size of a frame.
    pub size: Size,
    /// Of all that is random.
    pub seed: u64,
}

/// A stream that is being made.
struct Stream {
    simulator: gravity::World,
    tracker: Tracker,
    session: Session,
    labels: Vec<i64>,
    /// Latents of what it shows and of what it should show.
    made: Vec<u8>,
    lesson: Vec<u8>,
}

impl Dagger<'_> {
    /// Adds the streams to `bank`; `progress` is told how many blocks are done of `count` × `blocks`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if asked to end; [`Error::Runtime`] for a step that failed; [`Error::Codec`] for frames that do
    /// not fit the VAE.
    pub fn add_to(
        &self,
        bank: &LatentBank,
        interrupt: &Interrupt,
        mut progress: impl FnMut(usize),
    ) -> Result<LatentBank, Error> {
        let (mut clips, mut done) = (Vec::with_capacity(self.count), 0);
        let numbers: Vec<u64> = (0..self.count as u64).collect();
        for numbers in numbers.chunks(TOGETHER) {
            let mut streams: Vec<Stream> =
                numbers.iter().map(|&number| self.begin(number)).collect::<Result<_, _>>()?;
            let begun = streams.first().map_or(0, |stream| stream.labels.len());
            for _ in begun..self.blocks {
                interrupt.check()?;
                self.step(&mut streams)?;
                done += streams.len();
                progress(done);
            }
            clips.extend(streams.into_iter().map(|stream| stream.clip(self.world)));
        }
        Ok(bank.with(Streams { count: self.count, weights: self.start.fingerprint.clone() }, clips))
    }

    /// A stream that has seen a window of the simulator's frames.
    fn begin(&self, number: u64) -> Result<Stream, Error> {
        let seed = seeds::streamed(self.seed, number);
        let settings = Settings::of(self.world, seed);
        let mut simulator = gravity::World::new(seed);
        let labels: Vec<usize> =
            (0..settings.window.min(self.blocks)).map(|_| simulator.next_label()).collect();
        let states: Vec<State> = labels.iter().flat_map(|&label| simulator.block(label)).collect();
        let latents = self.encode(&self.paint(states)?)?;
        let mut session = Session::new(self.world, settings)?;
        session.prime(self.world, &latents, self.world.model.null_label())?;
        let tracker = Tracker::new(*simulator.state(), seed);
        let made = bytes(&latents)?;
        let labels = labels.into_iter().map(|label| label as i64).collect();
        Ok(Stream { simulator, tracker, session, labels, lesson: made.clone(), made })
    }

    /// The next block of each.
    fn step(&self, streams: &mut [Stream]) -> Result<(), Error> {
        let labels: Vec<usize> = streams.iter_mut().map(|stream| stream.simulator.next_label()).collect();
        let expected =
            streams.iter().zip(&labels).flat_map(|(stream, &label)| stream.tracker.expected(label));
        let lessons = self.encode(&self.paint(expected)?)?;
        let input = |label: usize| StepInput { label: label as i64, inject: None };
        let mut due: Vec<_> = (streams.iter_mut().zip(&labels))
            .map(|(stream, &label)| (&mut stream.session, input(label)))
            .collect();
        let blocks = step_batch(self.world, &mut due, TOGETHER)
            .into_iter()
            .map(|stepped| Ok(stepped?.0.latents))
            .collect::<Result<Vec<Tensor>, Error>>()?;
        let shown = self.vae.decoder.decode(&Tensor::cat(&blocks, 0).to_device(self.world.model.device()))?;
        let frames = color::to_frames(&shown)?;
        let per_block = frames.len() / streams.len();
        let lessons = lessons.chunk(streams.len() as i64, 0);
        for (index, (stream, frames)) in streams.iter_mut().zip(frames.chunks(per_block)).enumerate() {
            stream.tracker.see(frames, labels[index]);
            stream.labels.push(labels[index] as i64);
            stream.made.extend(bytes(&blocks[index])?);
            stream.lesson.extend(bytes(&lessons[index])?);
        }
        Ok(())
    }

    fn paint(&self, states: impl IntoIterator<Item = State>) -> Result<Vec<Frame>, Error> {
        Ok(states.into_iter().map(|state| gravity::render(&state, self.size)).collect::<Result<_, _>>()?)
    }

    /// Latents (frames, C, h, w) f32 on the CPU.
    fn encode(&self, frames: &[Frame]) -> Result<Tensor, Error> {
        let pixels = color::to_tensor(frames, self.world.model.device())?;
        Ok(self.vae.encoder.encode_distribution(&pixels)?.mean.to_device(Device::Cpu))
    }
}

impl Stream {
    fn clip(self, world: &World) -> Clip {
        let block = world.model.config().block_shape().map(|length| length as usize);
        let latents = Latents { mean: Numbers::Owned(self.lesson), std: None };
        Clip { labels: self.labels, block, latents, mirrored: None, made: Some(Numbers::Owned(self.made)) }
    }
}
