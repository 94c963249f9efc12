//! The seam between the web server and the engine: what viewers ask for goes in, packets and states come out.

use std::sync::Arc;

use acdit_io::{Hub, Kind, Reply, WorldInfo, WorldSource};
use acdit_runtime::{Consumer, Control, Outcome, Packet, PacketKind, State, StreamHandle};

use crate::uploads::Uploads;

/// A stream of the engine as the server sees it.
pub(crate) struct StreamSource {
    pub(crate) handle: Arc<StreamHandle>,
    pub(crate) info: WorldInfo,
    /// Where clips to continue from are decoded.
    pub(crate) uploads: Uploads,
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
            Asked::Continue { clip } => return self.continue_from(clip, reply),
            _ => return reply.refused("unsupported", "this world cannot do that"),
        };
        self.handle.control(control, |outcome| answer(reply, outcome));
    }

    fn request_keyframe(&self) {
        self.handle.request_keyframe();
    }

    fn viewers(&self, h264: usize, jpeg: usize) {
        self.handle.viewers(h264, jpeg);
    }
}

impl StreamSource {
    fn continue_from(&self, clip: impl AsRef<[u8]> + Send + 'static, reply: Reply) {
        let handle = self.handle.clone();
        self.uploads.decode(clip, reply, move |frames, reply| {
            handle.control(Control::Continue { frames }, |outcome| answer(reply, outcome));
        });
    }
}

fn answer(reply: Reply, outcome: Outcome) {
    match outcome {
        Ok(block) => reply.applied(block),
        Err(refusal) => reply.refused(refusal.code, refusal.message),
    }
}

/// Hands packets to the viewers until the stream ends.
pub(crate) fn publish(packets: &Consumer<Packet>, hub: &Hub) {
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
        hub.publish(&acdit_io::Packet { header, payload: packet.payload.into() });
    }
}

/// Tells the viewers where the stream stands until it ends.
pub(crate) fn announce(states: &Consumer<State>, hub: &Hub) {
    while announce_next(states, hub) {}
}

/// Waits for the stream's next state and tells the viewers; `false` at the end.
pub(crate) fn announce_next(states: &Consumer<State>, hub: &Hub) -> bool {
    let Some(received) = states.recv() else { return false };
    let State { generation, block, label, seed, paused, timings, underruns, .. } = received.item;
    hub.announce(acdit_io::State {
        generation,
        block,
        label: index(label),
        seed,
        paused,
        underruns,
        timings: acdit_io::Timings {
            denoise: timings.denoise,
            context: timings.context,
            decode: timings.decode,
            encode: timings.encode,
        },
    });
    true
}

/// Labels are checked where they enter: none is negative.
fn index(label: i64) -> u32 {
    u32::try_from(label).unwrap_or_default()
}
