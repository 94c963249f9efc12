//! The stages behind the engine: latents to pixels, pixels to packets.
//!
//! One decode thread serves all streams, since one VAE decoder does; each stream has an encode thread, since an encoder
//! is bound to its thread and to its stream. Blocks flow through bounded channels. The engine lets no more than
//! [`BLOCKS_IN_FLIGHT`] of a stream's blocks into them, so no send ever waits: a slow stream holds up itself alone.
//! A block that fails in a stage is reported and lost; the next one goes on, from a keyframe.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use acdit_codec::Frame;
use acdit_codec::barcode::{self, Stamp, quarters};
use acdit_codec::still;
use crossbeam::channel::{Receiver, Sender, select};
use tch::Tensor;

use crate::engine::{Event, StreamId};
use crate::error::caught;
use crate::{Failure, Producer, Result, Stage, Timings};

/// Blocks of one stream between the engine and the ring: one being decoded, one being encoded. A block more would be
/// latency; when both are there, the engine makes no block for the stream.
pub(crate) const BLOCKS_IN_FLIGHT: usize = 2;

/// How a packet's payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// An H.264 access unit, Annex B, parameter sets on keyframes.
    H264,
    /// A JPEG file; always a keyframe.
    Jpeg,
}

/// One encoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// How the payload is encoded.
    pub kind: PacketKind,
    /// The access unit.
    pub payload: Vec<u8>,
    /// Decoding can start here.
    pub keyframe: bool,
    /// The frame came from a clip; the model made all others.
    pub injected: bool,
    /// Counts restarts and continuations.
    pub generation: u32,
    /// Frame number within the generation.
    pub frame: u64,
    /// Presentation time within the generation, in microseconds.
    pub pts: u64,
    /// Index of the frame's block.
    pub block: u64,
    /// Label of the frame's block.
    pub label: i64,
}

/// Where a block belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) generation: u32,
    pub(crate) block: u64,
    pub(crate) label: i64,
    /// Number of the block's first frame within the generation.
    pub(crate) first_frame: u64,
    /// Frames, from the first, that came from a clip.
    pub(crate) injected: usize,
    /// The first frame is to be an H.264 keyframe.
    pub(crate) keyframe: bool,
}

/// The generation that a stream is in: blocks of an older one need no work any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live(Arc<AtomicU32>);

impl Live {
    pub(crate) fn set(&self, generation: u32) {
        self.0.store(generation, Ordering::Relaxed);
    }

    fn is_past(&self, place: &Place) -> bool {
        place.generation < self.0.load(Ordering::Relaxed)
    }
}

/// The way of a stream's blocks through the stages.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) id: StreamId,
    pub(crate) live: Live,
    pub(crate) pictures: Sender<Pictures>,
}

/// What a block is made of on its way to the decoder.
#[derive(Debug)]
pub(crate) enum Content {
    /// (F, C, h, w), to be decoded.
    Latents(Tensor),
    /// A clip's own pixels.
    Pixels(Vec<Frame>),
}

/// A block on its way to the decoder.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) route: Route,
    pub(crate) place: Place,
    pub(crate) content: Content,
    /// When it was begun.
    pub(crate) begun: SystemTime,
    pub(crate) timings: Timings,
}

/// A block on its way to the encoder.
#[derive(Debug)]
pub(crate) struct Pictures {
    place: Place,
    frames: Vec<Frame>,
    begun: SystemTime,
    timings: Timings,
}

/// Latents (F, C, h, w) to frames.
pub(crate) type Decode = Box<dyn FnMut(&Tensor) -> Result<Vec<Frame>> + Send>;

/// The decode thread: ends when the engine is gone.
pub(crate) fn decode_blocks(jobs: &Receiver<Job>, decode: &mut Decode, events: &Sender<Event>) {
    for Job { route, place, content, begun, mut timings } in jobs {
        let started = Instant::now();
        let frames = match content {
            _ if route.live.is_past(&place) => {
                report(events, route.id, Ok(None));
                continue;
            }
            Content::Pixels(frames) => Ok(frames),
            Content::Latents(latents) => caught(|| decode(&latents)),
        };
        timings.decode = started.elapsed().as_secs_f64();
        match frames {
            Ok(frames) => {
                let pictures = Pictures { place, frames, begun, timings };
                // Fails only when the encode thread is gone, and then nobody waits for the block.
                if route.pictures.send(pictures).is_err() {
                    report(events, route.id, Ok(None));
                }
            }
            Err(error) => report(events, route.id, Err(Stage::Decode.failed(&error))),
        }
    }
}

/// What became of a block: what it cost, nothing if it was dropped as stale, or why it was lost.
pub(crate) type Outcome = std::result::Result<Option<Timings>, Failure>;

/// Hands a block's place in the pipeline back. Fails only when the engine is gone, which needs no news.
fn report(events: &Sender<Event>, stream: StreamId, result: Outcome) {
    let _ = events.send(Event::Done { stream, result });
}

/// What viewers want of a stream, as its encode thread reads it.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    pub(crate) h264: AtomicUsize,
    pub(crate) jpeg: AtomicUsize,
}

impl Demand {
    /// Whether anybody looks.
    pub(crate) fn is_any(&self) -> bool {
        self.h264.load(Ordering::Relaxed) + self.jpeg.load(Ordering::Relaxed) > 0
    }
}

/// Encodes one frame as H.264, as a keyframe if asked to; returns the access unit and whether it is a keyframe.
pub(crate) type EncodeH264 = Box<dyn FnMut(&Frame, bool) -> Result<(Vec<u8>, bool)>>;

