//! What can go wrong between a weights folder and a packet.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// The network or its files.
    #[error(transparent)]
    Model(#[from] acdit_model::Error),
    /// Frames, the VAE, or the video encoder.
    #[error(transparent)]
    Codec(#[from] acdit_codec::Error),
    /// `world.json` is not what it should be.
    #[error("{path}: {detail}", path = path.display())]
    WorldFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A label that the world does not have.
    #[error("unknown label {got:?}; this world has: {}", known.join(", "))]
    UnknownLabel {
        /// The name given.
        got: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The window asked for cannot stream these weights exactly.
    #[error("{0}")]
    Window(String),
    /// An event that does not fit the session.
    #[error("{0}")]
    Input(String),
    /// A block came out with values that are not finite; it was not committed.
    #[error("block {block} is not finite: the weights or the sampling settings diverge")]
    Diverged {
        /// The block's index.
        block: u64,
    },
    /// The tensor library gave up in the middle of something, as when memory is out.
    #[error("it could not be computed: {reason}")]
    Library {
        /// The library's words.
        reason: String,
    },
    /// An image has all its blocks.
    #[error("the image is complete with {blocks} blocks")]
    ImageComplete {
        /// Blocks of an image.
        blocks: i64,
    },
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
    /// A line of an event log cannot be read.
    #[error("event log, line {line}: {detail}")]
    Log {
        /// From 1.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// A block of a log came out otherwise.
    #[error("replay: block {block} is {got}, the log has {expected}")]
    Replay {
        /// The block's index in the log.
        block: u64,
        /// The log's hash.
        expected: String,
        /// The hash now.
        got: String,
    },
    /// A saved session cannot be used.
    #[error("{path}: {detail}", path = path.display())]
    Snapshot {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The engine serves as many streams as it can.
    #[error("all {streams} streams are taken")]
    Full {
        /// Streams at a time.
        streams: usize,
    },
    /// The engine has ended.
    #[error("the engine has ended")]
    Stopped,
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

/// Does `what`, with panics of the tensor library as [`Error::Library`]: tch panics where libtorch throws. For threads that
/// serve many streams; `what` must leave nothing half changed where it calls the library.
pub(crate) fn caught<T, E: From<Error>>(
    what: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Error::Library { reason: words.lines().next().unwrap_or_default().to_owned() }.into())
    })
}
