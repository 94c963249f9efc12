//! What a judge counted over a film, whole and stretch by stretch.

use serde::Serialize;

/// Frames over which one line of a [`Report`] is taken.
pub const WINDOW_FRAMES: u64 = 100;

/// What is counted over frames and can be added up.
pub trait Counts: Clone + Default {
    /// Frames seen.
    fn frames(&self) -> u64;
    /// Takes in what was counted over other frames.
    fn add(&mut self, other: &Self);
}

/// What a judge saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report<T> {
    /// All frames.
    pub overall: T,
    /// Successive [`WINDOW_FRAMES`], the last may be shorter.
    pub windows: Vec<T>,
}

impl<T: Counts> Report<T> {
    /// Takes in the next frames, no more than fit into one window.
    pub fn push(&mut self, tally: &T) {
        if self.overall.frames().is_multiple_of(WINDOW_FRAMES) {
            self.windows.push(T::default());
        }
        self.overall.add(tally);
        if let Some(window) = self.windows.last_mut() {
            window.add(tally);
        }
    }

    /// The first `frames` frames, in whole windows.
    pub fn first(&self, frames: u64) -> T {
        sum(self.windows.iter().take((frames / WINDOW_FRAMES) as usize))
    }

    /// The last `frames` frames, in whole windows.
    pub fn last(&self, frames: u64) -> T {
        sum(self.windows.iter().rev().take((frames / WINDOW_FRAMES) as usize))
    }
}

fn sum<'a, T: Counts + 'a>(windows: impl Iterator<Item = &'a T>) -> T {
    windows.fold(T::default(), |mut sum, window| {
        sum.add(window);
        sum
    })
}

/// `part` of `whole`; `None` of nothing.
pub fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
