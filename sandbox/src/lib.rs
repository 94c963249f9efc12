//! A process of its own for work on strangers' bytes, where a bug in a decoder finds nothing worth having.
//!
//! ```text
//! server: Worker::spawn ─ the bytes, as a sealed memory file on stdin ──► child: confine ─ work ─┐
//! server: Worker::finish ◄─ stdout up to a cap, one line of stderr, how it ended ◄───────────────┘
//! ```
//! The child calls [`confine`] before it looks at the first byte; from then on it can compute, allocate up to a limit, read
//! what it was given and write to two pipes. The server bounds what it reads and how long it waits, kills the child's whole
//! process group when it is done with it, and believes nothing the child says without checking it. Linux only:
//! `docs/security.md` tells what each layer is for and what none of them covers.

mod confine;
mod error;
mod filter;
mod worker;

pub use confine::{Allowance, Landlock, Layers, confine, die_with_parent};
pub use error::Error;
pub use worker::{Finished, Patience, Worker};
