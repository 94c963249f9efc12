//! Pixels to latents and to packets, and back.
//!
//! Everything that leaves or enters the model as pixels passes through a [`Frame`]: packed 8-bit RGB. [`color`] is the
//! only place where bytes become the model's numbers in [-1, 1], [`still`] writes pictures, and `video` (feature
//! `video`) reads and writes clips and live H.264 through the system's FFmpeg.

pub mod barcode;
pub mod color;
mod error;
mod frame;
pub mod still;
pub mod vae;
#[cfg(feature = "video")]
pub mod video;

pub use error::Error;
pub use frame::{Frame, Size};
