//! The playback clock: when the next block may be generated.
//!
//! A generator that runs ahead of what is on screen makes controls feel dead, and one that tries to catch up after a
//! stall shows a burst. So block `n + 1` is started while block `n` plays, never earlier, and as late as is safe: what the
//! slowest of the last blocks took before it is needed, and a margin. When a block comes too late, the clock slips by as much
//! as it was late: later blocks keep their distance and no latency builds up.
//!
//! The clock is pure: the caller passes the time, as the duration since an origin of its choice.

use std::time::Duration;

/// Kept in hand for what is not measured: other processes, the network, the viewer.
const MARGIN: Duration = Duration::from_millis(25);

/// The playback clock of one stream.
#[derive(Clone, Debug)]
pub struct Pace {
    block: Duration,
    /// What a block takes from its start to its packets; slow ones are remembered for a while.
    takes: Option<Duration>,
    /// When everything delivered so far will have been shown; `None` before the first block.
    end: Option<Duration>,
    due: Duration,
    /// When the block before the next one begins to play: no block is made earlier.
    earliest: Duration,
    frozen_at: Option<Duration>,
    underruns: u64,
}

impl Pace {
    /// A clock for blocks that play for `block` each; [`Duration::ZERO`] means as fast as possible. The first block is
    /// due at once.
    pub fn new(block: Duration) -> Self {
        let (due, earliest) = (Duration::ZERO, Duration::ZERO);
        Self { block, takes: None, end: None, due, earliest, frozen_at: None, underruns: 0 }
    }

    /// Notes what a block took. Until anything is known, blocks are due as early as they may be.
    pub fn took(&mut self, time: Duration) {
        self.takes = Some(self.takes.map_or(time, |before| time.max(before.mul_f64(0.97))));
    }

    /// When the next block is to be generated; `None` while paused.
    pub fn due(&self) -> Option<Duration> {
        self.frozen_at.is_none().then_some(self.due)
    }

    /// Whether the next block may be made at `now` together with another stream's, since it is due or nearly so.
    pub fn is_ready(&self, now: Duration) -> bool {
        self.frozen_at.is_none() && self.earliest <= now && self.due <= now + self.block / 4
    }

    /// Whether blocks come at a steady beat that others can fall in with.
    pub fn has_beat(&self) -> bool {
        self.frozen_at.is_none() && self.end.is_some() && !self.block.is_zero()
    }

    /// Notes that the first block is ready together with one of `other`, and keeps that one's time from now on: its next
    /// block is due with the other's, and this one's is shown a little longer.
    pub fn fall_in(&mut self, other: &Self) {
        let (underruns, frozen_at) = (self.underruns, self.frozen_at);
        *self = Self { underruns, frozen_at, ..other.clone() };
    }

    /// Notes that the next block is ready at `now`.
    ///
    /// A block that was being generated when the clock was paused counts at the time of the pause.
    pub fn delivered(&mut self, now: Duration) {
        let now = self.frozen_at.unwrap_or(now);
        let start = self.end.map_or(now, |end| end.max(now));
        if !self.block.is_zero() && self.end.is_some_and(|end| end < now) {
            self.underruns += 1;
        }
        self.end = Some(start + self.block);
        self.earliest = start;
        self.due = start + self.takes.map_or(Duration::ZERO, |time| self.block.saturating_sub(time + MARGIN));
    }

    /// Notes that a block asked for while paused is on screen: the next one is due as soon as the clock runs again.
    pub fn stepped(&mut self, now: Duration) {
        let now = self.frozen_at.unwrap_or(now);
        self.end = Some(now);
        (self.due, self.earliest) = (now, now);
    }

    /// Stops the clock.
    pub fn pause(&mut self, now: Duration) {
        self.frozen_at.get_or_insert(now);
    }

    /// Starts the clock where it stopped.
    pub fn resume(&mut self, now: Duration) {
        if let Some(frozen_at) = self.frozen_at.take() {
            let stopped_for = now.saturating_sub(frozen_at);
            self.due += stopped_for;
            self.earliest += stopped_for;
            self.end = self.end.map(|end| end + stopped_for);
        }
    }

    /// Forgets what was delivered, as when the stream starts anew: the next block is due at once.
    pub fn restart(&mut self) {
        self.end = None;
        self.due = self.frozen_at.unwrap_or(Duration::ZERO);
        self.earliest = self.due;
    }

