//! Recording a session: its packets as a film, and beside it the log from which the film can be computed again.
//!
//! A thread for each recording takes the packets from the thread that hands them to the viewers, through a queue of its own.
//! That queue never holds anybody up: when it is full the recording ends, and says so. What is recorded is wanted like what
//! is watched, so that it goes on without viewers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use acdit_io::{Hub, Kind, Packet, Refusal, Reply, WorldInfo};
use acdit_model::write_atomically;
use acdit_runtime::StreamHandle;
use anyhow::Context;

use crate::recording::Film;
use crate::sidecar::{self, Sidecar};

/// Packets that wait to be written: eight seconds of 30 frames each. With one more, the disk is too slow for the recording,
/// which ends.
const QUEUE: usize = 256;

const TOO_SLOW: &str = "the disk did not keep up";
const NO_ROOM: &str = "all recordings together have reached --recordings-mb";
const LOST: &str = "the server did not keep up: frames were lost before they were recorded";

/// Where recordings are kept.
#[derive(Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    /// Fingerprint of the weights.
    weights: String,
    /// Bytes that all recordings may have together; and those they have, films that are being made among them.
    limit: u64,
    used: AtomicU64,
}

impl Place {
    pub(crate) fn new(folder: PathBuf, weights: String, limit: u64) -> Self {
        Self { folder, weights, limit, used: AtomicU64::new(0) }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks how much there is, since files may have been deleted. Whether there is room for more.
    fn has_room(&self) -> std::io::Result<bool> {
        let sizes = std::fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.metadata()?.len()));
        let used = sizes.sum::<std::io::Result<u64>>()?;
        self.used.store(used, Ordering::Relaxed);
        Ok(used < self.limit)
    }

    /// Whether a packet has room; it is counted if so.
    fn takes(&self, packet: &Packet) -> bool {
        let bytes = packet.payload.len() as u64;
        let fits = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// What a recording is made of.
pub(crate) struct Subject {
    pub(crate) session: String,
    pub(crate) handle: Arc<StreamHandle>,
    pub(crate) hub: Hub,
    pub(crate) info: WorldInfo,
}

/// One session's recordings, one at a time.
pub(crate) struct Recorder {
    place: Option<Arc<Place>>,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    /// Viewers of H.264 and of JPEG.
    viewers: (usize, usize),
    thread: Option<JoinHandle<()>>,
    /// Who asked for the end.
    reply: Option<Reply>,
}

enum Phase {
    Idle,
    On(SyncSender<Packet>),
    /// The queue is closed; what it holds is still being written. Why it ended, unless that was asked for.
    Ending(Option<&'static str>),
}

impl Recorder {
    pub(crate) fn new(place: Option<Arc<Place>>) -> Self {
        let inner = Inner { phase: Phase::Idle, viewers: (0, 0), thread: None, reply: None };
        Self { place, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on how many viewers there are, and one for the recording.
    pub(crate) fn viewers(&self, handle: &StreamHandle, h264: usize, jpeg: usize) {
        let mut inner = self.lock();
        inner.viewers = (h264, jpeg);
        inner.report(handle);
    }

    /// Takes a packet, if there is a recording. `missed` packets were lost just before it.
    pub(crate) fn offer(&self, packet: &Packet, missed: u64) {
        let mut inner = self.lock();
        let Phase::On(queue) = &inner.phase else { return };
        if missed > 0 {
            inner.phase = Phase::Ending(Some(LOST));
        } else if packet.header.kind == Kind::H264 {
            match queue.try_send(packet.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => inner.phase = Phase::Ending(Some(TOO_SLOW)),
                // its thread has met an error, and ends
                Err(TrySendError::Disconnected(_)) => inner.phase = Phase::Ending(None),
            }
        }
    }

    /// Begins a recording. Returns at once; the first block is told when it is known.
    pub(crate) fn begin(self: &Arc<Self>, subject: Subject, reply: Reply) {
        let Some(place) = self.place.clone() else {
            return reply
                .refused("no_recordings", "this server keeps no recordings: it runs without --recordings");
        };
        let mut inner = self.lock();
        match inner.phase {
            Phase::Idle => {}
            Phase::On(_) => return reply.refused("recording", "this session is being recorded already"),
            Phase::Ending(_) => return reply.refused("busy", "the last recording is still being written"),
        }
        let (queue, packets) = sync_channel(QUEUE);
        inner.phase = Phase::On(queue);
        inner.report(&subject.handle);
        let (this, handle) = (self.clone(), subject.handle.clone());
        let thread = std::thread::Builder::new().name("record".to_owned());
        match thread.spawn(move || this.record(&place, &subject, &packets, reply)) {
            Ok(thread) => inner.thread = Some(thread),
            // the reply is gone, which reads as refused
            Err(error) => {
                tracing::error!("a recording did not begin: {error}");
                inner.phase = Phase::Idle;
                inner.report(&handle);
            }
        }
    }

    /// Ends the recording. Returns at once; the block after its last is told when the film is whole.
    pub(crate) fn end(&self, reply: Reply) {
        let mut inner = self.lock();
        match inner.phase {
            Phase::Idle => reply.refused("not_recording", "this session is not being recorded"),
            Phase::Ending(_) => reply.refused("busy", "the recording is ending already"),
            Phase::On(_) => {
                inner.phase = Phase::Ending(None);
                inner.reply = Some(reply);
            }
        }
    }

    /// Ends the recording, if there is one, and waits until it is whole.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        if let Phase::On(_) = inner.phase {
            inner.phase = Phase::Ending(None);
        }
        let thread = inner.thread.take();
        drop(inner);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a recording's thread panicked");
        }
    }

    /// The recording's thread.
    fn record(&self, place: &Place, subject: &Subject, packets: &Receiver<Packet>, reply: Reply) {
        let Subject { session, handle, hub, info } = subject;
        let begun = place.has_room().map_err(anyhow::Error::from).and_then(|has_room| {
            let begin = || Ok((handle.cut()?, sidecar::free_name(&place.folder, session)?));
            has_room.then(begin).transpose()
        });
        let (cut, name) = match begun {
            Ok(Some(begun)) => begun,
            Ok(None) => {
                self.rest(handle);
                return reply.refused("recordings_full", NO_ROOM);
            }
            Err(error) => {
                tracing::error!("a recording did not begin: {error:#}");
                self.rest(handle);
                return reply.refused("failed", "the recording could not begin");
            }
        };
        let since = cut.block;
        hub.amend(|state| state.recording = Some(acdit_io::Recording { name: name.clone(), since }));
        reply.applied(since);

        let mut film = Film::new(place.folder.join(format!("{name}.mp4")), info, cut);
        let written = packets.iter().try_for_each(|packet| match place.takes(&packet) {
            true => film.add(packet).map_err(|error| error.to_string()),
            false => Err(NO_ROOM.to_owned()),
        });
        // Whatever comes now finds nobody: this is said before the film is finished, which may take a while.
        let cause = match (&written, self.close()) {
            (Err(error), _) => Some(error.clone()),
            (Ok(()), cause) => cause.map(str::to_owned),
        };
        let kept = keep(film, place, subject, &name, cause);
        hub.amend(|state| state.recording = None);
        let reply = self.rest(handle);
        match (kept, reply) {
            (Ok(next), Some(reply)) => reply.applied(next.unwrap_or(since)),
            (Ok(_), None) => {}
            (Err(error), reply) => {
                tracing::error!(name, "a recording is not whole: {error:#}");
                let message = "the recording could not be finished";
                reply.map(|reply| reply.refused_for(Refusal::new("failed", message))).unwrap_or_default();
            }
        }
    }

    /// Takes no more packets. Why it ended, unless that was asked for.
    fn close(&self) -> Option<&'static str> {
        let mut inner = self.lock();
        match inner.phase {
            Phase::Ending(cause) => cause,
            _ => {
                inner.phase = Phase::Ending(None);
                None
            }
        }
    }

    /// There is no recording any more. Returns who asked for the end.
    fn rest(&self, handle: &StreamHandle) -> Option<Reply> {
        let mut inner = self.lock();
        inner.phase = Phase::Idle;
        inner.report(handle);
        inner.reply.take()
    }
}

