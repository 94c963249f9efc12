//! How soon a viewer sees what was asked for: labels changed again and again, as somebody who plays would.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use acdit_io::{Event, Header, Request, ServerMessage};
use serde::Serialize;

use crate::cadence::{Percentiles, percentiles};

/// From a change being seen to the next, in milliseconds.
const REST: u64 = 400;
/// Changes should fall on any moment of a block: the rest grows by such steps, up to so much, and begins anew. Milliseconds.
const DRIFT: u64 = 37;
const MOST_DRIFT: u64 = 250;

/// Asks for one label after the other, each once the one before was seen.
#[derive(Debug)]
pub(crate) struct Steering {
    labels: u32,
    label: u32,
    screen: Screen,
    /// When to ask next; none while an answer or its picture is outstanding.
    next: Option<Instant>,
    asked: Option<Asked>,
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Asked {
    id: u64,
    at: Instant,
    /// Block on screen.
    showing: u64,
    /// When the answer came, and its block.
    applied: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Seen {
    answer: Duration,
    screen: Duration,
    /// From the block that was on screen to the one that shows it.
    blocks: u64,
}

/// What a player shows that keeps nothing back: a frame comes on screen when it arrives, or after the one before.
#[derive(Debug, Default)]
struct Screen {
    generation: Option<u32>,
    /// When time stamp 0 would have been shown.
    zero: Option<Instant>,
    /// When each block comes on screen, of the newest few.
    blocks: BTreeMap<u64, Instant>,
}

/// How many blocks a screen remembers.
const REMEMBERED: usize = 16;

impl Screen {
    fn frame(&mut self, header: &Header, now: Instant) {
        if self.generation != Some(header.generation) {
            *self = Self { generation: Some(header.generation), ..Self::default() };
        }
        let pts = Duration::from_micros(header.pts);
        let on_time = self.zero.map_or(now, |zero| zero + pts);
        let due = on_time.max(now);
        self.zero = due.checked_sub(pts);
        self.blocks.entry(header.block).or_insert(due);
        while self.blocks.len() > REMEMBERED {
            self.blocks.pop_first();
        }
    }

    fn showing(&self, now: Instant) -> Option<u64> {
        self.blocks.iter().rev().find(|(_, due)| **due <= now).map(|(block, _)| *block)
    }

    /// When a block, or the first one after it, comes on screen.
    fn shows(&self, block: u64) -> Option<Instant> {
        self.blocks.range(block..).next().map(|(_, due)| *due)
    }
}

impl Steering {
    /// Begins to steer with so many labels once something is on screen.
    pub(crate) fn new(labels: usize) -> Self {
        let labels = u32::try_from(labels).unwrap_or(u32::MAX).max(1);
        Self { labels, label: 0, screen: Screen::default(), next: None, asked: None, seen: Vec::new() }
    }

    /// When [`Self::ask`] is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// The next change, to be sent.
    pub(crate) fn ask(&mut self) -> Request {
        self.next = None;
        self.label = (self.label + 1) % self.labels;
        Request::Label { index: self.label }
    }

    /// The change was sent under `id`.
    pub(crate) fn sent(&mut self, id: u64, now: Instant) {
        let showing = self.screen.showing(now);
        self.asked = showing.map(|showing| Asked { id, at: now, showing, applied: None });
        if self.asked.is_none() {
            self.rest(now);
        }
    }

    /// Something has arrived.
    pub(crate) fn see(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Packet(packet) => {
                let before = self.screen.generation;
                self.screen.frame(&packet.header, now);
                // Block numbers begin anew: nothing can be said of a change on the way.
                if before != self.screen.generation {
                    self.asked = None;
                    self.rest(now);
                }
            }
            Event::Message(ServerMessage::Applied { id, block, .. }) => {
                if let Some(asked) = self.asked.as_mut().filter(|asked| asked.id == *id) {
                    asked.applied = Some((now, *block));
                }
            }
            Event::Message(ServerMessage::Refused { id: Some(id), .. })
                if self.asked.take_if(|asked| asked.id == *id).is_some() =>
            {
                self.rest(now);
            }
            _ => {}
        }
        self.settle(now);
    }

    /// Notes a change whose picture has a time.
    fn settle(&mut self, now: Instant) {
        let Some(Asked { at, showing, applied: Some((answered, block)), .. }) = self.asked else { return };
        let Some(due) = self.screen.shows(block) else { return };
        self.asked = None;
        self.seen.push(Seen {
            answer: answered - at,
            screen: due.saturating_duration_since(at),
            blocks: block.saturating_sub(showing),
        });
        self.rest(now);
    }

    fn rest(&mut self, now: Instant) {
        let drift = self.seen.len() as u64 * DRIFT % MOST_DRIFT;
        self.next = Some(now + Duration::from_millis(REST + drift));
    }

    /// What it comes to.
    pub(crate) fn steered(self) -> Steered {
        let seconds = |of: fn(&Seen) -> Duration| {
            percentiles(self.seen.iter().map(|seen| of(seen).as_secs_f64()).collect())
        };
        let mut blocks = BTreeMap::new();
        for seen in &self.seen {
            *blocks.entry(seen.blocks).or_default() += 1;
        }
        Steered {
            changes: self.seen.len(),
            answer_seconds: seconds(|seen| seen.answer),
            screen_seconds: seconds(|seen| seen.screen),
            blocks,
        }
    }
}

/// How soon changes were seen.
#[derive(Debug, Serialize)]
pub(crate) struct Steered {
    changes: usize,
    /// From a request to its `applied`.
    answer_seconds: Option<Percentiles>,
    /// From a request to its first picture, at a player that keeps nothing back.
    screen_seconds: Option<Percentiles>,
    /// So many blocks after the one that was on screen: how many changes.
    blocks: BTreeMap<u64, usize>,
}

impl Steered {
    pub(crate) fn text(&self) -> String {
        let times = |of: &Option<Percentiles>| {
            of.map_or("-".to_owned(), |Percentiles { p50, p95, max, .. }| {
                format!("p50 {:.0} ms, p95 {:.0} ms, longest {:.0} ms", p50 * 1e3, p95 * 1e3, max * 1e3)
            })
        };
        let blocks: Vec<String> =
            self.blocks.iter().map(|(blocks, changes)| format!("{changes} after {blocks}")).collect();
        format!(
            "changes      {}\nanswered     {}\non screen    {}\nblocks       {}",
            self.changes,
            times(&self.answer_seconds),
            times(&self.screen_seconds),
            blocks.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cadence::tests::packet;

    fn frame(generation: u32, frame: u64) -> Event {
        Event::Packet(packet(generation, frame))
    }

    fn applied(id: u64, block: u64) -> Event {
        Event::Message(ServerMessage::Applied { id, block, session: None, sessions: None })
    }

    #[test]
    fn a_change_is_seen_with_its_blocks_first_picture() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut steering = Steering::new(3);
        assert_eq!(steering.due(), None, "nothing is on screen");
        (0..4).for_each(|number| steering.see(&frame(0, number), at(0)));
        assert_eq!(steering.due(), Some(at(400)));
        (4..8).for_each(|number| steering.see(&frame(0, number), at(300))); // on screen from 400
        assert_eq!(steering.ask(), Request::Label { index: 1 });
        steering.sent(7, at(450)); // block 1 is on screen
        assert_eq!(steering.due(), None);
        (8..12).for_each(|number| steering.see(&frame(0, number), at(700)));
        steering.see(&applied(7, 3), at(460));
        (12..16).for_each(|number| steering.see(&frame(0, number), at(1300))); // 100 ms late
        assert_eq!(steering.due(), Some(at(1300 + 400 + 37)));

        steering.ask();
        steering.sent(8, at(1350));
        steering.see(&applied(8, 4), at(1360));
        steering.see(&frame(1, 0), at(1400)); // begins anew: not counted
        assert_eq!(steering.ask(), Request::Label { index: 0 });
        steering.sent(9, at(1410));
        steering.see(&applied(9, 1), at(1420));
        (1..5).for_each(|number| steering.see(&frame(1, number), at(1500)));

        let Steered { changes, answer_seconds, screen_seconds, blocks } = steering.steered();
        assert_eq!((changes, blocks), (2, BTreeMap::from([(1, 1), (2, 1)])));
        assert_eq!((answer_seconds.unwrap().max, answer_seconds.unwrap().p50), (0.01, 0.01));
        assert_eq!((screen_seconds.unwrap().max, screen_seconds.unwrap().p50), (0.85, 0.39));
    }
}
