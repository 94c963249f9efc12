//! Every message of the wire, in one place: JSON text frames both ways, binary packets to the viewer.
//!
//! `docs/protocol.md` shows the same bytes; `tests/fixtures/messages.json` holds recorded ones that this module and
//! the page's `protocol.mjs` are both tested against.

mod inject;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

pub use self::inject::{INJECT_HEADER, Inject, MAX_INJECT};
use crate::Error;

/// Protocol version, in the first message each way and in every packet.
pub const VERSION: u8 = 1;

/// Bytes before the access unit in a binary message.
pub const HEADER_LEN: usize = 36;

/// Largest binary message, in bytes. A longer one is not sent: its viewers wait for the next keyframe.
pub const MAX_PACKET: usize = 8 << 20;

const KEYFRAME: u8 = 1;
const GENERATED: u8 = 2;
const INJECTED: u8 = 4;

/// How pictures travel to one viewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// H.264 Annex B access units, parameter sets before every keyframe.
    #[default]
    H264,
    /// One JPEG file per frame, for browsers with neither WebCodecs nor MediaSource. Every packet is a keyframe.
    Jpeg,
}

/// What a packet says about its access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How the payload is encoded.
    pub kind: Kind,
    /// Decoding can start here.
    pub keyframe: bool,
    /// The model made this frame.
    pub generated: bool,
    /// This frame came from a clip.
    pub injected: bool,
    /// Counts restarts and continuations; a viewer drops what is older than the newest it has seen.
    pub generation: u32,
    /// Frame number within the generation. A delta frame follows the packet numbered one less.
    pub frame: u64,
    /// Presentation time within the generation, in microseconds.
    pub pts: u64,
    /// Number of the block that the frame belongs to.
    pub block: u64,
    /// Index of the label that the block was made with.
    pub label: u32,
}

/// One encoded frame with its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What the payload is.
    pub header: Header,
    /// One access unit.
    pub payload: Bytes,
}

impl Packet {
    /// The binary message: [`HEADER_LEN`] bytes of little-endian header, then the payload.
    pub fn encode(&self) -> Bytes {
        let Header { kind, keyframe, generated, injected, generation, frame, pts, block, label } =
            self.header;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut message = BytesMut::with_capacity(HEADER_LEN + self.payload.len());
        message.put_u8(VERSION);
        message.put_u8(match kind {
            Kind::H264 => 1,
            Kind::Jpeg => 2,
        });
        message.put_u8(flag(keyframe, KEYFRAME) | flag(generated, GENERATED) | flag(injected, INJECTED));
        message.put_u8(0);
        message.put_u32_le(generation);
        message.put_u64_le(frame);
        message.put_u64_le(pts);
        message.put_u64_le(block);
        message.put_u32_le(label);
        message.put_slice(&self.payload);
        message.freeze()
    }

    /// Reads a binary message; the payload shares its memory. Unknown flag bits are ignored.
    ///
    /// # Errors
    /// A message shorter than a header, of another version, or of an unknown kind.
    pub fn decode(message: Bytes) -> Result<Self, Error> {
        let too_short = Error::PacketTooShort { expected: HEADER_LEN, got: message.len() };
        let (head, _) = message.split_first_chunk::<HEADER_LEN>().ok_or(too_short)?;
        let [version, kind, flags, _reserved, rest @ ..] = *head;
        if version != VERSION {
            return Err(Error::Version { expected: VERSION.into(), got: version.into() });
        }
        let kind = match kind {
            1 => Kind::H264,
            2 => Kind::Jpeg,
            other => return Err(Error::UnknownKind(other)),
        };
        let mut rest = Fields(&rest);
        let header = Header {
            kind,
            keyframe: flags & KEYFRAME != 0,
            generated: flags & GENERATED != 0,
            injected: flags & INJECTED != 0,
            generation: rest.u32(),
            frame: rest.u64(),
            pts: rest.u64(),
            block: rest.u64(),
            label: rest.u32(),
        };
        Ok(Self { header, payload: message.slice(HEADER_LEN..) })
    }
}

/// A message from a viewer. The id is the viewer's own; answers carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientMessage {
    /// Chosen by the viewer.
    pub id: u64,
    /// What the viewer wants.
    #[serde(flatten)]
    pub request: Request,
}