impl Inner {
    fn report(&self, handle: &StreamHandle) {
        let (h264, jpeg) = self.viewers;
        let recorded = usize::from(!matches!(self.phase, Phase::Idle));
        handle.viewers(h264 + recorded, jpeg);
    }
}

/// Completes the film and puts its log beside it. Returns the block after its last, if it has any.
fn keep(
    film: Film,
    place: &Place,
    subject: &Subject,
    name: &str,
    error: Option<String>,
) -> anyhow::Result<Option<u64>> {
    let Subject { session, handle, info, .. } = subject;
    if let Some(error) = &error {
        tracing::warn!(name, "a recording ends: {error}");
    }
    let Some((runs, broken)) = film.finish() else { return Ok(None) };
    let timeline = handle.timeline().context("its log")?;
    let mut sidecar = Sidecar::of(runs, timeline.log().iter());
    (sidecar.world, sidecar.session) = (info.world.clone(), session.clone());
    sidecar.weights.clone_from(&place.weights);
    sidecar.frames_per_second = info.frames_per_second;
    sidecar.error = error.or_else(|| broken.map(|error| error.to_string()));
    write_atomically(&place.folder.join(format!("{name}.json")), &sidecar.to_json()?)?;
    Ok(Some(sidecar.blocks[1]))
}

