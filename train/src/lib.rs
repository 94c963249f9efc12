//! Datasets and training loops: what turns clips into the weights that `model` and `codec` load.

mod bank;
pub mod checkpoint;
pub mod dataset;
mod error;
pub mod evaluate;
pub mod gravity;
mod interrupt;
pub mod listing;
pub mod log;
pub mod maze;
pub mod metrics;
pub mod optim;
pub mod procedural;
mod start;
pub mod ucf101;
pub mod vae_loop;
pub mod world_loop;

pub use bank::LatentBank;
pub use error::Error;
pub use interrupt::Interrupt;
pub use start::Start;
