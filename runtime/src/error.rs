//! What can go wrong between a weights folder and a packet.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// Not a device name.
    #[error("unknown device {got:?}: expected auto, cpu, cuda or cuda:N")]
    UnknownDevice {
        /// The text given.
        got: String,
    },
    /// Not a precision name.
    #[error("unknown dtype {got:?}: expected auto, f32 or bf16")]
    UnknownPrecision {
        /// The text given.
        got: String,
    },
    /// CUDA was asked for and cannot be used.
    #[error("CUDA is not available: {reason}")]
    Cuda {
        /// What is missing.
        reason: String,
    },
    /// A CUDA kernel of ours did not compile, load or launch.
    #[error("CUDA kernel {name}: {reason}")]
    Kernel {
        /// The kernel.
        name: &'static str,
        /// The compiler's or the driver's words.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start thread {name}")]
    Thread {
        /// The thread's name.
        name: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
