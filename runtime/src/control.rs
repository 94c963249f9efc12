//! What can be asked of a running stream, and what it answers.

use acdit_codec::Frame;
use acdit_model::Error as ModelError;
use serde::Serialize;

use crate::{Error, Moments, Sampling, Timings};

/// A change to a stream. All of them take effect at a block boundary.
#[derive(Debug)]
pub enum Control {
    /// Use another label from the next block on.
    Label(i64),
    /// Use other noise from the next block on.
    Seed(u64),
    /// Begin a new generation with block `block` of this one: see [`Timeline::rewind`](crate::Timeline::rewind).
    Rewind {
        /// One that [`State::reach`] allows.
        block: u64,
    },
    /// Stop; answered once the blocks under way have left the pipeline.
    Pause,
    /// Go on.
    Resume,
    /// Make one block and be paused.
    Step,
    /// Begin a new generation as the first began; without a seed, with the one before plus one.
    Restart {
        /// Seed of its noise.
        seed: Option<u64>,
    },
    /// Begin a new generation that opens with a clip's last frames and goes on from them. Frames must have the world's
    /// size; at least one block of them is needed.
    Continue {
        /// The clip, oldest frame first.
        frames: Vec<Frame>,
    },
    /// Make these frames the first of the next block: a whole block of them replaces it, fewer are held while the rest is
    /// denoised around them.
    Inject {
        /// One frame to one block of frames, of the world's size.
        frames: Vec<Frame>,
    },
    /// Sample the blocks to come otherwise; what is left out stays.
    Sampling {
        /// Denoising steps per block.
        steps: Option<usize>,
        /// Guidance scale.
        guidance: Option<f64>,
    },
}

/// The first block that shows a control, or why it was refused.
pub type Outcome = Result<u64, Refusal>;

/// Why a control changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: &'static str,
    /// For people; no paths, no addresses.
    pub message: String,
}

impl Refusal {
    /// More controls arrive than blocks are made.
    pub(crate) fn busy() -> Self {
        Self { code: "busy", message: "too many controls are waiting, try again".to_owned() }
    }

    /// The stream is closed, or its engine is gone.
    pub(crate) fn stopped() -> Self {
        Self { code: "unavailable", message: "the stream has ended".to_owned() }
    }
}

/// What a stream's own methods refuse over is what the viewer sent; everything else is our failure, told without details.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Input(message) | Error::Window(message) => Self { code: "bad_input", message },
            Error::Model(error @ ModelError::Sampling(_)) => {
                Self { code: "bad_input", message: error.to_string() }
            }
            Error::Codec(error) => Self { code: "bad_frames", message: error.to_string() },
            other => {
                tracing::warn!("a control failed: {other}");
                Self { code: "failed", message: "the world could not do that".to_owned() }
            }
        }
    }
}

/// Where a film of a stream can begin: see [`StreamHandle::cut`](crate::StreamHandle::cut).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// As in [`State::generation`].
    pub generation: u32,
    /// Index of the block that begins with a keyframe.
    pub block: u64,
    /// Times that the log had gone back, [`turns`](crate::turns), when this generation began.
    pub turn: u64,
}

/// Why a block was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// For the operator: the error's words.
    pub reason: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, self.reason)
    }
}

/// A part of a block's way to its viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Noise to latents.
    Denoise,
    /// Latents to pixels.
    Decode,
    /// Pixels to packets.
    Encode,
}

impl Stage {
    pub(crate) fn failed(self, error: &Error) -> Failure {
        Failure { stage: self, reason: error.to_string() }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Denoise => "denoise",
            Self::Decode => "decode",
            Self::Encode => "encode",
        })
    }
}

/// Where a stream stands. Announced whenever it changes; only the newest is kept for a slow reader.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct State {
    /// Counts restarts and continuations.
    pub generation: u32,
    /// Blocks committed in this generation: the index of the next block.
    pub block: u64,
    /// The first block that [`Control::Rewind`] reaches.
    pub reach: u64,
    /// The label of the next block.
    pub label: i64,
    /// The seed of this generation.
    pub seed: u64,
    /// How the next block is sampled.
    pub sampling: Sampling,
    /// Whether the stream waits for [`Control::Resume`] or [`Control::Step`].
    pub paused: bool,
    /// Cost of the newest block that went through all stages.
    pub timings: Timings,
    /// Blocks that were ready only after the one before them had been shown.
    pub underruns: u64,
    /// Blocks lost to failures, in any stage.
    pub failures: u64,
    /// The newest failure, if there ever was one.
    pub failure: Option<Failure>,
    /// The stream is paused because block after block failed in this stage; [`Control::Resume`] tries again.
    pub gave_up: Option<Stage>,
    /// Figures of the newest block's latents; none before the first of a generation.
    pub latents: Option<Moments>,
    /// Fingerprint of the newest block's latents, in hexadecimal.
    pub hash: Option<String>,
}
