//! Decoding in a process of its own: starting it, waiting for it, and turning its end into words for the sender.
//!
//! The words are this server's own in every case. What the process said goes into the refusal's detail, which is logged
//! under the request's id and never sent.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

use acdit_codec::Frame;
use acdit_codec::video::{Limits, Reason, Reply};
use acdit_io::Refusal;
use acdit_sandbox::{Error, Finished, Layers, Patience, Worker};

use super::UploadArgs;
use crate::decode_upload::Task;
use crate::film::Wanted;

/// This very program, even if its file was replaced or removed since.
const SELF: &str = "/proc/self/exe";

/// Wall time for a check.
const CHECK: Duration = Duration::from_secs(30);

/// Logs how uploads will be decoded, once that was tried.
pub(super) fn announce(args: UploadArgs) {
    std::thread::spawn(move || match layers() {
        Ok(layers) if layers.suffice() => {
            tracing::info!("uploads are decoded in a process of their own: {layers}");
        }
        found => {
            let found = found.map_or_else(|error| error, |layers| layers.to_string());
            if args.allow_unsandboxed_uploads {
                tracing::warn!("uploads are decoded without a sandbox, as asked for: {found}");
            } else {
                tracing::warn!("uploads are refused, there is no sandbox to decode them in: {found}");
            }
        }
    });
}

/// The layers that confine a decoder on this machine, found by confining one.
pub(crate) fn layers() -> Result<Layers, String> {
    let worker = Worker::spawn(command(&Task::Check), b"").map_err(|error| error.to_string())?;
    let finished = worker.finish(Patience { wall: CHECK, stdout: 4096 }, || false);
    let finished = finished.map_err(|error| error.to_string())?;
    serde_json::from_slice(&finished.stdout).map_err(|_| end_of(&finished))
}

/// The last frames of a clip.
pub(super) fn last_frames(
    clip: &[u8],
    wanted: Wanted,
    args: UploadArgs,
    abandoned: impl Fn() -> bool,
) -> Result<Vec<Frame>, Refusal> {
    let Wanted { size, frames_per_second: fps, frames: count } = wanted;
    let UploadArgs { upload_seconds: seconds, allow_unsandboxed_uploads: even_unconfined } = args;
    let task = Task::Last { size, fps, count, seconds, parent: Some(std::process::id()), even_unconfined };
    let patience = Patience { wall: Duration::from_secs(seconds), stdout: Reply::longest(size, count) };
    let finished = Worker::spawn(command(&task), clip)
        .and_then(|worker| worker.finish(patience, abandoned))
        .map_err(|error| broken(&error, seconds))?;
    let Finished { cpu, peak_memory, .. } = finished;
    tracing::debug!(bytes = clip.len(), ?cpu, peak_memory, "clip decoded: {}", end_of(&finished));
    match Reply::read(&finished.stdout, size, count) {
        Ok(Reply::Frames(frames)) => Ok(frames),
        Ok(Reply::Refused(reason)) => Err(refused(reason).because(finished.said)),
        Err(error) => Err(failed().because(format!("{}; {error}", end_of(&finished)))),
    }
}

fn command(task: &Task) -> Command {
    let mut command = Command::new(SELF);
    command.arg0("acdit-world").args(task.words());
    command
}

fn refused(reason: Reason) -> Refusal {
    match reason {
        Reason::NotAVideo => {
            Refusal::new("not_a_video", "not a video (expected MP4/MOV, AVI, Matroska or WebM)")
        }
        Reason::Codec => Refusal::new(
            "codec_not_accepted",
            "codec not accepted (expected H.264, HEVC, VP8, VP9, AV1, MPEG-4 or MJPEG)",
        ),
        Reason::TooLarge => {
            let Limits { bytes, pixels, frames, seconds } = Limits::UPLOAD;
            let megabytes = bytes >> 20;
            Refusal::new(
                "too_large",
                format!(
                    "a clip may have {megabytes} MiB, {pixels} pixels a frame, {frames} frames and {seconds} seconds"
                ),
            )
        }
        Reason::NoPictures => Refusal::new("no_pictures", "the clip holds no frame that can be decoded"),
        Reason::Unconfined => {
            Refusal::new("uploads_refused", "this server takes no clips: it has no sandbox to decode them in")
        }
        Reason::Failed => failed(),
    }
}

fn failed() -> Refusal {
    Refusal::new("decoder_failed", "the clip could not be decoded")
}

/// A process that did not answer.
fn broken(error: &Error, seconds: u64) -> Refusal {
    let refusal = match error {
        Error::TooSlow { .. } => {
            Refusal::new("too_slow", format!("the clip took longer than {seconds} seconds to decode"))
        }
        Error::TooMuch { .. } => failed(),
        _ => Refusal::new("unavailable", "clips cannot be decoded at the moment"),
    };
    refusal.because(error.to_string())
}

/// How a process ended, and what it said about that.
fn end_of(finished: &Finished) -> String {
    let status = finished.status;
    let end = match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => format!("exit status {}", status.code().unwrap_or_default()),
    };
    if finished.said.is_empty() { end } else { format!("{end}, saying: {}", finished.said) }
}
