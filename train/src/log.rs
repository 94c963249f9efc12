//! What a run says about itself: a JSON line per record in a file, and a progress bar where someone is looking.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::Error;

/// A run's log file and progress bar.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    bar: ProgressBar,
}

impl Log {
    /// Opens `path` to append to it, so that a resumed run continues its log, and starts the bar at `done` of `total`
    /// steps. The bar is drawn on standard error, and only if that is a terminal.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, done: u64, total: u64) -> Result<Self, Error> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| Error::io(path, e))?;
        let bar =
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_position(done);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {per_sec}  eta {eta}  {msg}");
        bar.set_style(style.expect("the template is fixed and well-formed"));
        bar.reset_eta();
        Ok(Self { path: path.into(), file, bar })
    }

    /// Moves the bar to `step` and shows `message` beside it.
    pub fn progress(&self, step: u64, message: String) {
        self.bar.set_position(step);
        self.bar.set_message(message);
    }

    /// Appends `record` as one line of JSON.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record(&mut self, record: &impl Serialize) -> Result<(), Error> {
        let written = serde_json::to_string(record)
            .map_err(std::io::Error::from)
            .and_then(|line| writeln!(self.file, "{line}"));
        written.map_err(|e| Error::io(&self.path, e))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.bar.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_appends_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        for step in [1, 2] {
            let mut log = Log::open(&path, step - 1, 2).unwrap();
            log.progress(step, "loss 0.5".into());
            log.record(&serde_json::json!({"step": step, "loss": 0.5})).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n");
        assert!(Log::open(folder.path(), 0, 1).unwrap_err().to_string().contains("directory"));
    }
}
