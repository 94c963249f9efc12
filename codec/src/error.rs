//! What can go wrong between pixels, latents and packets.

use std::path::PathBuf;

use crate::Size;

/// Any failure of this crate. Messages are one line and carry no library address or backtrace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size that is not `WIDTHxHEIGHT` with both positive, or too large to address.
    #[error("invalid frame size {0:?}: expected WIDTHxHEIGHT in pixels, such as 64x48")]
    Size(String),
    /// Pixel data whose length does not match the frame's size.
    #[error("a {size} RGB frame holds {expected} bytes, got {got}")]
    FrameBytes {
        /// The frame's size.
        size: Size,
        /// Width × height × 3.
        expected: usize,
        /// The length given.
        got: usize,
    },
    /// Frames of one call that differ in size.
    #[error("frame {index} is {got}, the frames before it are {expected}")]
    MixedSizes {
        /// The first offending frame.
        index: usize,
        /// The size of frame 0.
        expected: Size,
        /// The size of the offending frame.
        got: Size,
    },
    /// A call that needs at least one frame got none.
    #[error("no frames given")]
    NoFrames,
    /// A tensor of the wrong shape.
    #[error("expected a tensor of shape {expected}, got {got:?}")]
    Shape {
        /// The axes, in words such as `(F, 3, H, W)`.
        expected: &'static str,
        /// The shape given.
        got: Vec<i64>,
    },
    /// Pixels that are not numbers: the model or the VAE diverged.
    #[error("the pixels contain NaN")]
    NotANumber,
    /// A still picture that cannot be encoded.
    #[error("cannot encode the picture: {0}")]
    Still(String),
    /// VAE config values from which no network can be built.
    #[error("VAE config: {0}")]
    VaeConfig(String),
    /// A VAE's `config.json` that is missing, unreadable or describes no network of this crate.
    #[error("{}: {reason}", path.display())]
    VaeFile {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A clip that cannot be read at all: missing, a folder, no permission.
    #[error("{clip}: {reason}")]
    ClipUnreadable {
        /// The path, or what stands for one.
        clip: String,
        /// What the system said.
        reason: String,
    },
    /// Bytes that are no video in an accepted container, or one too damaged to open.
    #[error("{clip}: not a video (expected MP4/MOV, AVI, Matroska or WebM)")]
    NotAVideo {
        /// The path, or what stands for one.
        clip: String,
    },
    /// A video in a codec that is not accepted.
    #[error("{clip}: codec {codec} is not accepted (expected H.264, HEVC, VP8, VP9, AV1, MPEG-4 or MJPEG)")]
    ClipCodec {
        /// The path, or what stands for one.
        clip: String,
        /// FFmpeg's name of the codec found.
        codec: &'static str,
    },
    /// A video of which not one picture can be decoded.
    #[error("{clip}: holds no frame that can be decoded")]
    NoPictures {
        /// The path, or what stands for one.
        clip: String,
    },
    /// A clip beyond one of the limits of `video::Limits`.
    #[error("{clip}: {found}, the limit is {limit}")]
    ClipTooLarge {
        /// The path, or what stands for one.
        clip: String,
        /// What was found, with its unit.
        found: String,
        /// What is allowed, with its unit.
        limit: String,
    },
    /// Decoder or encoder settings that make no sense; the message names the field and its value.
    #[error("video settings: {0}")]
    VideoConfig(String),
    /// A decoding process answered with something else than what it was asked for.
    #[error("the decoding process's answer: {0}")]
    Reply(String),
    /// The scaler or the encoder failed on valid input.
    #[error("video: {0}")]
    Video(String),
    /// A video file that cannot be written.
    #[error("{}: {reason}", path.display())]
    Output {
        /// The file asked for.
        path: PathBuf,
        /// What was expected, or what the system said.
        reason: String,
    },
    /// A frame that is too small for a strip of times.
    #[error("frames of {0} are too small for a barcode: expected 16 pixels across and 6 down at least")]
    Barcode(Size),
    /// A place to publish to that is none, or does not take the stream.
    #[error("{target}: {reason}")]
    Target {
        /// The place, without what may be a secret.
        target: String,
        /// What was expected, or what happened.
        reason: String,
    },
    /// A VAE's weight file that cannot be read or does not fit its config.
    #[error(transparent)]
    Weights(#[from] acdit_model::Error),
    /// A libtorch operation failed.
    #[error("libtorch: {0}")]
    Torch(String),
}

/// Keeps libtorch's first line: the rest is a backtrace with addresses.
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}
