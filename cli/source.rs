//! The seam between the web server and the engine: what viewers ask for goes in, packets and states come out.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acdit_codec::{Frame, Size};
use acdit_io::{Hub, Kind, PastBlock, Reply, WorldInfo, WorldSource};
use acdit_runtime::{
    Consumer, Control, Moments, Outcome, Packet, PacketKind, Past, Saver, State, StreamHandle, write_log,
};

use crate::recorder::{Recorder, Subject};
use crate::uploads::Uploads;

/// A stream of the engine as the server sees it.
pub(crate) struct StreamSource {
    /// The session's id.
    pub(crate) id: String,
    pub(crate) hub: Hub,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) handle: Arc<StreamHandle>,
    pub(crate) info: WorldInfo,
    /// Where clips to continue from are decoded.
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) saved: Mutex<Saved>,
}

/// What is on disk of a session.
#[derive(Debug)]
pub(crate) struct Saved {
    /// The next block of its snapshot.
    at: Option<u64>,
    /// Where it is saved, if anywhere.
    saver: Option<Saver>,
    /// It has ended: nothing is saved any more.
    over: bool,
}

impl Saved {
    /// Nothing yet.
    pub(crate) fn to(folder: Option<PathBuf>) -> Self {
        Self { at: None, saver: folder.map(Saver::new), over: false }
    }
}

impl WorldSource for StreamSource {
    fn info(&self) -> WorldInfo {
        self.info.clone()
    }

    fn control(&self, control: acdit_io::Control, reply: Reply) {
        use acdit_io::Control as Asked;
        let control = match control {
            Asked::Label { index } => Control::Label(index.into()),
            Asked::Pause => Control::Pause,
            Asked::Resume => Control::Resume,
            Asked::Step => Control::Step,
            Asked::Restart { seed } => Control::Restart { seed },
            Asked::Seed { seed } => Control::Seed(seed),
            Asked::Rewind { block } => Control::Rewind { block },
            Asked::Sampling { steps, guidance } => {
                if let Err(message) = check_steps(steps, &self.info) {
                    return reply.refused("bad_input", message);
                }
                Control::Sampling { steps: steps.map(|steps| steps as usize), guidance }
            }
            Asked::Inject { frames } => match self.pictures(&frames) {
                Ok(frames) => Control::Inject { frames },
                Err(error) => return reply.refused("bad_frames", error.to_string()),
            },
            Asked::Record { on: true } => return self.recorder.begin(self.subject(), reply),
            Asked::Record { on: false } => return self.recorder.end(reply),
            Asked::Continue { clip } => return self.continue_from(clip, reply),
            _ => return reply.refused("unsupported", "this world cannot do that"),
        };
        self.handle.control(control, |outcome| answer(reply, outcome));
    }

    fn request_keyframe(&self) {
        self.handle.request_keyframe();
    }

    fn viewers(&self, h264: usize, jpeg: usize) {
        self.recorder.viewers(&self.handle, h264, jpeg);
    }

    fn log(&self) -> Result<String, acdit_io::Refusal> {
        Ok(write_log(self.handle.timeline().map_err(refused)?.log().iter()))
    }

    fn past(&self) -> Result<Vec<PastBlock>, acdit_io::Refusal> {
        let timeline = self.handle.timeline().map_err(refused)?;
        let (labels, frames) = (self.info.labels.len(), self.info.frames_per_block as usize);
        // What a world begins with is of real frames, under no label, and was never shown.
        let prompt = |past: &Past| past.injected == frames && index(past.label) as usize >= labels;
        Ok((timeline.past().filter(|past| !prompt(past)))
            .map(|Past { block, label, injected }| PastBlock {
                block,
                label: index(label),
                injected: u32::try_from(injected).unwrap_or(u32::MAX),
            })
            .collect())
    }

    fn save(&self) -> Result<u64, acdit_io::Refusal> {
        self.save_if_changed().map_err(refused)?;
        WorldSource::saved(self)
    }

    fn saved(&self) -> Result<u64, acdit_io::Refusal> {
        let refuse = |code: &str, message: &str| Err(acdit_io::Refusal::new(code, message));
        let saved = self.lock_saved();
        match (saved.saver.is_some(), saved.at) {
            (_, Some(block)) => Ok(block),
            (true, None) => refuse("no_snapshot", "this session was not saved yet"),
            (false, None) => refuse("no_state", "this server keeps no state: it runs without --state"),
        }
    }
}

fn refused(error: acdit_runtime::Error) -> acdit_io::Refusal {
    let acdit_runtime::Refusal { code, message } = error.into();
    acdit_io::Refusal::new(code, message)
}

