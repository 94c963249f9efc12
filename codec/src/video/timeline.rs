//! When each decoded picture is on display.
//!
//! A container's timestamps may start anywhere, be missing (raw MPEG-4 in AVI) or run backwards (damaged files). Here
//! they become seconds from the first picture that always increase, so that resampling is a plain comparison and no
//! picture is lost.

/// From `start` to `end`, in seconds after the first picture appeared. Only the last picture is shown until `end`: any
/// other gives way when its successor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) start: f64,
    pub(super) end: f64,
}

pub(super) struct Timeline {
    /// Seconds per timestamp unit.
    tick: f64,
    /// Seconds a picture lasts where the container does not say.
    nominal: f64,
    origin: Option<i64>,
    last: Option<f64>,
}

impl Timeline {
    pub(super) fn new(tick: f64, nominal: f64) -> Self {
        Self { tick, nominal, origin: None, last: None }
    }

    /// How much later than asked a picture may start and still be taken as on display then. Containers round to their
    /// tick (1 ms in Matroska), which must not turn 29.97 frames/s into a stutter; a coarse tick (one frame, in AVI)
    /// is exact.
    pub(super) fn tolerance(&self) -> f64 {
        self.tick.min(1e-3)
    }

    /// The span of the next picture in display order; `duration` in ticks, zero if unknown.
    pub(super) fn place(&mut self, timestamp: Option<i64>, duration: i64) -> Span {
        let start = match self.last {
            None => {
                self.origin = timestamp;
                0.0
            }
            Some(last) => {
                let since_origin = |(t, origin): (i64, i64)| t.saturating_sub(origin) as f64 * self.tick;
                let stated = timestamp.zip(self.origin).map(since_origin);
                stated.filter(|&start| start > last).unwrap_or(last + self.nominal)
            }
        };
        self.last = Some(start);
        let lasts = if duration > 0 { duration as f64 * self.tick } else { self.nominal };
        Span { start, end: start + lasts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(timestamps: &[Option<i64>]) -> Vec<f64> {
        let mut timeline = Timeline::new(0.5, 2.0);
        timestamps.iter().map(|&t| timeline.place(t, 0).start).collect()
    }

    #[test]
    fn the_first_picture_is_time_zero() {
        assert_eq!(starts(&[Some(40), Some(41), Some(48)]), [0.0, 0.5, 4.0]);
    }

    #[test]
    fn missing_and_backward_timestamps_advance_by_the_nominal_duration() {
        assert_eq!(starts(&[None, None, None]), [0.0, 2.0, 4.0]);
        assert_eq!(starts(&[Some(0), Some(8), Some(2), Some(20)]), [0.0, 4.0, 6.0, 10.0]);
        assert_eq!(starts(&[Some(0), Some(i64::MAX), Some(i64::MIN)])[1], i64::MAX as f64 * 0.5);
    }

    #[test]
    fn a_picture_lasts_as_long_as_it_says() {
        let mut timeline = Timeline::new(0.5, 2.0);
        assert_eq!(timeline.place(Some(0), 3), Span { start: 0.0, end: 1.5 });
        assert_eq!(timeline.place(Some(3), 0), Span { start: 1.5, end: 3.5 });
    }
}
