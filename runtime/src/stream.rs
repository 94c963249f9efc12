//! Opening and closing: an engine over one world, and the streams it serves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use acdit_codec::vae::Vae;
use acdit_codec::{Frame, Size, color};
use crossbeam::channel::{Sender, TrySendError, bounded};

use crate::batch::{self, Row, step_batch};
use crate::engine::{EVENTS, EncodeFrames, Event, JOBS, MAX_BATCH, Opening, StepBatch, StreamId, Worker};
use crate::pipeline::{
    BLOCKS_IN_FLIGHT, Decode, Demand, Encode, Encoding, Live, OpenH264, Packet, Route, decode_blocks,
};
use crate::{
    Consumer, Control, Cut, Error, Outcome, Refusal, Result, Sampling, Session, Settings, Stamp, State,
    StepInput, Timeline, World, WorldMeta, ring,
};

/// What the engine's threads run, so that a test can make any stage fail.
pub(crate) struct Stages {
    pub(crate) step_batch: StepBatch,
    pub(crate) encode_frames: EncodeFrames,
    pub(crate) decode: Decode,
}

impl Stages {
    /// The real ones, for frames of `size`.
    pub(crate) fn of(vae: Vae, size: Size, max_batch: usize) -> Self {
        let Vae { encoder, decoder } = vae;
        let encode_frames = move |frames: &[Frame]| {
            if let Some(frame) = frames.iter().find(|frame| frame.size() != size) {
                return Err(Error::Input(format!("frames of {}: this world's are {size}", frame.size())));
            }
            tch::no_grad(|| Ok(encoder.encode(&color::to_tensor(frames, tch::Device::Cpu)?)?))
        };
        Self {
            step_batch: Box::new(move |world, sessions| step_batch(world, sessions, max_batch)),
            encode_frames: Box::new(encode_frames),
            decode: Box::new(move |latents| {
                tch::no_grad(|| Ok(color::to_frames(&decoder.decode(latents)?)?))
            }),
        }
    }
}

