//! `decode-upload`: the process in which a stranger's clip is decoded. The server starts it; nobody else needs it.
//!
//! It takes the clip as an open file on stdin, gives everything else up (`acdit_sandbox::confine`), and only then reads the
//! first byte. Frames, or a reason, go to stdout; one line for the server's log goes to stderr. No tensor is ever made here,
//! and none of the program's settings are read.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::process::ExitCode;

use acdit_codec::Size;
use acdit_codec::video::{DecodeOptions, Limits, Reason, Reply, decode_last};
use acdit_sandbox::{Allowance, Layers, confine, die_with_parent};
use clap::Parser;

const VERB: &str = "decode-upload";

/// Memory beyond what the program's libraries map at its start: a 10-bit clip of the largest picture size needs about half.
const MEMORY: u64 = 512 << 20;

/// CPU time of a check, in seconds.
const CHECK_SECONDS: u64 = 10;

#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "acdit-world decode-upload")]
pub(crate) enum Task {
    /// Confine this process, say which layers are in force as JSON, and end
    Check,
    /// Decode a clip on stdin and write its last frames to stdout
    Last {
        /// Size of the frames
        #[arg(long)]
        size: Size,
        /// Frames per second
        #[arg(long)]
        fps: f64,
        /// Frames at most
        #[arg(long)]
        count: usize,
        /// CPU time
        #[arg(long)]
        seconds: u64,
        /// End when this process does
        #[arg(long)]
        parent: Option<u32>,
        /// Decode even where the kernel has neither Landlock nor seccomp
        #[arg(long)]
        even_unconfined: bool,
    },
}

impl Task {
    /// The words after the program's name that ask for this.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec![VERB.to_owned()];
        match self {
            Self::Check => words.push("check".into()),
            &Self::Last { size, fps, count, seconds, parent, even_unconfined } => {
                words.extend(["last".into(), format!("--size={size}"), format!("--fps={fps}")]);
                words.extend([format!("--count={count}"), format!("--seconds={seconds}")]);
                words.extend(parent.map(|parent| format!("--parent={parent}")));
                words.extend(even_unconfined.then(|| "--even-unconfined".into()));
            }
        }
        words
    }
}

/// The words from the verb on, if this process was started to decode.
pub(crate) fn asked() -> Option<Vec<OsString>> {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    words.first().is_some_and(|verb| verb == VERB).then_some(words)
}

pub(crate) fn run(words: Vec<OsString>) -> ExitCode {
    let task = Task::try_parse_from(words).unwrap_or_else(|error| error.exit());
    let done = match task {
        Task::Check => check(),
        Task::Last { size, fps, count, seconds, parent, even_unconfined } => {
            if let Some(Err(error)) = parent.map(die_with_parent) {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
            let options = DecodeOptions { size, frames_per_second: fps, limits: Limits::UPLOAD };
            let allowance = Allowance { memory: MEMORY, cpu_seconds: seconds };
            let enough = |layers: Layers| layers.suffice() || even_unconfined;
            last(&options, count, allowance, enough).write(&mut std::io::stdout().lock())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> std::io::Result<()> {
    let layers = confine(Allowance { memory: MEMORY, cpu_seconds: CHECK_SECONDS });
    println!("{}", serde_json::to_string(&layers.map_err(std::io::Error::other)?)?);
    Ok(())
}

fn last(
    options: &DecodeOptions,
    count: usize,
    allowance: Allowance,
    enough: impl FnOnce(Layers) -> bool,
) -> Reply {
    let refused = |reason, said: &dyn std::fmt::Display| {
        eprintln!("{said}");
        Reply::Refused(reason)
    };
    match confine(allowance) {
        Ok(layers) if enough(layers) => {}
        Ok(layers) => return refused(Reason::Unconfined, &layers),
        Err(error) => return refused(Reason::Unconfined, &error),
    }
    // SAFETY: stdin is open, and nothing else in this process reads or closes it.
    let clip = unsafe { File::from_raw_fd(0) };
    match decode_last(clip, options, count) {
        Ok(clip) => Reply::Frames(clip.frames),
        Err(error) => refused(Reason::from(&error), &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_read_as_they_are_written() {
        let size = Size { width: 64, height: 48 };
        let (fps, count, seconds) = (30_000.0 / 1001.0, 12, 20);
        let task =
            |parent, even_unconfined| Task::Last { size, fps, count, seconds, parent, even_unconfined };
        for task in [Task::Check, task(None, false), task(Some(7), true)] {
            assert_eq!(Task::try_parse_from(task.words()).unwrap(), task);
        }
    }
}
