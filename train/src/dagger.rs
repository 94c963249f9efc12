//! Clips that a network makes, each block beside what it should have been: dataset aggregation (DAgger; Ross, Gordon and
//! Bagnell 2011, arXiv 1011.0686).
//!
//! A stream's context is the network's own work, and strays from any clip. A network that is only ever asked how the *clip*
//! goes on, whatever context it is shown ([`crate::world_loop::Recipe::self_context`]), learns to keep balls but no longer to
//! go on from where they are. Here the simulator is the expert: it looks at what the network has shown, says what
//! the rules make of that, and that is what the next block is to learn.

use std::path::Path;

use acdit_codec::vae::Vae;
use acdit_codec::{Frame, Size, color};
use acdit_runtime::{Session, Settings, StepInput, World, step_batch};
use tch::{Device, Kind, Tensor};

use crate::bank::{Clip, Latents, Numbers};
use crate::checkpoint::bytes;
use crate::dataset::{BankSize, Dataset, Source};
use crate::description::Streams;
use crate::gravity::tracker::Tracker;
use crate::gravity::{self, State};
use crate::procedural::Procedural;
use crate::{Error, Interrupt, LatentBank, Start, seeds};

/// Streams that are made as one batch.
const TOGETHER: usize = 16;

/// A network that streams, and what its streams begin with.
#[derive(Debug)]
pub struct Dagger {
    world: World,
    vae: Vae,
    frame: Size,
    seed: u64,
    blocks: usize,
    streams: Streams,
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

impl Dagger {
    /// The network of `start`, which computes in `kind`, with the VAE in the folder `vae`. `size.clips` streams of `size.blocks`
    /// blocks each, those of the simulator that a stream begins with among them.
    ///
    /// # Errors
    /// [`Error::Options`] for another world than `gravity`, and for labels that the network does not know; [`Error::Runtime`] and
    /// [`Error::Codec`] for files that are missing or damaged.
    pub fn load(
        start: &Start,
        vae: &Path,
        dataset: &Dataset,
        size: BankSize,
        (device, kind): (Device, Kind),
    ) -> Result<Self, Error> {
        if !matches!(dataset.source, Source::Procedural(Procedural::Gravity)) {
            let why = "only of gravity do frames tell where everything is";
            return Err(Error::Options(format!("a network's streams cannot be corrected: {why}")));
        }
        dataset.check(size)?;
        if !start.knows_labels() {
            let text = "weights with other labels than the clips cannot stream under these";
            return Err(Error::Options(text.into()));
        }
        let world = World::load(&start.folder, device, kind)?;
        // as clips are encoded: a lesson's precision is what is learnt
        let vae = Vae::load(vae, device, Kind::Float)?;
        let streams = Streams { count: size.clips, weights: start.fingerprint.clone() };
        Ok(Self { world, vae, frame: dataset.size, seed: dataset.seed, blocks: size.blocks, streams })
    }

    /// Adds the streams to `bank`; `progress` is told how many of their blocks are done.
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
        let (mut clips, mut done) = (Vec::new(), 0);
        for first in (0..self.streams.count).step_by(TOGETHER) {
            let numbers = first..self.streams.count.min(first + TOGETHER);
            let mut streams: Vec<Stream> =
                numbers.map(|number| self.begin(number as u64)).collect::<Result<_, _>>()?;
            let begun = streams.first().map_or(0, |stream| stream.labels.len());
            for _ in begun..self.blocks {
                interrupt.check()?;
                self.step(&mut streams)?;
                done += streams.len();
                progress(done);
            }
            clips.extend(streams.into_iter().map(|stream| stream.clip(&self.world)));
        }
        Ok(bank.with(self.streams.clone(), clips))
    }

    /// A stream that has seen a window of the simulator's frames.
    fn begin(&self, number: u64) -> Result<Stream, Error> {
        let seed = seeds::streamed(self.seed, number);
        let settings = Settings::of(&self.world, seed);
        let mut simulator = gravity::World::new(seed);
        let labels: Vec<usize> =
            (0..settings.window.min(self.blocks)).map(|_| simulator.next_label()).collect();
        let states: Vec<State> = labels.iter().flat_map(|&label| simulator.block(label)).collect();
        let latents = self.encode(&self.paint(states)?)?;
        let mut session = Session::new(&self.world, settings)?;
        session.prime(&self.world, &latents, self.world.model.null_label())?;
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
        let blocks = step_batch(&self.world, &mut due, TOGETHER)
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
        Ok(states.into_iter().map(|state| gravity::render(&state, self.frame)).collect::<Result<_, _>>()?)
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