/// A running world. Clones share it; the last one gone, streams included, ends its threads.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    meta: WorldMeta,
    stamp: Stamp,
    frame: Size,
    frames_per_block: usize,
    settings: Settings,
    events: Sender<Event>,
    streams: AtomicU64,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine and decode threads, after one block of one step through both as a warm-up: what libraries set up
    /// on first use is set up, and weights that cannot make a picture are found out, before anybody looks.
    ///
    /// # Errors
    /// [`Error::Input`] if the world is an image model or does not fit the VAE, [`Error::Thread`], and whatever a first
    /// block fails with.
    pub fn start(world: World, vae: Vae) -> Result<Self> {
        Self::start_batching(world, vae, MAX_BATCH)
    }

    /// As [`Self::start`], with at most `max_batch` sessions stepped in one batch.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_batching(world: World, vae: Vae, max_batch: usize) -> Result<Self> {
        if max_batch == 0 {
            return Err(Error::Input("batches of no session".to_owned()));
        }
        let size = frame_size(&world, &vae)?;
        Self::start_with(world, size, Stages::of(vae, size, max_batch))
    }

    pub(crate) fn start_with(world: World, frame: Size, mut stages: Stages) -> Result<Self> {
        let settings = Settings::of(&world, 0);
        let once = Settings { sampling: Sampling { steps: 1, ..settings.sampling }, ..settings };
        let input = StepInput { label: world.model.null_label(), inject: None };
        let (block, _) = batch::step_at(&world, &mut Session::new(&world, once)?, &input, Row::ALONE)?;
        (stages.decode)(&block.latents)?;

        let (meta, stamp) = (world.meta.clone(), Stamp::of(&world));
        let frames_per_block = world.model.config().frames_per_block as usize;
        let (events, inbox) = bounded(EVENTS);
        let (jobs, queue) = bounded(JOBS);
        let worker = Worker {
            world,
            step_batch: stages.step_batch,
            encode_frames: stages.encode_frames,
            events: inbox,
            jobs,
            origin: Instant::now(),
            seats: BTreeMap::new(),
        };
        let (mut decode, reports) = (stages.decode, events.clone());
        let threads = vec![
            spawn("acdit-engine", move || worker.run())?,
            spawn("acdit-decode", move || decode_blocks(&queue, &mut decode, &reports))?,
        ];
        let streams = AtomicU64::new(0);
        Ok(Self(Arc::new(Shared {
            meta,
            stamp,
            frame,
            frames_per_block,
            settings,
            events,
            streams,
            threads,
        })))
    }

    /// The world's labels, name and frame rate.
    pub fn meta(&self) -> &WorldMeta {
        &self.0.meta
    }

    /// What its sessions' bits depend on: [`Saver::save`](crate::Saver::save) wants it.
    pub fn stamp(&self) -> &Stamp {
        &self.0.stamp
    }

    /// Size of the world's frames, in pixels.
    pub fn frame(&self) -> Size {
        self.0.frame
    }

    /// Frames per block.
    pub fn frames_per_block(&self) -> usize {
        self.0.frames_per_block
    }

    /// What a stream of this world runs with unless told otherwise.
    pub fn config(&self, seed: u64) -> StreamConfig {
        StreamConfig {
            settings: Settings { seed, ..self.0.settings },
            label: 0,
            max_speed: false,
            encoder: EncoderSettings::of(&self.0.meta, self.0.frame),
            packets: 64,
        }
    }

    /// What [`Saver`](crate::Saver)s wrote into these folders, to begin streams with: see [`Timeline::restore_all`].
    ///
    /// # Errors
    /// [`Error::Stopped`]; for each folder as [`Timeline::restore`].
    pub fn restore(&self, folders: Vec<PathBuf>) -> Result<Vec<Result<Timeline>>> {
        let (reply, answer) = bounded(1);
        self.0.events.send(Event::Restore { folders, reply }).map_err(|_| Error::Stopped)?;
        answer.recv().map_err(|_| Error::Stopped)
    }

    /// Opens a stream. It rests until [`StreamHandle::viewers`] says that somebody looks.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Input`] and [`Error::Window`] for a config that does not fit, [`Error::Codec`] if the
    /// encoder does not open, [`Error::Thread`], [`Error::Stopped`].
    pub fn open(&self, config: &StreamConfig) -> Result<Stream> {
        self.open_from(config, Beginning::New)
    }

    /// Opens a stream that may begin with another one's past. Then its settings and label are those of the past, and
    /// those of `config` are passed over.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Timeline::fork`].
    pub fn open_from(&self, config: &StreamConfig, beginning: Beginning) -> Result<Stream> {
        let (codec, open_h264) = h264(&config.encoder, self.0.frame)?;
        self.open_with(config, beginning, codec, open_h264)
    }

    pub(crate) fn open_with(
        &self,
        config: &StreamConfig,
        beginning: Beginning,
        codec: Option<String>,
        open_h264: Option<OpenH264>,
    ) -> Result<Stream> {
        let fps = config.encoder.frames_per_second;
        if !(fps.is_finite() && fps > 0.0) {
            return Err(Error::Input(format!("{fps} frames per second")));
        }
        let (live, demand) = (Live::default(), Arc::new(Demand::default()));
        let id: StreamId = self.0.streams.fetch_add(1, Ordering::Relaxed);
        let (pictures, from_decoder) = bounded(BLOCKS_IN_FLIGHT);
        let (refresh, refreshes) = bounded(1);
        let (producer, packets) = ring(config.packets);
        let (states_in, states) = ring(1);

        let stage = Encode {
            id,
            live: live.clone(),
            frames_per_second: fps,
            jpeg_quality: config.encoder.jpeg_quality,
            barcode: config.encoder.barcode,
            open_h264,
            demand: demand.clone(),
            packets: producer,
            events: self.0.events.clone(),
        };
        let (ready, opened) = bounded(1);
        let encoding = spawn("acdit-encode", move || match Encoding::open(stage) {
            Ok(encoding) => {
                // The opener is still waiting: it holds the other end until it hears.
                let _ = ready.send(Ok(()));
                encoding.run(&from_decoder, &refreshes);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        })?;
        let handle =
            StreamHandle { id, engine: self.clone(), demand, refresh, codec, encoding: Some(encoding) };
        opened.recv().map_err(|_| Error::Stopped)??;

        let block = match config.max_speed {
            true => Duration::ZERO,
            false => Duration::from_secs_f64(self.0.frames_per_block as f64 / fps),
        };
        let route = Route { id, live, pictures };
        let (settings, label) = (config.settings, config.label);
        let stream = Opening {
            route,
            beginning,
            settings,
            label,
            block,
            demand: handle.demand.clone(),
            states: states_in,
        };
        let (reply, answer) = bounded(1);
        self.0.events.send(Event::Open { stream, reply }).map_err(|_| Error::Stopped)?;
        answer.recv().map_err(|_| Error::Stopped)??;
        Ok(Stream { handle, packets, states })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Fails only if the engine thread is gone already.
        let _ = self.events.send(Event::Shutdown);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

/// What a stream begins with.
#[derive(Debug)]
pub enum Beginning {
    /// Nothing, or the world's prompt.
    New,
    /// Another session as it was before block `block`.
    Fork {
        /// That session.
        of: Box<Timeline>,
        /// One that [`Timeline::reach`] allows.
        block: u64,
    },
    /// A session just as it is: another one's, or a restored one.
    Same(Box<Timeline>),
}

/// How a stream runs and how it is encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamConfig {
    /// Sampling, window and seed.
    pub settings: Settings,
    /// The first label.
    pub label: i64,
    /// Ignore the playback clock and make blocks as fast as possible.
    pub max_speed: bool,
    /// From frames to packets.
    pub encoder: EncoderSettings,
    /// Packets that wait for a slow consumer; then the oldest is dropped and the consumer told.
    pub packets: usize,
}

/// How frames become packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderSettings {
    /// Playback rate, in frames per second.
    pub frames_per_second: f64,
    /// Size of the H.264 pictures, in pixels, both sides even.
    pub display: Size,
    /// H.264 constant rate factor, 0 to 51.
    pub quality: u8,
    /// Frames from one H.264 keyframe to the next, if none is asked for in between.
    pub keyframe_interval: u32,
    /// Bits per second of H.264 at most.
    pub max_bits_per_second: u32,
    /// JPEG quality, 1 to 100.
    pub jpeg_quality: u8,
    /// Write the times of [`acdit_codec::barcode`] into the pictures that are shown.
    pub barcode: bool,
}