/// Opens an H.264 encoder on the thread that will use it.
pub(crate) type OpenH264 = Box<dyn FnMut() -> Result<EncodeH264> + Send>;

/// The encode stage of one stream.
pub(crate) struct Encode {
    pub(crate) id: StreamId,
    pub(crate) live: Live,
    pub(crate) frames_per_second: f64,
    pub(crate) jpeg_quality: u8,
    pub(crate) barcode: bool,
    pub(crate) open_h264: Option<OpenH264>,
    pub(crate) demand: Arc<Demand>,
    pub(crate) packets: Producer<Packet>,
    pub(crate) events: Sender<Event>,
}

/// The encode thread's state.
pub(crate) struct Encoding {
    stage: Encode,
    h264: Option<EncodeH264>,
    /// The last picture was not encoded, so that the next one must be a keyframe.
    broken: bool,
    newest: Option<(Place, u64, Frame)>,
}

impl Encoding {
    /// Opens the encoder.
    ///
    /// # Errors
    /// What the encoder says.
    pub(crate) fn open(mut stage: Encode) -> Result<Self> {
        let h264 = stage.open_h264.as_mut().map(|open| open()).transpose()?;
        Ok(Self { stage, h264, broken: true, newest: None })
    }

    /// Encodes what comes, until nothing can come any more. A message on `refresh` publishes the newest picture again,
    /// as a keyframe: a viewer joined or lost one.
    pub(crate) fn run(mut self, pictures: &Receiver<Pictures>, refresh: &Receiver<()>) {
        loop {
            select! {
                recv(pictures) -> block => match block {
                    Ok(block) => self.block(block),
                    Err(_) => return,
                },
                recv(refresh) -> _ => self.refresh(),
            }
        }
    }

    fn block(&mut self, block: Pictures) {
        let Pictures { place, frames, begun, mut timings } = block;
        let Encode { id, live, events, .. } = &self.stage;
        if live.is_past(&place) {
            return report(events, *id, Ok(None));
        }
        let started = Instant::now();
        let mut failure = None;
        for (frame, number) in frames.into_iter().zip(place.first_frame..) {
            let follows = (self.newest.as_ref())
                .is_some_and(|(before, n, _)| before.generation == place.generation && n + 1 == number);
            let first = place.keyframe && number == place.first_frame;
            let frame = if self.stage.barcode { stamped(frame, begun, &timings) } else { frame };
            if let Err(error) = self.publish(place, number, &frame, !follows || first) {
                failure = Some(Stage::Encode.failed(&error));
            }
            self.newest = Some((place, number, frame));
        }
        timings.encode = started.elapsed().as_secs_f64();
        report(&self.stage.events, self.stage.id, failure.map_or(Ok(Some(timings)), Err));
    }

    fn refresh(&mut self) {
        // After a restart, the next block is what a viewer wants to see, and it begins with a keyframe.
        let live = |(place, ..): &mut (Place, u64, Frame)| !self.stage.live.is_past(place);
        let Some((place, number, frame)) = self.newest.take_if(live) else { return };
        if let Err(error) = self.publish(place, number, &frame, true) {
            tracing::warn!("the newest picture could not be encoded again: {error}");
        }
        self.newest = Some((place, number, frame));
    }

    /// Encodes a frame in every kind that somebody wants.
    fn publish(&mut self, place: Place, number: u64, frame: &Frame, keyframe: bool) -> Result<()> {
        if self.stage.demand.jpeg.load(Ordering::Relaxed) > 0 {
            let payload = still::jpeg(frame, self.stage.jpeg_quality)?;
            self.push(PacketKind::Jpeg, place, number, payload, true);
        }
        if self.stage.demand.h264.load(Ordering::Relaxed) == 0 {
            self.broken = true;
            return Ok(());
        }
        let keyframe = keyframe || self.broken;
        self.broken = true;
        let Some(open) = &mut self.stage.open_h264 else { return Ok(()) };
        let encode = match &mut self.h264 {
            Some(encode) => encode,
            None => self.h264.insert(open()?),
        };
        match caught(|| encode(frame, keyframe)) {
            Ok((payload, keyframe)) => {
                self.broken = false;
                self.push(PacketKind::H264, place, number, payload, keyframe);
                Ok(())
            }
            Err(error) => {
                self.h264 = None;
                Err(error)
            }
        }
    }

    fn push(&self, kind: PacketKind, place: Place, frame: u64, payload: Vec<u8>, keyframe: bool) {
        let seconds = frame as f64 / self.stage.frames_per_second;
        let packet = Packet {
            kind,
            payload,
            keyframe,
            injected: frame - place.first_frame < place.injected as u64,
            generation: place.generation,
            frame,
            pts: (seconds * 1e6).round() as u64,
            block: place.block,
            label: place.label,
        };
        // Handed back when the consumer is gone: a stream that nobody reads goes on for whoever reads its states.
        let _ = self.stage.packets.push(packet);
    }
}

/// A frame with the times of its block up to now.
fn stamped(frame: Frame, begun: SystemTime, timings: &Timings) -> Frame {
    let stamp = Stamp {
        begun: begun.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u32,
        age: quarters(begun.elapsed().unwrap_or_default().as_secs_f64()),
        denoise: quarters(timings.denoise + timings.context),
        decode: quarters(timings.decode),
    };
    // A frame that is too small is shown as it is.
    barcode::stamp(&frame, stamp).unwrap_or(frame)
}
