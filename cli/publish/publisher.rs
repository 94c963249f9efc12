//! The thread that carries a stream to one target, and comes back when that was gone.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

pub(super) use acdit_codec::video::Target;
use acdit_codec::video::{Interrupt, Publication};
use acdit_codec::{Error, Size};
use acdit_io::{Delivery, Hub, Kind, Packet, Viewer, WorldInfo};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Published;
use super::back_off::BackOff;
use super::clock::Clock;

/// A stream that stands still is kept alive by its picture, sent again so often.
const STILL: Duration = Duration::from_secs(2);

/// A connection that has lasted so long was a good one: when it is lost, the first attempt follows soon.
const GOOD: Duration = Duration::from_secs(10);

/// What a target has left to take the end of the stream; then its connection is cut.
const GRACE: Duration = Duration::from_secs(2);

type Ask = Box<dyn Fn() + Send>;

/// A target's thread.
pub(crate) struct Publisher {
    target: String,
    interrupt: Interrupt,
    end: Arc<Notify>,
    done: Receiver<Published>,
}

impl Publisher {
    pub(super) fn start(target: Target, hub: Hub, info: &WorldInfo, ask: Ask) -> std::io::Result<Self> {
        let (interrupt, end) = (Interrupt::default(), Arc::new(Notify::new()));
        let (report, done) = mpsc::channel();
        let name = target.to_string();
        let published = Published { target: name.clone(), ..Published::default() };
        let carrier = Carrier {
            target,
            hub,
            info: info.clone(),
            ask,
            interrupt: interrupt.clone(),
            end: end.clone(),
            published,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new().name("publish-to".to_owned()).spawn(move || {
            // Fails only if nobody waits any more.
            let _ = report.send(runtime.block_on(carrier.carry()));
        })?;
        Ok(Self { target: name, interrupt, end, done })
    }

    pub(super) fn ask_to_end(&self) {
        self.interrupt.end_within(GRACE);
        self.end.notify_one();
    }

    /// What became of it, once it has ended or at `deadline`.
    pub(super) fn wait(self, deadline: Instant) -> Published {
        self.done.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_else(|_| {
            tracing::warn!("{}: did not end in time", self.target);
            Published { target: self.target, ..Published::default() }
        })
    }
}

struct Carrier {
    target: Target,
    hub: Hub,
    info: WorldInfo,
    /// Asks the source for a keyframe.
    ask: Ask,
    interrupt: Interrupt,
    end: Arc<Notify>,
    published: Published,
}

impl Carrier {
    async fn carry(mut self) -> Published {
        let mut back_off = BackOff::default();
        let mut viewer = self.hub.join(Kind::H264);
        loop {
            let began = Instant::now();
            match self.connection(&mut viewer).await {
                Ok(()) => break,
                Err(error) if self.interrupt.is_ending() => {
                    tracing::warn!("{error}");
                    break;
                }
                Err(error) if self.target.is_file() => {
                    tracing::error!("{error}; nothing more is written there");
                    break;
                }
                Err(error) => {
                    if began.elapsed() >= GOOD {
                        back_off.reset();
                    }
                    let wait = back_off.next();
                    let Published { frames, dropped, .. } = self.published;
                    tracing::warn!(frames, dropped, "{error}; trying again in {:.1} s", wait.as_secs_f64());
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.end.notified() => break,
                    }
                    // What waits in the old seat is old. That is given up second, so that there is always a viewer.
                    viewer = self.hub.join(Kind::H264);
                }
            }
        }
        let Published { target, frames, dropped, connections } = &self.published;
        tracing::info!(frames, dropped, connections, "{target}: the end");
        self.published
    }

    /// One connection, from the first keyframe until the end was asked for.
    async fn connection(&mut self, viewer: &mut Viewer) -> Result<(), Error> {
        let mut publication = None;
        let (mut clock, began) = (Clock::new(&self.info, !self.target.is_file()), Instant::now());
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.end.notified() => break,
                delivery = timeout(STILL, viewer.next()) => delivery,
            };
            match delivery {
                Ok(Delivery::Packet(message)) => {
                    let Ok(Packet { header, payload }) = Packet::decode(message) else { continue };
                    let publication = match &mut publication {
                        Some(publication) => publication,
                        none => none.insert(self.open(&payload)?),
                    };
                    let at = clock.place(&header, began.elapsed());
                    publication.write(&payload, header.keyframe, at)?;
                    self.published.frames += 1;
                }
                Ok(Delivery::Gap(dropped)) => self.published.dropped += dropped,
                Ok(Delivery::NeedsKeyframe) => (self.ask)(),
                Err(_) if !self.target.is_file() => (self.ask)(),
                Err(_) => {}
            }
        }
        publication.map_or(Ok(()), Publication::finish)
    }

    fn open(&mut self, keyframe: &[u8]) -> Result<Publication, Error> {
        let acdit_io::Size { width, height } = self.info.frame;
        let (size, rate) = (Size { width, height }, self.info.frames_per_second);
        let publication = Publication::open(&self.target, size, rate, keyframe, &self.interrupt)?;
        self.published.connections += 1;
        tracing::info!("{}: publishing", self.target);
        Ok(publication)
    }
}
