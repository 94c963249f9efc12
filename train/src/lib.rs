//! Datasets and training loops: what turns clips into the weights that `model` and `codec` load.

mod bank;
pub mod checkpoint;
pub mod dagger;
pub mod dataset;
mod description;
mod encoding;
mod error;
pub mod evaluate;
pub mod gravity;
mod interrupt;
pub mod listing;
mod loader;
pub mod log;
pub mod maze;
pub mod metrics;
pub mod optim;
pub mod procedural;
pub mod seeds;
pub mod shards;
mod start;
mod tensorboard;
pub mod ucf101;
pub mod vae_loop;
pub mod world_loop;

pub use bank::{Draws, LatentBank, Windows};
pub use description::{Description, Streams};
pub use error::Error;
pub use interrupt::Interrupt;
pub use loader::Loader;
pub use start::Start;
