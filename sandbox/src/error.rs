//! What can go wrong around a confined process.

use std::io;

/// Any failure of this crate. Messages are for the server's log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer that every kernel has could not be put on; nothing may be read.
    #[error("confinement: {step}: {source}")]
    Confine {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The process could not be started or watched.
    #[error("decoding process: {step}: {source}")]
    Process {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The process was not done in time, and was killed.
    #[error("the decoding process was not done after {seconds:.1} seconds")]
    TooSlow {
        /// How long it ran, in seconds of wall time.
        seconds: f64,
    },
    /// The process wrote more than it may, and was killed.
    #[error("the decoding process wrote more than {limit} bytes to {stream}")]
    TooMuch {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// What it may write, in bytes.
        limit: usize,
    },
    /// Nobody wants the result any more; the process was killed.
    #[error("nobody waits for the decoding process any more")]
    Abandoned,
}