impl EncoderSettings {
    /// What suits a world with frames of `size`: its own rate and size, a keyframe every ten seconds.
    pub fn of(meta: &WorldMeta, size: Size) -> Self {
        Self {
            frames_per_second: meta.fps,
            display: Size { width: size.width.next_multiple_of(2), height: size.height.next_multiple_of(2) },
            quality: 20,
            keyframe_interval: (meta.fps * 10.0).ceil().max(1.0) as u32,
            max_bits_per_second: 8_000_000,
            jpeg_quality: 85,
            barcode: false,
        }
    }
}

/// An open stream: control it through one part, read it through the others.
pub struct Stream {
    /// Controls the stream; dropping it closes the stream.
    pub handle: StreamHandle,
    /// What the stream makes; the oldest packets are dropped if they are not taken.
    pub packets: Consumer<Packet>,
    /// Where the stream stands; only the newest state is kept.
    pub states: Consumer<State>,
}

impl Stream {
    /// An engine and its only stream.
    ///
    /// # Errors
    /// As [`Engine::start`] and [`Engine::open`].
    pub fn open(world: World, vae: Vae, seed: u64) -> Result<Self> {
        let engine = Engine::start(world, vae)?;
        engine.open(&engine.config(seed))
    }
}

/// Controls one stream. Dropping it closes the stream and waits for its thread, at most one block long.
pub struct StreamHandle {
    id: StreamId,
    engine: Engine,
    demand: Arc<Demand>,
    refresh: Sender<()>,
    codec: Option<String>,
    encoding: Option<JoinHandle<()>>,
}

impl StreamHandle {
    /// The engine that serves this stream.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The RFC 6381 name of the H.264 stream, such as `avc1.42c01e`; `None` in a build without `video`.
    pub fn codec(&self) -> Option<&str> {
        self.codec.as_deref()
    }