/// What a viewer can ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// First message of a viewer; the stream starts after it.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// How pictures shall travel.
        #[serde(default)]
        kind: Kind,
    },
    /// Use another label from the next block on.
    Label {
        /// Index into [`WorldInfo::labels`].
        index: u32,
    },
    /// Stop; applied once the blocks under way have been made and shown.
    Pause,
    /// Go on.
    Resume,
    /// Make one block while paused.
    Step,
    /// Use other noise from the next block on.
    Seed {
        /// Seed of the noise.
        seed: u64,
    },
    /// Begin a new generation with a block that was made already.
    Rewind {
        /// Its number.
        block: u64,
    },
    /// Begin another session that shares this one's past.
    Fork {
        /// The first block that is the fork's own.
        block: u64,
    },
    /// Begin a new generation from nothing.
    Restart {
        /// Seed of its noise; the world chooses when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: Option<u64>,
    },
    /// Sample otherwise from the next block on.
    Sampling {
        /// Denoising steps per block; as before when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u32>,
        /// Guidance scale; as before when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guidance: Option<f64>,
    },
    /// Begin several sessions that share this one's past, all or none.
    Futures {
        /// The first block that is their own.
        block: u64,
        /// What becomes of each: [`FUTURES`] of them.
        each: Vec<Future>,
    },
    /// Begin or end a recording of this session.
    Record {
        /// Whether there shall be one.
        on: bool,
    },
    /// Asks for a `received` and nothing else: a round trip.
    Ping,
}

/// How many sessions one [`Request::Futures`] may begin.
pub const FUTURES: std::ops::RangeInclusive<usize> = 2..=9;

/// One of several ways to go on from a block. What is absent is as the block was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Future {
    /// Index into [`WorldInfo::labels`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    /// Seed of its noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A message to a viewer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// First message to a viewer.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// What is streamed.
        info: Box<WorldInfo>,
        /// Where it stands.
        state: Box<State>,
        /// Largest clip that `POST /api/clip` takes, in bytes.
        upload_bytes: u64,
    },
    /// The request was understood and passed to the world.
    Received {
        /// The request's id.
        id: u64,
    },
    /// The request is in effect.
    Applied {
        /// The request's id.
        id: u64,
        /// First block that shows it.
        block: u64,
        /// The session that a fork began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<String>,
        /// The sessions that futures began, in the order in which they were asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sessions: Option<Vec<String>>,
    },
    /// The request will not be done.
    Refused {
        /// The request's id, if one could be read.
        id: Option<u64>,
        /// For programs; listed in `docs/protocol.md`.
        code: String,
        /// For people.
        message: String,
    },
    /// The world's state changed.
    State(State),
    /// This viewer fell behind: so many packets were dropped before the next one, which is a keyframe.
    Gap {
        /// Packets dropped since the last one sent.
        dropped: u64,
    },
}

/// What a world is, constant while the server runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorldInfo {
    /// Name of the world.
    pub world: String,
    /// Identifies the weights.
    pub weights: String,
    /// What a viewer can steer with, by index.
    pub labels: Vec<LabelInfo>,
    /// Playback rate, in frames per second.
    pub frames_per_second: f64,
    /// Encoded picture, in pixels.
    pub frame: Size,
    /// Picture that an [`Inject`] carries, in pixels: the model's own.
    #[serde(default)]
    pub input: Size,
    /// Size at which it is meant to be looked at, in pixels.
    pub display: Size,
    /// Frames per block.
    pub frames_per_block: u32,
    /// WebCodecs name of the H.264 stream, such as `avc1.42E01E`.
    pub codec: String,
    /// The context that the model sees.
    pub window: WindowInfo,
    /// How blocks are sampled unless a session asks for something else.
    #[serde(default)]
    pub sampling: SamplingInfo,
    /// Latents of real frames, to judge drift by; none if the world has none.
    #[serde(default)]
    pub reference: Option<Moments>,
}

/// How sessions begin to sample, and how far that can be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplingInfo {
    /// Denoising steps per block.
    pub steps: u32,
    /// Guidance scale.
    pub guidance: f64,
    /// The most steps that may be asked for.
    pub max_steps: u32,
}

/// How a block is sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale; 1 is none.
    pub guidance: f64,
}

