//! Fan-out of one stream to many viewers, none of which can slow the source or another viewer.
//!
//! Every viewer has its own bounded queue. When it is full the viewer has fallen behind: what waits is dropped up to
//! a keyframe, and the viewer is told how much it missed. The invariant kept here: **a viewer is never handed a delta
//! frame unless the frame just before it was handed over too.** That holds across drops, late joins, restarts, and
//! packets that were lost before they were published.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::{
    metrics::Metrics,
    protocol::{Header, Kind, MAX_PACKET, Packet, State},
};

#[cfg(test)]
mod tests;

/// Packets in one viewer's queue at most; then the viewer drops to a keyframe. It matters for streams whose
/// timestamps do not advance, for others `max_lag` comes first.
const QUEUE_PACKETS: usize = 256;

/// Bytes in one viewer's queue at most; then the viewer drops to a keyframe. Two of the largest packets.
const QUEUE_BYTES: usize = 2 * MAX_PACKET;

/// Packets kept since the newest keyframe for whoever joins. A longer run is forgotten, and a joiner waits for the
/// keyframe that is asked for on its behalf.
const BACKLOG_PACKETS: usize = 64;

/// How many viewers want each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Viewers of [`Kind::H264`].
    pub h264: usize,
    /// Viewers of [`Kind::Jpeg`].
    pub jpeg: usize,
}

/// Totals since the hub was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct HubStats {
    /// Packets published.
    pub published: u64,
    /// Packets dropped from slow viewers' queues, summed over viewers.
    pub dropped: u64,
    /// Viewers now.
    pub viewers: usize,
}

/// Where a source publishes and viewers listen. Clones share one stream.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max_lag: u64,
    lanes: Mutex<Lanes>,
    demand: watch::Sender<Demand>,
    state: watch::Sender<State>,
    /// Of the server that serves it.
    metrics: OnceLock<Arc<Metrics>>,
}

#[derive(Debug, Default)]
struct Lanes {
    h264: Lane,
    jpeg: Lane,
    /// Generation and frame of the newest packet of any kind.
    newest: Option<(u32, u64)>,
    stats: HubStats,
}

/// One kind's viewers and the run of packets that a new one can start from.
#[derive(Debug, Default)]
struct Lane {
    seats: Vec<Arc<Seat>>,
    /// Generation and frame of the newest packet, if what follows it can be decoded.
    newest: Option<(u32, u64)>,
    /// Everything since the newest keyframe, if it is still short enough.
    backlog: Option<Vec<Bytes>>,
}

#[derive(Debug)]
struct Seat {
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Packets dropped since the last one queued.
    missed: u64,
    /// Nothing but a keyframe may be queued next.
    broken: bool,
    /// The viewer already learnt that it needs a keyframe.
    asked: bool,
    /// A packet was queued once, so that what is missed from now on is a gap.
    started: bool,
}

#[derive(Debug)]
struct Entry {
    message: Bytes,
    keyframe: bool,
    pts: u64,
    /// Packets dropped just before this one.
    gap: u64,
}

/// What a viewer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Send this binary message, which [`Packet::decode`] reads.
    Packet(Bytes),
    /// Tell the viewer that so many packets are missing here.
    Gap(u64),
    /// Ask the source for a keyframe: nothing comes until then.
    NeedsKeyframe,
}

/// One viewer's end. Dropping it gives the seat back.
#[derive(Debug)]
pub struct Viewer {
    hub: Hub,
    kind: Kind,
    seat: Arc<Seat>,
    backlog: VecDeque<Bytes>,
}

impl Hub {
    /// A hub without viewers. One whose queue spans more than `max_lag` of stream time drops to a keyframe; that
    /// should be no shorter than two blocks, since a block's frames are published together.
    pub fn new(max_lag: Duration) -> Self {
        Self(Arc::new(Shared {
            max_lag: u64::try_from(max_lag.as_micros()).unwrap_or(u64::MAX),
            lanes: Mutex::default(),
            demand: watch::Sender::default(),
            state: watch::Sender::default(),
            metrics: OnceLock::new(),
        }))
    }

