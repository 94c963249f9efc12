//! What a run says about itself: a JSON line per record in a file, the same for TensorBoard beside it, and a progress bar where
//! someone is looking.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::Error;
use crate::tensorboard::Events;

/// A run's log files and progress bar.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    /// From the first record on.
    events: Option<Events>,
    bar: ProgressBar,
}

impl Log {
    /// Opens `path` to append to it, so that a resumed run continues its log (without the half line of a killed one), and starts the bar at `done` of `total`
    /// steps. The bar is drawn on standard error, and only if that is a terminal.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, done: u64, total: u64) -> Result<Self, Error> {
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            if file.metadata()?.is_file() {
                let text = std::fs::read(path)?;
                let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
                file.set_len(whole as u64)?;
            }
            Ok(file)
        };
        let file = open().map_err(|e| Error::io(path, e))?;
        let bar =
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_position(done);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {per_sec}  eta {eta}  {msg}");
        bar.set_style(style.expect("the template is fixed and well-formed"));
        bar.reset_eta();
        Ok(Self { path: path.into(), file, events: None, bar })
    }

    /// Moves the bar to `step` and shows `message` beside it.
    pub fn progress(&self, step: u64, message: String) {
        self.bar.set_position(step);
        self.bar.set_message(message);
    }

    /// Appends `record` of `step` as one line of JSON, and its numbers to TensorBoard's file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record(&mut self, step: u64, record: &impl Serialize) -> Result<(), Error> {
        let failed = |e| Error::io(&self.path, e);
        let json = serde_json::to_string(record).map_err(std::io::Error::from).map_err(failed)?;
        writeln!(self.file, "{json}").map_err(failed)?;
        let fields: serde_json::Value =
            serde_json::from_str(&json).map_err(std::io::Error::from).map_err(failed)?;
        let numbers = fields.as_object().into_iter().flatten();
        let numbers = numbers.filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)));
        let events = match &mut self.events {
            Some(events) => events,
            none => none.insert(Events::create(self.path.parent().unwrap_or(Path::new(".")))?),
        };
        events.scalars(step, numbers.filter(|(name, _)| *name != "step"))
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
            log.record(step, &serde_json::json!({"step": step, "loss": 0.5})).unwrap();
            // as if killed within a line
            std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"lo").unwrap();
        }
        drop(Log::open(&path, 2, 2).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n");
        assert!(Log::open(folder.path(), 0, 1).unwrap_err().to_string().contains("directory"));
    }
}
