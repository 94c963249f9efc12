//! Sessions over a rolling window of clean blocks, the engine thread that owns the weights, and the pipeline that turns
//! blocks into packets.

pub mod device;
mod error;
pub mod kernels;
mod pace;
mod ring;

pub use error::{Error, Result};
pub use pace::Pace;
pub use ring::{Consumer, Empty, Producer, Received, ring};
