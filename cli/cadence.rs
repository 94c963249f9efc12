//! How evenly frames reach a viewer.

use std::time::{Duration, Instant};

use acdit_io::{Packet, State};
use serde::Serialize;

/// What one viewer saw.
#[derive(Debug, Default)]
pub(crate) struct Cadence {
    /// When the viewer asked, and when the first frame came.
    asked: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Between successive frames, in seconds.
    gaps: Vec<f64>,
    /// Playback of the present generation, from its first frame seen.
    playing: Option<Playing>,
    frames: u64,
    bytes: u64,
    late: u64,
    dropped: u64,
    underruns: Option<[u64; 2]>,
    paused: bool,
}

/// How a frame arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Arrival {
    frames: u64,
    bytes: u64,
    late: bool,
    dropped: u64,
    /// Seconds since the one before.
    gap: Option<f64>,
}

/// What arrived at any number of viewers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    frames: u64,
    bytes: u64,
    late: u64,
    dropped: u64,
    gaps: Vec<f64>,
}

/// What a tally comes to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Tallied {
    pub(crate) frames: u64,
    bytes: u64,
    gap_seconds: Option<Percentiles>,
    on_time: Option<f64>,
    dropped: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, arrival: &Arrival) {
        self.frames += arrival.frames;
        self.bytes += arrival.bytes;
        self.late += u64::from(arrival.late);
        self.dropped += arrival.dropped;
        self.gaps.extend(arrival.gap);
    }

    pub(crate) fn total(self) -> Tallied {
        let Self { frames, bytes, late, dropped, gaps } = self;
        Tallied { frames, bytes, gap_seconds: percentiles(gaps), on_time: on_time(frames, late), dropped }
    }
}

/// Share of the frames that were on time.
fn on_time(frames: u64, late: u64) -> Option<f64> {
    (frames > 0).then(|| 1.0 - late as f64 / frames as f64)
}

#[derive(Clone, Copy, Debug)]
struct Playing {
    generation: u32,
    since: Instant,
    /// Presentation time at `since`.
    pts: Duration,
}

/// Figures of one or many viewers. Times are in seconds; `null` where nothing was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// From asking to the first frame; the median over viewers.
    pub(crate) first_frame_seconds: Option<f64>,
    pub(crate) gap_seconds: Option<Percentiles>,
    /// Share of the frames that were there when a player that is one block behind would have shown them.
    pub(crate) on_time: Option<f64>,
    /// Packets that the server left out because the viewer was slow.
    pub(crate) dropped: u64,
    /// Blocks that the world finished late meanwhile, as it says itself.
    pub(crate) underruns: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Cadence {
    /// A viewer asks for the stream at `now`.
    pub(crate) fn asked(now: Instant) -> Self {
        Self { asked: Some(now), ..Self::default() }
    }

    /// A frame has arrived; `slack` is how far behind the first one a player is.
    pub(crate) fn frame(&mut self, packet: &Packet, slack: Duration, now: Instant) -> Arrival {
        let mut arrival = Arrival { frames: 1, bytes: packet.payload.len() as u64, ..Arrival::default() };
        let (generation, pts) = (packet.header.generation, Duration::from_micros(packet.header.pts));
        self.frames += 1;
        self.bytes += arrival.bytes;
        self.first.get_or_insert(now);
        // What comes while the world is paused is a picture sent again, or the end of what was under way.
        if self.paused {
            return arrival;
        }
        arrival.gap = self.last.replace(now).map(|last| (now - last).as_secs_f64());
        self.gaps.extend(arrival.gap);
        match self.playing.filter(|playing| playing.generation == generation) {
            Some(playing) => {
                let due = playing.since + pts.saturating_sub(playing.pts) + slack;
                arrival.late = now > due;
                self.late += u64::from(arrival.late);
            }
            None => self.playing = Some(Playing { generation, since: now, pts }),
        }
        arrival
    }

    /// The server has left out packets. A player begins anew at the next one.
    pub(crate) fn gap(&mut self, dropped: u64) -> Arrival {
        self.dropped += dropped;
        self.playing = None;
        Arrival { dropped, ..Arrival::default() }
    }

    /// The world has said where it stands. While it is paused no frame is due.
    pub(crate) fn state(&mut self, state: &State) {
        let [first, _] = self.underruns.unwrap_or([state.underruns; 2]);
        self.underruns = Some([first, state.underruns]);
        self.paused = state.paused;
        if state.paused {
            (self.playing, self.last) = (None, None);
        }
    }

    /// Frames so far, and those of them that came late.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.frames, self.late)
    }

    /// What it comes to.
    pub(crate) fn figures(&self) -> Figures {
        figures([self])
    }
}