    /// Counts from now on what is published and announced. The first server counts; there is one.
    pub(crate) fn count_in(&self, metrics: Arc<Metrics>) {
        let _ = self.0.metrics.set(metrics);
    }

    /// Hands a packet to every viewer of its kind. Never blocks.
    ///
    /// A delta frame that does not follow the last published frame cannot be decoded and goes to nobody.
    pub fn publish(&self, packet: &Packet) {
        let dropped = self.hand_out(packet);
        if let Some(metrics) = self.0.metrics.get() {
            metrics.published(dropped);
        }
    }

    /// Returns how many packets were dropped over it.
    fn hand_out(&self, packet: &Packet) -> u64 {
        let header = packet.header;
        let message = packet.encode();
        let mut lanes = self.lanes();
        lanes.stats.published += 1;
        lanes.newest = Some((header.generation, header.frame));
        let Lanes { h264, jpeg, stats, .. } = &mut *lanes;
        let lane = match header.kind {
            Kind::H264 => h264,
            Kind::Jpeg => jpeg,
        };
        if !lane.admits(&header) || message.len() > MAX_PACKET {
            tracing::debug!(frame = header.frame, bytes = message.len(), "packet cannot be delivered");
            lane.newest = None;
            lane.backlog = None;
            let lost = lane.seats.iter().map(|seat| seat.lose()).sum();
            stats.dropped += lost;
            return lost;
        }
        lane.remember(&header, &message);
        let offer = |seat: &Arc<Seat>| {
            let entry =
                Entry { message: message.clone(), keyframe: header.keyframe, pts: header.pts, gap: 0 };
            seat.offer(entry, self.0.max_lag)
        };
        let dropped = lane.seats.iter().map(offer).sum();
        stats.dropped += dropped;
        dropped
    }

    /// Tells every viewer where the world stands. A slow viewer sees only the newest.
    pub fn announce(&self, state: State) {
        self.amend(|announced| *announced = state);
    }

    /// Tells every viewer of a change to what was announced last.
    pub fn amend(&self, change: impl FnOnce(&mut State)) {
        self.0.state.send_modify(|state| match self.0.metrics.get() {
            None => change(state),
            Some(metrics) => {
                let before = state.clone();
                change(state);
                metrics.moved(&before, state);
            }
        });
    }

    /// Totals so far.
    pub fn stats(&self) -> HubStats {
        let lanes = self.lanes();
        HubStats { viewers: lanes.h264.seats.len() + lanes.jpeg.seats.len(), ..lanes.stats }
    }

    /// Follows how many viewers there are.
    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.0.demand.subscribe()
    }

    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.0.state.subscribe()
    }

    /// Takes a seat. The stream starts at the newest keyframe if what followed it is still known, and if the kind was
    /// not left behind while nobody wanted it, or by a restart that was announced since.
    pub fn join(&self, kind: Kind) -> Viewer {
        let announced = self.0.state.borrow().generation;
        let mut lanes = self.lanes();
        let newest = lanes.newest.filter(|(generation, _)| *generation >= announced);
        let lane = lanes.lane(kind);
        let current = lane.backlog.as_ref().filter(|_| newest.is_some() && lane.newest == newest);
        let backlog = VecDeque::from(current.cloned().unwrap_or_default());
        let started = !backlog.is_empty();
        let queue = Mutex::new(Queue { broken: !started, started, ..Queue::default() });
        let seat = Arc::new(Seat { queue, ready: Notify::new() });
        lane.seats.push(seat.clone());
        self.0.demand.send_replace(lanes.demand());
        Viewer { hub: self.clone(), kind, seat, backlog }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::H264 => &mut self.h264,
            Kind::Jpeg => &mut self.jpeg,
        }
    }

    fn demand(&self) -> Demand {
        Demand { h264: self.h264.seats.len(), jpeg: self.jpeg.seats.len() }
    }
}

