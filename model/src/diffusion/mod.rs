//! The diffusion process: noise schedule, deterministic solvers, guidance. Free of the network.

mod guidance;
mod schedule;
mod solver;

pub use guidance::guided;
pub use schedule::{NoiseLevel, Prediction, Schedule, SchedulerConfig};
pub use solver::{Solver, SolverKind};