/// What viewers saw, taken together.
pub(crate) fn figures<'a>(viewers: impl IntoIterator<Item = &'a Cadence> + Clone) -> Figures {
    let all = || viewers.clone().into_iter();
    let sum = |of: fn(&Cadence) -> u64| all().map(of).sum::<u64>();
    let first = all().filter_map(|seen| Some((seen.first? - seen.asked?).as_secs_f64())).collect();
    let frames = sum(|seen| seen.frames);
    Figures {
        frames,
        bytes: sum(|seen| seen.bytes),
        first_frame_seconds: percentiles(first).map(|first| first.p50),
        gap_seconds: percentiles(all().flat_map(|seen| seen.gaps.iter().copied()).collect()),
        on_time: on_time(frames, sum(|seen| seen.late)),
        dropped: sum(|seen| seen.dropped),
        underruns: all()
            .filter_map(|seen| seen.underruns)
            .map(|[first, last]| last.saturating_sub(first))
            .max()
            .unwrap_or(0),
    }
}

/// Nearest rank.
pub(crate) fn percentiles(mut values: Vec<f64>) -> Option<Percentiles> {
    values.sort_by(f64::total_cmp);
    let max = *values.last()?;
    let at = |share: f64| values[((share * values.len() as f64).ceil() as usize).clamp(1, values.len()) - 1];
    Some(Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), max })
}

impl Figures {
    pub(crate) fn text(&self) -> String {
        let seconds =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.1} ms", value * 1e3));
        let gap = |of: fn(&Percentiles) -> f64| seconds(self.gap_seconds.as_ref().map(of));
        format!(
            "frames       {} ({:.1} MB)\nfirst frame  {}\ngap          p50 {}, p95 {}, p99 {}, longest {}\n\
             on time      {}\ndropped      {} packets\nunderruns    {} blocks",
            self.frames,
            self.bytes as f64 / 1e6,
            seconds(self.first_frame_seconds),
            gap(|gap| gap.p50),
            gap(|gap| gap.p95),
            gap(|gap| gap.p99),
            gap(|gap| gap.max),
            self.on_time.map_or("-".to_owned(), |share| format!("{:.2}%", share * 100.0)),
            self.dropped,
            self.underruns,
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use acdit_io::{Header, Kind};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A frame of 100 ms; four make a block.
    pub(crate) fn packet(generation: u32, frame: u64) -> Packet {
        let pts = frame * 100_000;
        let (kind, label, block) = (Kind::H264, 0, frame / 4);
        let header = Header {
            kind,
            keyframe: false,
            generated: true,
            injected: false,
            generation,
            frame,
            pts,
            block,
            label,
        };
        Packet { header, payload: vec![0; 10].into() }
    }

    #[test]
    fn frames_are_late_when_a_player_would_have_waited_for_them() {
        let start = Instant::now();
        let mut seen = Cadence::asked(start);
        // due 100 ms apart and 150 ms after the first: at 350, 450 and 550
        for (frame, arrived) in [(3, 200), (4, 260), (5, 449), (6, 651)] {
            seen.frame(&packet(0, frame), 150 * MS, start + arrived * MS);
        }
        assert_eq!(seen.counts(), (4, 1));
        seen.gap(7);
        seen.frame(&packet(0, 20), 150 * MS, start + 700 * MS); // a new beginning
        seen.frame(&packet(1, 0), 150 * MS, start + 5000 * MS); // and another
        let figures = seen.figures();
        assert_eq!((figures.frames, figures.bytes, figures.dropped), (6, 60, 7));
        assert_eq!(figures.first_frame_seconds, Some(0.2));
        assert_eq!(figures.on_time, Some(1.0 - 1.0 / 6.0));
        let gap = figures.gap_seconds.unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(gap.p50, 0.189) && near(gap.p95, 4.3) && near(gap.max, 4.3), "{gap:?}");
    }

    #[test]
    fn a_pause_is_no_gap_and_underruns_are_counted_from_the_first_word() {
        let start = Instant::now();
        let mut seen = Cadence::asked(start);
        let state = |paused, underruns| State { paused, underruns, ..State::default() };
        seen.state(&state(false, 40));
        seen.frame(&packet(0, 0), MS, start);
        seen.state(&state(true, 42));
        seen.frame(&packet(0, 1), MS, start + 9000 * MS);
        let figures = seen.figures();
        assert!(figures.gap_seconds.is_none() && figures.on_time == Some(1.0) && figures.underruns == 2);
    }

    #[test]
    fn nobody_saw_nothing() {
        let figures = figures([&Cadence::default()]);
        assert!(figures.frames == 0 && figures.first_frame_seconds.is_none() && figures.on_time.is_none());
    }
}