impl Lane {
    fn admits(&self, header: &Header) -> bool {
        let before = header.frame.checked_sub(1).map(|frame| (header.generation, frame));
        header.keyframe || (before.is_some() && self.newest == before)
    }

    fn remember(&mut self, header: &Header, message: &Bytes) {
        self.newest = Some((header.generation, header.frame));
        if header.keyframe {
            self.backlog = Some(Vec::new());
        }
        match &mut self.backlog {
            Some(run) if run.len() < BACKLOG_PACKETS => run.push(message.clone()),
            full => *full = None,
        }
    }
}

impl Seat {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a packet; returns how many were dropped over it.
    fn offer(&self, mut entry: Entry, max_lag: u64) -> u64 {
        let mut queue = self.queue();
        let mut dropped = 0;
        // A second time, if what follows the newest keyframe is too much by itself.
        while queue.is_full_for(&entry, max_lag) {
            dropped += queue.drop_to_keyframe();
        }
        if queue.broken && !entry.keyframe {
            dropped += queue.miss();
        } else {
            queue.broken = false;
            queue.asked = false;
            queue.started = true;
            queue.bytes += entry.message.len();
            entry.gap = std::mem::take(&mut queue.missed);
            queue.entries.push_back(entry);
        }
        self.ready.notify_one();
        dropped
    }

    /// A packet was lost before it got here: what is queued stays good, what follows needs a keyframe.
    fn lose(&self) -> u64 {
        let mut queue = self.queue();
        queue.broken = true;
        self.ready.notify_one();
        queue.miss()
    }
}

impl Queue {
    fn is_full_for(&self, entry: &Entry, max_lag: u64) -> bool {
        let lag = self.entries.front().map_or(0, |oldest| entry.pts.saturating_sub(oldest.pts));
        lag > max_lag || self.entries.len() >= QUEUE_PACKETS || self.bytes + entry.message.len() > QUEUE_BYTES
    }

    /// Drops what comes before the newest queued keyframe; if there is none but at the front, drops everything.
    fn drop_to_keyframe(&mut self) -> u64 {
        let newest = self.entries.iter().rposition(|entry| entry.keyframe).filter(|&at| at > 0);
        let cut = newest.unwrap_or(self.entries.len());
        let mut gap = 0;
        for entry in self.entries.drain(..cut) {
            self.bytes -= entry.message.len();
            gap += entry.gap + 1;
        }
        match self.entries.front_mut() {
            Some(first) => first.gap += gap,
            None => {
                self.missed += gap;
                self.broken = true;
            }
        }
        cut as u64
    }

    /// Counts a packet that was not queued. What was sent before the first one is no loss.
    fn miss(&mut self) -> u64 {
        let missed = u64::from(self.started);
        self.missed += missed;
        missed
    }
}

impl Viewer {
    /// Waits for the next thing to do. Cancel-safe: nothing is taken off the queue before it is returned.
    pub async fn next(&mut self) -> Delivery {
        if let Some(message) = self.backlog.pop_front() {
            return Delivery::Packet(message);
        }
        loop {
            if let Some(delivery) = self.try_next() {
                return delivery;
            }
            self.seat.ready.notified().await;
        }
    }

    fn try_next(&self) -> Option<Delivery> {
        let mut queue = self.seat.queue();
        if let Some(next) = queue.entries.front_mut()
            && next.gap > 0
        {
            return Some(Delivery::Gap(std::mem::take(&mut next.gap)));
        }
        if let Some(entry) = queue.entries.pop_front() {
            queue.bytes -= entry.message.len();
            return Some(Delivery::Packet(entry.message));
        }
        let needed = queue.broken && !queue.asked;
        queue.asked |= needed;
        needed.then_some(Delivery::NeedsKeyframe)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut lanes = self.hub.lanes();
        lanes.lane(self.kind).seats.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        self.hub.0.demand.send_replace(lanes.demand());
    }
}
