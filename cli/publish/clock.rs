//! Timestamps for a target, which must go on through rewinds, pauses and reconnections.
//!
//! A stream's own timestamps begin anew with each generation and stand still while it is paused. A live target's follow the
//! clock on the wall: within a generation frames keep their distance, and when that has led too far from the wall (a
//! pause, late blocks, packets from before we came) the next one is placed anew. A file has no wall: its frames follow one
//! another, and a pause takes no time.

use std::time::Duration;

use acdit_io::{Header, WorldInfo};

/// How far a live stream's timestamps may be from the wall at least, in microseconds; two blocks if that is more.
const SLACK: u64 = 1_000_000;

/// From a picture to the same one sent again, and between frames that come too fast, in microseconds.
const STEP: u64 = 1_000;

pub(super) struct Clock {
    live: bool,
    /// How long a frame is shown, in microseconds.
    frame: u64,
    slack: u64,
    newest: Option<Newest>,
}

/// The newest frame.
#[derive(Clone, Copy)]
struct Newest {
    generation: u32,
    number: u64,
    /// Its own timestamp and the one it was given, in microseconds. A picture sent again changes neither.
    pts: u64,
    placed: u64,
    /// The newest timestamp given, of whatever frame.
    last: u64,
}

impl Clock {
    /// Nothing yet. `live` targets follow the wall.
    pub(super) fn new(info: &WorldInfo, live: bool) -> Self {
        let micros = |seconds: f64| (seconds * 1e6) as u64;
        let frame = micros(1.0 / info.frames_per_second).max(STEP);
        Self { live, frame, slack: SLACK.max(2 * u64::from(info.frames_per_block) * frame), newest: None }
    }

    /// When to show a frame, in microseconds since the first. `now` is the wall's time since some origin before it.
    pub(super) fn place(&mut self, header: &Header, now: Duration) -> u64 {
        let now = if self.live { u64::try_from(now.as_micros()).unwrap_or(u64::MAX) } else { 0 };
        let Header { generation, frame: number, pts, .. } = *header;
        let (at, placed) = match self.newest {
            None => (now, now),
            Some(newest) if newest.generation != generation => {
                let at = now.max(newest.last + self.frame);
                (at, at)
            }
            Some(mut newest) if number <= newest.number => {
                newest.last = now.max(newest.last + STEP);
                self.newest = Some(newest);
                return newest.last;
            }
            Some(newest) => {
                let wanted = newest.placed + pts.saturating_sub(newest.pts);
                let behind = wanted <= newest.last || (self.live && wanted + self.slack < now);
                let ahead = self.live && wanted > now + self.slack;
                let at = match (behind, ahead) {
                    (true, _) => now.max(newest.last + self.frame),
                    (false, true) => now.max(newest.last + STEP),
                    (false, false) => wanted,
                };
                (at, at)
            }
        };
        self.newest = Some(Newest { generation, number, pts, placed, last: at });
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(live: bool) -> Clock {
        let info = WorldInfo { frames_per_second: 10.0, frames_per_block: 4, ..WorldInfo::default() };
        Clock::new(&info, live)
    }

    /// Places frames of (generation, number), each at its time on the wall in milliseconds; in milliseconds.
    fn placed(live: bool, frames: &[(u32, u64, u64)]) -> Vec<u64> {
        let mut clock = clock(live);
        let mut place = |&(generation, frame, now): &(u32, u64, u64)| {
            let header = Header {
                kind: acdit_io::Kind::H264,
                keyframe: false,
                generated: true,
                injected: false,
                generation,
                frame,
                pts: frame * 100_000,
                block: 0,
                label: 0,
            };
            clock.place(&header, Duration::from_millis(now)) / 1000
        };
        frames.iter().map(&mut place).collect()
    }

    #[test]
    fn blocks_that_come_at_once_are_shown_evenly() {
        let blocks: Vec<_> = (20..32).map(|frame| (3, frame, (frame - 20) / 4 * 390)).collect();
        let even: Vec<_> = (0..12).map(|frame| frame * 100).collect();
        assert_eq!(placed(true, &blocks), even);
        assert_eq!(placed(false, &blocks), even);
    }

    #[test]
    fn generations_follow_one_another() {
        let frames = [(0, 7, 0), (0, 8, 0), (1, 2, 450), (1, 3, 450), (0, 0, 500)];
        assert_eq!(placed(true, &frames), [0, 100, 450, 550, 650]);
        assert_eq!(placed(false, &frames), [0, 100, 200, 300, 400]);
    }

    #[test]
    fn a_picture_sent_again_takes_no_time_unless_time_has_passed() {
        let frames = [(0, 0, 0), (0, 1, 0), (0, 1, 50), (0, 2, 60), (0, 2, 2200), (0, 3, 9000), (0, 4, 9000)];
        assert_eq!(placed(true, &frames), [0, 100, 101, 200, 2200, 9000, 9100]);
        assert_eq!(placed(false, &frames), [0, 100, 101, 200, 201, 300, 400]);
    }

    #[test]
    fn a_backlog_is_hurried_through() {
        let backlog: Vec<_> = (0..40).map(|frame| (0, frame, 0)).chain([(0, 40, 100)]).collect();
        let placed = placed(true, &backlog);
        assert!(placed.is_sorted_by(|a, b| a < b), "{placed:?}");
        assert_eq!((placed[10], placed[39], placed[40]), (1000, 1029, 1030), "{placed:?}");
    }
}
