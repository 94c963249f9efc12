//! The event log of a session: all that its blocks depend on beside the weights, as JSON lines.
//!
//! Entries stand in the order in which things happened and are never changed. What is written for a block is enough to
//! compute it again to the same bits: see [`Timeline::replay`](super::Timeline::replay).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tch::{Device, Kind, Tensor};

use crate::batch::Row;
use crate::device::libtorch_version;
use crate::{Error, Sampling, Settings, World};

/// Version of the log's format, in its first line.
pub(super) const VERSION: u32 = 1;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Entry {
    /// The first line.
    Start {
        /// Of the format.
        version: u32,
        /// Where it was computed. Apart, since all other entries are small, and there are many.
        #[serde(flatten)]
        stamp: Box<Stamp>,
        /// What the session began with.
        settings: Settings,
        /// Its first label.
        label: i64,
    },
    /// From block `block` on, this label.
    Label {
        /// The next block.
        block: u64,
        /// The network's null label is its number of labels.
        label: i64,
    },
    /// From block `block` on, noise of this seed.
    Seed {
        /// The next block.
        block: u64,
        /// The new seed.
        seed: u64,
    },
    /// From block `block` on, sampled in this way.
    Sampling {
        /// The next block.
        block: u64,
        /// The new way.
        sampling: Sampling,
    },
    /// Block `block`, the next line, begins with these frames.
    Inject {
        /// The next block.
        block: u64,
        /// Of the frames.
        latents: Latents,
    },
    /// A block was committed.
    Block {
        /// Its index.
        block: u64,
        /// [`Block::hash`](crate::Block::hash); in JSON in hexadecimal.
        #[serde(with = "hexadecimal")]
        hash: blake3::Hash,
        /// In which row of which batch.
        #[serde(flatten)]
        row: Row,
    },
    /// The session went back to before block `block`, and to the label, seed and sampling of that block.
    Rewind {
        /// The next block again.
        block: u64,
    },
    /// This session was forked off another one before block `block`; the lines so far are that one's.
    Fork {
        /// The next block again.
        block: u64,
    },
    /// The session began anew from nothing, with noise of this seed; what it had is forgotten.
    Restart {
        /// The new seed.
        seed: u64,
    },
    /// The session goes on elsewhere, as when another machine takes its folder over. What comes has the bits of that place.
    Moved {
        /// The next block.
        block: u64,
        /// Where it goes on.
        #[serde(flatten)]
        stamp: Box<Stamp>,
    },
    /// No block after this one until it is resumed, but for single steps. A fork is not paused.
    Pause {
        /// The next block.
        block: u64,
    },
    /// Blocks go on.
    Resume {
        /// The next block.
        block: u64,
    },
}

impl Entry {
    /// Where the blocks that follow were computed, if this line says so.
    pub fn stamp(&self) -> Option<&Stamp> {
        match self {
            Self::Start { stamp, .. } | Self::Moved { stamp, .. } => Some(stamp),
            _ => None,
        }
    }

    /// Whether block numbers go back here: they then name other blocks than before.
    pub fn turns(&self) -> bool {
        matches!(self, Self::Rewind { .. } | Self::Fork { .. } | Self::Restart { .. })
    }
}

/// How often block numbers go back in these entries. Turn and number together name one block of a log.
pub fn turns<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    entries.into_iter().filter(|entry| entry.turns()).count() as u64
}

/// What the bits of a log's blocks depend on beside the log and the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// `f32` or `bf16`.
    pub dtype: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Version of libtorch.
    pub libtorch: String,
    /// CPU threads of one tensor operation.
    pub threads: i32,
}

impl Stamp {
    /// Of this process, running `world`.
    pub fn of(world: &World) -> Self {
        Self {
            dtype: if world.model.compute() == Kind::BFloat16 { "bf16" } else { "f32" }.to_owned(),
            device: if world.model.device().is_cuda() { "cuda" } else { "cpu" }.to_owned(),
            libtorch: libtorch_version(),
            threads: tch::get_num_threads(),
        }
    }
}

/// Latents of one or more frames (k, C, h, w) f32. In JSON `{"shape": […], "base64": "…"}`, little-endian. Numbers rather than
/// a tensor, so that threads may share them.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    shape: Vec<i64>,
    values: Arc<[f32]>,
}

impl Latents {
    /// Copies a tensor.
    pub fn new(latents: &Tensor) -> Self {
        let flat = latents.flatten(0, -1).to_kind(Kind::Float).to_device(Device::Cpu);
        let values = Vec::<f32>::try_from(flat).expect("one axis of f32 on the CPU");
        Self { shape: latents.size(), values: values.into() }
    }

    /// A copy on the CPU.
    pub fn tensor(&self) -> Tensor {
        Tensor::from_slice(&self.values).view(self.shape.as_slice())
    }
}

/// A hash in JSON.
mod hexadecimal {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hash: &blake3::Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<blake3::Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&text).map_err(|error| D::Error::custom(format!("hash {text:?}: {error}")))
    }
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    shape: Vec<i64>,
    base64: String,
}

impl Serialize for Latents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Encoded { shape: self.shape.clone(), base64: STANDARD.encode(bytes) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let Encoded { shape, base64 } = Encoded::deserialize(deserializer)?;
        let bytes = STANDARD.decode(base64).map_err(D::Error::custom)?;
        let (values, rest) = bytes.as_chunks::<4>();
        let count = shape.iter().try_fold(1i64, |product, &side| product.checked_mul(side));
        if !rest.is_empty() || shape.iter().any(|&side| side < 1) || count != i64::try_from(values.len()).ok()
        {
            let got = bytes.len();
            return Err(D::Error::custom(format!("latents of {got} bytes for shape {shape:?}")));
        }
        let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Ok(Self { shape, values })
    }
}

/// Entries of a session in the order in which they happened. Clones share all but the newest, so a long log is as cheap to
/// clone as a short one.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// [`CHUNK`] entries each.
    whole: Vec<Arc<[Entry]>>,
    /// Fewer than that.
    newest: Vec<Entry>,
}

const CHUNK: usize = 1024;

impl Log {
    /// Entries.
    pub fn len(&self) -> usize {
        self.whole.len() * CHUNK + self.newest.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.since(0)
    }

    /// The entries from number `first` on.
    pub fn since(&self, first: usize) -> impl Iterator<Item = &Entry> {
        let chunks = self.whole.iter().skip(first / CHUNK).flat_map(|chunk| chunk.iter());
        let skipped = (first / CHUNK).min(self.whole.len()) * CHUNK;
        chunks.chain(&self.newest).skip(first - skipped)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.newest.push(entry);
        if self.newest.len() == CHUNK {
            self.whole.push(std::mem::take(&mut self.newest).into());
        }
    }
}

impl FromIterator<Entry> for Log {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut log = Self::default();
        entries.into_iter().for_each(|entry| log.push(entry));
        log
    }
}

impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Entries as JSON lines.
pub fn write_log<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    let line =
        |entry| serde_json::to_string(entry).expect("entries have string keys and finite numbers only");
    entries.into_iter().map(|entry| line(entry) + "\n").collect()
}

/// Reads what [`write_log`] wrote.
///
/// # Errors
/// [`Error::Log`], which names the line.
pub fn read_log(text: &str) -> Result<Vec<Entry>, Error> {
    let read = |(index, line)| {
        serde_json::from_str(line).map_err(|error| Error::Log { line: index + 1, detail: error.to_string() })
    };
    text.lines().enumerate().map(read).collect()
}
