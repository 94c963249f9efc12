//! Sessions over a rolling window of clean blocks, the engine thread that owns the weights, and the pipeline that turns
//! blocks into packets.

mod batch;
pub mod bench;
mod control;
pub mod device;
mod engine;
mod error;
pub mod kernels;
mod pace;
mod pipeline;
mod render;
mod ring;
mod session;
pub mod stats;
mod stream;
mod timeline;
mod window;
mod world;

pub use batch::{Row, Stepped, step_batch};
pub use control::{Control, Cut, Failure, Outcome, Refusal, Stage, State};
pub use engine::{MAX_BATCH, MAX_STREAMS};
pub use error::{Error, Result};
pub use pace::Pace;
pub use pipeline::{Packet, PacketKind};
pub use render::{Rendered, render};
pub use ring::{Consumer, Empty, Producer, Received, ring};
pub use session::{Block, Session, Settings, StepInput};
pub use stats::{Moments, Timings};
pub use stream::{Beginning, EncoderSettings, Engine, Stream, StreamConfig, StreamHandle, frame_size};
pub use timeline::{Again, Entry, Latents, Log, Past, Saver, Stamp, Timeline, read_log, turns, write_log};
pub use window::{Reader, Window, WindowMode};
pub use world::{Label, Sampling, World, WorldFolder, WorldMeta};
