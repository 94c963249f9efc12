//! What can go wrong between processes.

/// Errors of this crate. Messages are one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The launcher's variables contradict one another or are not all there.
    #[error("{0}")]
    Environment(String),
    /// The processes did not find one another.
    #[error("process {rank} of {world} did not meet the others at {store}: {reason}")]
    NotMet {
        /// This process.
        rank: usize,
        /// Processes that there should be.
        world: usize,
        /// Host and port of process 0.
        store: String,
        /// c10d's.
        reason: String,
    },
    /// Another process has ended, hangs, or cannot be reached any more: this one cannot go on.
    #[error(
        "process {rank} of {world} lost the others, one of which ended, hangs or cannot be reached: {reason}"
    )]
    Lost {
        /// This process.
        rank: usize,
        /// Processes of the group.
        world: usize,
        /// c10d's.
        reason: String,
    },
    /// libtorch refused an operation.
    #[error("tensor operation failed: {0}")]
    Torch(String),
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        // a backtrace follows the first line
        Self::Torch(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}