impl StreamSource {
    fn lock_saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves the session, if there is a place for it and anything new.
    pub(crate) fn save_if_changed(&self) -> acdit_runtime::Result<()> {
        // Held while writing: two saves at once would remove each other's files.
        let mut saved = self.lock_saved();
        let Saved { at, saver: Some(saver), over: false } = &mut *saved else { return Ok(()) };
        let timeline = self.handle.timeline()?;
        if saver.save(&timeline, self.handle.engine().stamp())? {
            *at = Some(timeline.index());
        }
        Ok(())
    }

    /// Adds what is new to the log on disk: much less than saving the session.
    pub(crate) fn save_log(&self) -> acdit_runtime::Result<()> {
        match &mut *self.lock_saved() {
            Saved { at: Some(_), saver: Some(saver), over: false } => {
                saver.save_log(&self.handle.timeline()?)
            }
            _ => Ok(()),
        }
    }

    /// Saves nothing any more.
    pub(crate) fn forget(&self) {
        self.lock_saved().over = true;
    }

    fn subject(&self) -> Subject {
        let (session, handle) = (self.id.clone(), self.handle.clone());
        Subject { session, handle, hub: self.hub.clone(), info: self.info.clone() }
    }

    fn pictures(&self, frames: &[impl AsRef<[u8]>]) -> Result<Vec<Frame>, acdit_codec::Error> {
        let acdit_io::Size { width, height } = self.info.input;
        let picture = |pixels: &[u8]| Frame::new(Size { width, height }, pixels.to_vec());
        frames.iter().map(|pixels| picture(pixels.as_ref())).collect()
    }

    fn continue_from(&self, clip: impl AsRef<[u8]> + Send + 'static, reply: Reply) {
        let handle = self.handle.clone();
        self.uploads.decode(clip, reply, move |frames, reply| {
            handle.control(Control::Continue { frames }, |outcome| answer(reply, outcome));
        });
    }
}

impl Drop for StreamSource {
    fn drop(&mut self) {
        // It needs the stream for its log.
        self.recorder.finish();
    }
}

/// Refuses more steps than the world allows: sessions of a batch wait for one another.
pub(crate) fn check_steps(steps: Option<u32>, info: &WorldInfo) -> Result<(), String> {
    let most = info.sampling.max_steps;
    match steps {
        Some(steps) if steps > most => {
            Err(format!("{steps} steps: expected at most {most}, since sessions wait for one another"))
        }
        _ => Ok(()),
    }
}

fn answer(reply: Reply, outcome: Outcome) {
    match outcome {
        Ok(block) => reply.applied(block),
        Err(refusal) => reply.refused(refusal.code, refusal.message),
    }
}

/// Hands packets to the recorder and to the viewers until the stream ends.
pub(crate) fn publish(packets: &Consumer<Packet>, recorder: &Recorder, hub: &Hub) {
    while let Some(received) = packets.recv() {
        let packet = received.item;
        let header = acdit_io::Header {
            kind: match packet.kind {
                PacketKind::H264 => Kind::H264,
                PacketKind::Jpeg => Kind::Jpeg,
            },
            keyframe: packet.keyframe,
            generated: !packet.injected,
            injected: packet.injected,
            generation: packet.generation,
            frame: packet.frame,
            pts: packet.pts,
            block: packet.block,
            label: index(packet.label),
        };
        let packet = acdit_io::Packet { header, payload: packet.payload.into() };
        recorder.offer(&packet, received.missed);
        hub.publish(&packet);
    }
}

/// Tells the viewers where the stream stands until it ends.
pub(crate) fn announce(states: &Consumer<State>, hub: &Hub) {
    while announce_next(states, hub) {}
}

/// Waits for the stream's next state and tells the viewers; `false` at the end.
pub(crate) fn announce_next(states: &Consumer<State>, hub: &Hub) -> bool {
    let Some(received) = states.recv() else { return false };
    let state = received.item;
    let State { generation, block, reach, label, seed, paused, timings, underruns, failures, .. } = state;
    let announced = acdit_io::State {
        generation,
        block,
        reach,
        label: index(label),
        seed,
        sampling: acdit_io::Sampling {
            steps: u32::try_from(state.sampling.steps).unwrap_or(u32::MAX),
            guidance: state.sampling.guidance,
        },
        paused,
        underruns,
        failures,
        gave_up: state.gave_up.map(|stage| stage.to_string()),
        latents: state.latents.map(moments),
        recording: None,
        timings: acdit_io::Timings {
            denoise: timings.denoise,
            context: timings.context,
            decode: timings.decode,
            encode: timings.encode,
        },
    };
    // Whether it is recorded is not the stream's to say.
    hub.amend(|state| {
        let recording = state.recording.take();
        *state = acdit_io::State { recording, ..announced };
    });
    true
}

pub(crate) fn moments(Moments { mean, deviation }: Moments) -> acdit_io::Moments {
    acdit_io::Moments { mean, deviation }
}

/// Labels are checked where they enter: none is negative.
fn index(label: i64) -> u32 {
    u32::try_from(label).unwrap_or_default()
}
