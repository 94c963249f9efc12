//! How long to wait before trying again: 1 s, twice as long each time, at most 30 s.

use std::time::Duration;

use rand::Rng as _;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Waits differ by up to this share, so that many who lost the same server do not come back at once.
const JITTER: f64 = 0.2;

pub(super) struct BackOff(Duration);

impl Default for BackOff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl BackOff {
    /// It worked: the next wait is a short one.
    pub(super) fn reset(&mut self) {
        self.0 = FIRST;
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST);
        wait.mul_f64(1.0 + JITTER * rand::rng().random_range(-1.0..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let mut back_off = BackOff::default();
        for expected in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            let wait = back_off.next().as_secs_f64() / expected;
            assert!((1.0 - JITTER..1.0 + JITTER).contains(&wait), "{wait} of {expected} s");
        }
        back_off.reset();
        assert!(back_off.next().as_secs_f64() < 1.0 + JITTER);
    }
}