#[cfg(test)]
mod tests {
    use acdit_io::Header;

    use super::*;

    fn packet(kind: Kind) -> Packet {
        let (keyframe, generated, injected) = (true, true, false);
        let (generation, frame, pts, block, label) = (0, 0, 0, 0, 0);
        let header = Header { kind, keyframe, generated, injected, generation, frame, pts, block, label };
        Packet { header, payload: b"x".as_slice().into() }
    }

    /// A recorder whose thread takes nothing, and the queue's other end.
    fn stuck(room: usize) -> (Recorder, Receiver<Packet>) {
        let (queue, packets) = sync_channel(room);
        let recorder = Recorder::new(None);
        recorder.lock().phase = Phase::On(queue);
        (recorder, packets)
    }

    #[test]
    fn a_full_queue_ends_the_recording_and_holds_nobody_up() {
        let (recorder, packets) = stuck(2);
        recorder.offer(&packet(Kind::H264), 0);
        recorder.offer(&packet(Kind::Jpeg), 0);
        recorder.offer(&packet(Kind::H264), 0);
        assert!(matches!(recorder.lock().phase, Phase::On(_)));
        recorder.offer(&packet(Kind::H264), 0);
        recorder.offer(&packet(Kind::H264), 0);
        assert_eq!(packets.iter().count(), 2, "what was taken is written");
        assert_eq!(recorder.close(), Some(TOO_SLOW));
    }

    #[test]
    fn recordings_take_no_more_than_they_may() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.mp4"), [0; 7]).unwrap();
        let place = Place::new(folder.path().into(), String::new(), 9);
        assert!(place.has_room().unwrap());
        let packet = packet(Kind::H264); // one byte
        assert_eq!([(); 3].map(|()| place.takes(&packet)), [true, true, false]);
        std::fs::write(folder.path().join("b.mp4"), [0; 2]).unwrap();
        assert!(!place.has_room().unwrap());
        std::fs::remove_file(folder.path().join("a.mp4")).unwrap();
        assert!(place.has_room().unwrap() && place.takes(&packet));
    }

    #[test]
    fn packets_that_were_lost_on_the_way_end_the_recording() {
        let (recorder, packets) = stuck(2);
        recorder.offer(&packet(Kind::H264), 0);
        recorder.offer(&packet(Kind::Jpeg), 3);
        assert_eq!((packets.iter().count(), recorder.close()), (1, Some(LOST)));
        let (recorder, packets) = stuck(2);
        drop(packets);
        recorder.offer(&packet(Kind::H264), 0);
        assert_eq!(recorder.close(), None, "its thread knows why");
    }
}
