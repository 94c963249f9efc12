//! Processes that train one network together: data parallelism on c10d, PyTorch's own engine, as libtorch ships it.
//!
//! A launcher (torchrun, Slurm, MPI, Kubernetes) starts the processes and tells each its place in the environment: [`Place`]. They meet at
//! a TCPStore and form a [`Group`], which sums tensors over all of them with gloo. [`Exchange`] sums gradients while the backward pass
//! that makes them is still running.

mod error;
mod exchange;
mod group;
mod place;
mod shim;

pub use error::Error;
pub use exchange::Exchange;
pub use group::{Group, Pending, TIMEOUT};
pub use place::Place;
