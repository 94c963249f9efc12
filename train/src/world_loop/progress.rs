//! How far a run has come, and how its loss went.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps done.
    pub(super) step: u64,
    /// Mean loss since the last line of the log, or of that line if nothing came after it.
    pub(super) loss: Option<f64>,
    /// The lowest mean in the log.
    lowest_logged: Option<f64>,
    /// The lowest mean between two checkpoints.
    lowest_saved: Option<f64>,
    /// Losses since the last line of the log.
    #[serde(skip)]
    pub(super) unlogged: Vec<f64>,
    /// Losses since the last checkpoint.
    #[serde(skip)]
    unsaved: Vec<f64>,
}

impl Progress {
    /// A step was done.
    pub(super) fn advance(&mut self, loss: f64) {
        self.step += 1;
        self.unlogged.push(loss);
        self.unsaved.push(loss);
        self.loss = mean(&self.unlogged);
    }

    /// The mean loss for the log, NaN without a step, and the lowest one logged before.
    pub(super) fn log(&mut self) -> (f64, Option<f64>) {
        let (loss, lowest) = (mean(&self.unlogged).unwrap_or(f64::NAN), self.lowest_logged);
        self.unlogged.clear();
        self.lowest_logged = Some(lowest.unwrap_or(f64::INFINITY).min(loss));
        (loss, lowest)
    }

    /// Whether the steps since the last checkpoint went better than those before any other.
    pub(super) fn save(&mut self) -> bool {
        let loss = mean(&self.unsaved).filter(|&loss| self.lowest_saved.is_none_or(|lowest| loss < lowest));
        self.unsaved.clear();
        self.lowest_saved = loss.or(self.lowest_saved);
        loss.is_some()
    }
}

fn mean(losses: &[f64]) -> Option<f64> {
    (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_since_the_last_line_and_the_last_checkpoint() {
        let mut progress = Progress::default();
        assert!(!progress.save());
        progress.advance(4.0);
        progress.advance(2.0);
        assert_eq!((progress.step, progress.loss), (2, Some(3.0)));
        assert_eq!(progress.log(), (3.0, None));
        assert!(progress.save());
        progress.advance(8.0);
        assert_eq!(progress.log(), (8.0, Some(3.0)));
        assert!(!progress.save());
        progress.advance(1.0);
        assert_eq!(progress.log(), (1.0, Some(3.0)));
        assert!(progress.save());
        assert_eq!((progress.step, progress.loss), (4, Some(1.0)));
    }
}
