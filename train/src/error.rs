//! What can go wrong between a dataset and a weights folder.

use std::path::{Path, PathBuf};

use crate::checkpoint;

/// Errors of this crate. Messages are one line and name the path or the value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Options that contradict one another or the data.
    #[error("{0}")]
    Options(String),
    /// The dataset is absent or not laid out as expected.
    #[error("{0}")]
    Dataset(String),
    /// The loss or a gradient stopped being a finite number, or exploded: nothing was saved from this step.
    #[error("training diverged at step {step}: {reason}; {}", good(last_good))]
    Diverged {
        /// Optimiser steps done before.
        step: u64,
        /// What is too large.
        reason: String,
        /// The newest checkpoint of the run.
        last_good: Option<PathBuf>,
    },
    /// Asked to end before there was anything to save.
    #[error("interrupted before the first step: nothing was written")]
    Interrupted,
    /// A checkpoint that is damaged or belongs to another run.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A TorchScript file that cannot be used for what it was given.
    #[error("{}: {reason}", path.display())]
    Script {
        /// The file.
        path: PathBuf,
        /// What it does instead.
        reason: String,
    },
    /// Something that a figure cannot be had of.
    #[error("{0}")]
    Evaluation(String),
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Frames, latents or a clip.
    #[error(transparent)]
    Codec(#[from] acdit_codec::Error),
    /// The network or a weight file.
    #[error(transparent)]
    Model(#[from] acdit_model::Error),
    /// A session of the weights in training.
    #[error(transparent)]
    Runtime(#[from] acdit_runtime::Error),
    /// The other processes of a run.
    #[error(transparent)]
    Parallel(#[from] acdit_parallel::Error),
    /// libtorch refused an operation.
    #[error("tensor operation failed: {}", first_line(.0))]
    Torch(#[from] tch::TchError),
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Names the newest checkpoint in the folder `checkpoints`, if this is [`Error::Diverged`].
    pub(crate) fn with_last_good(self, checkpoints: &Path) -> Self {
        match self {
            Self::Diverged { step, reason, .. } => {
                let last_good = checkpoint::latest(checkpoints).ok().flatten();
                Self::Diverged { step, reason, last_good }
            }
            other => other,
        }
    }
}

fn good(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "there is no checkpoint yet".into(),
    }
}

/// libtorch appends a backtrace with addresses.
fn first_line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
