//! What can go wrong between a file, a configuration and the network.

use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration contradicts itself; the text names the values.
    #[error("invalid model configuration: {0}")]
    Config(String),
    /// A tensor has not the shape that the configuration asks for.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// The tensor's role.
        what: &'static str,
        /// The shape asked for.
        expected: Vec<i64>,
        /// The shape given.
        got: Vec<i64>,
    },
    /// A block position lies beyond the rotary tables of published weights.
    #[error(
        "block {block} lies beyond the {frames} frames the published position tables cover: use the recompute window"
    )]
    Position {
        /// Block index.
        block: i64,
        /// Frames in the table.
        frames: i64,
    },
    /// A weight file does not fit the network.
    #[error("{path}: weights do not fit the model: {detail}", path = path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Missing, extra and mis-shaped keys.
        detail: String,
    },
    /// A file is absent or unreadable.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{path}: {detail}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },
    /// A diffusion setting is out of range.
    #[error("invalid sampling: {0}")]
    Sampling(String),
    /// libtorch refused an operation.
    #[error("tensor operation failed: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}