/// Two figures of a block's latents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Of all values.
    pub mean: f64,
    /// Root mean square distance from the mean.
    pub deviation: f64,
}

/// A recording that is being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// `GET /api/recordings/NAME.mp4` has it.
    pub name: String,
    /// Its first block.
    pub since: u64,
}

/// A label and the key that chooses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelInfo {
    /// Shown to people.
    pub name: String,
    /// A `KeyboardEvent.key` value, such as `ArrowUp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Width and height, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// The rolling window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowInfo {
    /// Clean blocks that the model can see.
    pub blocks: u32,
    /// `recompute` or `windowed`.
    pub mode: String,
}

/// Where a world stands; announced whenever it changes, the newest wins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// As in [`Header::generation`].
    pub generation: u32,
    /// Blocks committed in this generation: the number of the next block.
    pub block: u64,
    /// The first block that a rewind or a fork reaches.
    #[serde(default)]
    pub reach: u64,
    /// Label that the next block will use.
    pub label: u32,
    /// Seed of this generation.
    pub seed: u64,
    /// How the next block will be sampled.
    #[serde(default)]
    pub sampling: Sampling,
    /// Whether the world waits for `resume` or `step`.
    pub paused: bool,
    /// Blocks that were ready only after the one before them had been shown.
    pub underruns: u64,
    /// Blocks that were lost since something failed on their way.
    #[serde(default)]
    pub failures: u64,
    /// The world is paused because block after block failed in this stage: `denoise`, `decode` or `encode`.
    #[serde(default)]
    pub gave_up: Option<String>,
    /// Cost of the newest block.
    pub timings: Timings,
    /// Figures of the newest block's latents; none before the first of a generation.
    #[serde(default)]
    pub latents: Option<Moments>,
    /// The recording that is being made, if any.
    #[serde(default)]
    pub recording: Option<Recording>,
}

/// Where one block's time went, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Denoising steps.
    pub denoise: f64,
    /// Bringing the window up to date.
    pub context: f64,
    /// Latents to pixels.
    pub decode: f64,
    /// Pixels to packets.
    pub encode: f64,
}

impl Request {
    /// What no type can say about its fields.
    fn flaw(&self) -> Option<String> {
        match self {
            Self::Sampling { steps: None, guidance: None } => {
                Some("sampling: expected steps, guidance or both".to_owned())
            }
            Self::Futures { each, .. } if !FUTURES.contains(&each.len()) => {
                let (fewest, most) = (FUTURES.start(), FUTURES.end());
                Some(format!("futures: expected {fewest} to {most} of them in each, got {}", each.len()))
            }
            _ => None,
        }
    }
}

/// Reads little-endian fields off the front of a header whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the fields add up to HEADER_LEN");
        self.0 = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Why a viewer's text message was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misread {
    pub(crate) id: Option<u64>,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl ClientMessage {
    /// Reads a viewer's text message; what cannot be read is described in words meant for the viewer.
    pub(crate) fn parse(text: &str) -> Result<Self, Misread> {
        const TYPES: [&str; 13] = [
            "hello", "label", "pause", "resume", "step", "seed", "sampling", "rewind", "fork", "futures",
            "restart", "record", "ping",
        ];
        #[derive(Deserialize)]
        struct Envelope {
            id: Option<u64>,
            r#type: Option<String>,
        }
        if let Ok(message) = serde_json::from_str::<Self>(text) {
            return match message.request.flaw() {
                None => Ok(message),
                Some(flaw) => Err(Misread { id: Some(message.id), code: "bad_fields", message: flaw }),
            };
        }
        let (id, code, message) = match serde_json::from_str::<Envelope>(text) {
            Err(_) => {
                (None, "malformed", r#"expected a JSON object {"type": string, "id": integer, …}"#.to_owned())
            }
            Ok(Envelope { id: None, .. }) => (None, "malformed", r#"expected an integer "id""#.to_owned()),
            Ok(Envelope { id, r#type: Some(name) }) if TYPES.contains(&name.as_str()) => {
                (id, "bad_fields", format!("{name}: a field is missing or has the wrong type"))
            }
            Ok(Envelope { id, .. }) => {
                (id, "unknown_type", format!("expected a type out of {}", TYPES.join(", ")))
            }
        };
        Err(Misread { id, code, message })
    }
}