    /// Blocks that came after the one before them had ended.
    pub fn underruns(&self) -> u64 {
        self.underruns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_fast_generator_stays_one_block_ahead() {
        let mut pace = Pace::new(ms(500));
        assert_eq!(pace.due(), Some(ms(0)));
        pace.delivered(ms(1100)); // plays 1100..1600
        assert_eq!(pace.due(), Some(ms(1100)));
        pace.delivered(ms(1200)); // plays 1600..2100
        assert_eq!(pace.due(), Some(ms(1600)));
        pace.delivered(ms(1700)); // plays 2100..2600
        assert_eq!(pace.due(), Some(ms(2100)));
        assert_eq!(pace.underruns(), 0);
    }

    #[test]
    fn streams_that_are_nearly_due_may_be_made_together() {
        let mut pace = Pace::new(ms(400));
        assert!(pace.is_ready(ms(0)) && !pace.has_beat());
        pace.took(ms(50));
        pace.delivered(ms(0)); // plays 0..400
        assert_eq!(pace.due(), Some(ms(325)));
        assert!(pace.has_beat());
        assert_eq!([224, 225].map(|at| pace.is_ready(ms(at))), [false, true]);
        pace.took(ms(375));
        pace.delivered(ms(200)); // plays 400..800
        assert_eq!(pace.due(), Some(ms(400)));
        assert_eq!([399, 400].map(|at| pace.is_ready(ms(at))), [false, true], "not before it plays");
        pace.pause(ms(500));
        assert!(!pace.is_ready(ms(600)) && !pace.has_beat());
        pace.resume(ms(1000));
        assert_eq!([899, 900].map(|at| pace.is_ready(ms(at))), [false, true]);
    }

    #[test]
    fn who_falls_in_is_due_with_the_other() {
        let (mut first, mut second) = (Pace::new(ms(400)), Pace::new(ms(400)));
        first.took(ms(100));
        first.delivered(ms(0));
        first.delivered(ms(150)); // plays 400..800
        second.fall_in(&first);
        assert_eq!((second.due(), second.underruns()), (Some(ms(675)), 0));
        second.delivered(ms(675));
        first.delivered(ms(675));
        assert_eq!(second.due(), first.due());
    }

    #[test]
    fn what_is_made_quickly_is_started_late() {
        let mut pace = Pace::new(ms(500));
        pace.took(ms(50));
        pace.delivered(ms(0)); // plays 0..500
        assert_eq!(pace.due(), Some(ms(425)), "a block's time and the margin before it is needed");
        pace.took(ms(40));
        pace.delivered(ms(340)); // plays 500..1000
        assert_eq!(
            pace.due(),
            Some(ms(500) + Duration::from_micros(426_500)),
            "a slower block is remembered"
        );
        pace.took(ms(190));
        pace.delivered(ms(1000)); // plays 1000..1500
        assert_eq!(pace.due(), Some(ms(1285)));
        pace.took(ms(480));
        pace.delivered(ms(1480));
        assert_eq!(pace.due(), Some(ms(1500)), "never before the block before it plays");
        assert_eq!(pace.underruns(), 0);
    }

    #[test]
    fn a_late_block_slips_the_clock_once_and_is_not_caught_up() {
        let mut pace = Pace::new(ms(500));
        pace.delivered(ms(0)); // plays 0..500
        pace.delivered(ms(900)); // 400 late: plays 900..1400
        assert_eq!((pace.due(), pace.underruns()), (Some(ms(900)), 1));
        pace.delivered(ms(1000)); // plays 1400..1900
        assert_eq!((pace.due(), pace.underruns()), (Some(ms(1400)), 1));
    }

    #[test]
    fn a_slow_generator_is_always_due_and_its_latency_does_not_grow() {
        let mut pace = Pace::new(ms(500));
        for block in 0..100 {
            let ready = ms(800 * block);
            pace.delivered(ready);
            assert_eq!(pace.due(), Some(ready), "playback of block {block} starts the moment it is ready");
        }
        assert_eq!(pace.underruns(), 99);
    }

    #[test]
    fn pause_stops_everything_and_resume_goes_on_where_it_was() {
        let mut pace = Pace::new(ms(500));
        pace.delivered(ms(0));
        pace.delivered(ms(100)); // due 500, shown until 1000
        pace.pause(ms(300));
        assert_eq!(pace.due(), None);
        pace.pause(ms(400)); // a second pause changes nothing
        pace.resume(ms(10_300));
        assert_eq!(pace.due(), Some(ms(10_500)));
        pace.delivered(ms(10_600));
        assert_eq!((pace.due(), pace.underruns()), (Some(ms(11_000)), 0));
    }

    #[test]
    fn a_block_in_flight_at_the_pause_counts_as_delivered_then() {
        let mut pace = Pace::new(ms(500));
        pace.delivered(ms(0));
        pace.pause(ms(100));
        pace.delivered(ms(450)); // plays 500..1000 of the frozen clock
        pace.resume(ms(1100));
        assert_eq!((pace.due(), pace.underruns()), (Some(ms(1500)), 0));
    }

    #[test]
    fn single_steps_leave_no_debt() {
        let mut pace = Pace::new(ms(500));
        pace.delivered(ms(0));
        pace.pause(ms(100));
        for step in 0..10 {
            pace.stepped(ms(1000 * step + 200));
            assert_eq!(pace.due(), None);
        }
        pace.resume(ms(20_000));
        assert_eq!(pace.due(), Some(ms(20_000)));
    }

    #[test]
    fn zero_length_blocks_are_always_due() {
        let mut pace = Pace::new(Duration::ZERO);
        for time in [ms(3), ms(4), ms(90)] {
            pace.delivered(time);
            assert_eq!((pace.due(), pace.underruns()), (Some(time), 0));
        }
    }

    #[test]
    fn restart_makes_the_next_block_due_at_once() {
        let mut pace = Pace::new(ms(500));
        pace.delivered(ms(0));
        pace.delivered(ms(10));
        pace.restart();
        assert_eq!(pace.due(), Some(ms(0)));
        pace.delivered(ms(700));
        assert_eq!((pace.due(), pace.underruns()), (Some(ms(700)), 0));
    }
}