    /// Asks for something and returns at once. `reply` is called when it is done or refused, on another thread unless
    /// the queue is full; it must not block.
    pub fn control(&self, control: Control, reply: impl FnOnce(Outcome) + Send + 'static) {
        let event = Event::Control { stream: self.id, control, reply: Box::new(reply) };
        match self.engine.0.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(event)) => refuse(event, Refusal::busy()),
            Err(TrySendError::Disconnected(event)) => refuse(event, Refusal::stopped()),
        }
    }

    /// Asks for something and waits for the answer: the first block that shows it.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn apply(&self, control: Control) -> Outcome {
        let (reply, answer) = bounded(1);
        self.control(control, move |outcome| {
            // The other end waits below.
            let _ = reply.send(outcome);
        });
        answer.recv().unwrap_or_else(|_| Err(Refusal::stopped()))
    }

    /// The stream's session with its past, as it is between two blocks.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the stream or its engine has ended.
    pub fn timeline(&self) -> Result<Timeline> {
        let (reply, answer) = bounded(1);
        let event = Event::Timeline { stream: self.id, reply };
        self.engine.0.events.send(event).map_err(|_| Error::Stopped)?;
        answer.recv().map_err(|_| Error::Stopped)
    }

    /// Lets the next block to be shown begin with an H.264 keyframe, so that a film can begin with it.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the stream or its engine has ended.
    pub fn cut(&self) -> Result<Cut> {
        let (reply, answer) = bounded(1);
        self.engine.0.events.send(Event::Cut { stream: self.id, reply }).map_err(|_| Error::Stopped)?;
        answer.recv().map_err(|_| Error::Stopped)
    }

    /// Says how many viewers there are of each kind. With none, generation rests.
    pub fn viewers(&self, h264: usize, jpeg: usize) {
        self.demand.h264.store(h264, Ordering::Relaxed);
        self.demand.jpeg.store(jpeg, Ordering::Relaxed);
        // A full queue wakes the engine as well as this would.
        let _ = self.engine.0.events.try_send(Event::Demand);
    }

    /// Publishes the newest picture again at once, as a keyframe, in every kind in demand.
    pub fn request_keyframe(&self) {
        // Full means that one is asked for already.
        let _ = self.refresh.try_send(());
    }
}

fn refuse(event: Event, refusal: Refusal) {
    if let Event::Control { reply, .. } = event {
        reply(Err(refusal));
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        // Fails only if the engine thread is gone, and the stream with it.
        let _ = self.engine.0.events.send(Event::Close { stream: self.id });
        if self.encoding.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("an encode thread panicked");
        }
    }
}

/// Size of the frames that a world's latents decode to.
///
/// # Errors
/// [`Error::Input`] if the world is an image model or does not fit the VAE.
pub fn frame_size(world: &World, vae: &Vae) -> Result<Size> {
    let config = world.model.config();
    if config.square_block.is_some() {
        return Err(Error::Input("these weights make images, which cannot be streamed".to_owned()));
    }
    let (world_channels, vae_channels) = (config.in_channels, vae.decoder.latent_channels());
    if world_channels != vae_channels {
        let message = format!("the network has {world_channels} latent channels, the VAE {vae_channels}");
        return Err(Error::Input(message));
    }
    let pixels = |latents: i64| u32::try_from(latents * vae.decoder.downsampling());
    match (pixels(config.sample_width), pixels(config.sample_height)) {
        (Ok(width), Ok(height)) => Ok(Size { width, height }),
        _ => Err(Error::Input("the world's frames are too large".to_owned())),
    }
}

/// Tries the encoder on one picture; returns the stream's name and a way to open the encoder.
#[cfg(feature = "video")]
pub(crate) fn h264(settings: &EncoderSettings, source: Size) -> Result<(Option<String>, Option<OpenH264>)> {
    use acdit_codec::video::{Encoder, EncoderConfig};

    let config = EncoderConfig {
        source,
        display: settings.display,
        frames_per_second: settings.frames_per_second,
        keyframe_interval: settings.keyframe_interval,
        quality: settings.quality,
        max_bits_per_second: settings.max_bits_per_second,
    };
    let bytes = source.width as usize * source.height as usize * 3;
    let codec = Encoder::open(&config)?.encode(&Frame::new(source, vec![0; bytes])?, true)?.codec();
    let open: OpenH264 = Box::new(move || {
        let mut encoder = Encoder::open(&config)?;
        Ok(Box::new(move |frame: &Frame, keyframe: bool| {
            let unit = encoder.encode(frame, keyframe)?;
            Ok((unit.data, unit.keyframe))
        }))
    });
    Ok((codec, Some(open)))
}

#[cfg(not(feature = "video"))]
pub(crate) fn h264(_settings: &EncoderSettings, _source: Size) -> Result<(Option<String>, Option<OpenH264>)> {
    Ok((None, None))
}

fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.map_err(|source| Error::Thread { name, source })
}

#[cfg(test)]
mod tests;
