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
    /// A file of a VAE folder that is missing, unreadable or does not fit the network.
    #[error("{}: {reason}", path.display())]
    VaeFile {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
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
