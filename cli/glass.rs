//! From the beginning of a block to its picture at a viewer: the times that `serve --barcode` writes into pictures, read
//! from the decoded ones.

use acdit_io::{Packet, State, WorldInfo};
use serde::Serialize;

use crate::cadence::Percentiles;

#[cfg(feature = "video")]
pub(crate) use with_video::Glass;
#[cfg(not(feature = "video"))]
pub(crate) use without_video::Glass;

/// Where the time went, in seconds. The parts of each frame add up to its total.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Split {
    /// Frames that could be split.
    pub(crate) frames: u64,
    /// From the beginning of the block to the decoded picture.
    pub(crate) total: Percentiles,
    /// Between the stages, and for the frames of the block that were encoded before.
    pub(crate) queue: Percentiles,
    /// The network, context included.
    pub(crate) denoise: Percentiles,
    /// Latents to pixels.
    pub(crate) vae: Percentiles,
    /// A frame's pixels to its packet.
    pub(crate) encode: Percentiles,
    /// From the encoder to the viewer's socket.
    pub(crate) network: Percentiles,
    /// The packet to a picture.
    pub(crate) decode: Percentiles,
}

impl Split {
    pub(crate) fn text(&self) -> String {
        let Self { frames, total, queue, denoise, vae, encode, network, decode } = self;
        let mut text =
            format!("glass        {frames} frames, from the beginning of their block to the picture");
        for (name, part) in [
            ("queue", queue),
            ("denoise", denoise),
            ("VAE", vae),
            ("encode", encode),
            ("network", network),
            ("decode", decode),
            ("in all", total),
        ] {
            let Percentiles { p50, p95, max, .. } = part;
            let [p50, p95, max] = [p50, p95, max].map(|seconds| seconds * 1e3);
            text += &format!("\n  {name:10} {p50:.1} ms, p95 {p95:.1}, max {max:.1}");
        }
        text
    }
}

#[cfg(feature = "video")]
mod with_video {
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use acdit_codec::barcode::{self, Stamp};
    use acdit_codec::video::LiveDecoder;

    use super::{Packet, Split, State, WorldInfo};
    use crate::cadence::percentiles;
    use crate::failure::Failed;

    /// Reads barcodes.
    pub(crate) struct Glass {
        decoder: LiveDecoder,
        /// Pictures from before this are old when they come: a viewer begins with the run since the last keyframe.
        connected: Instant,
        /// Generation and number of the newest frame: those sent again are old.
        newest: Option<(u32, u64)>,
        frames_per_block: f64,
        /// Seconds that a frame took to encode, as the server said last: it cannot be in the picture itself.
        encode: f64,
        /// Each frame's total and parts, as in [`Split`].
        parts: Vec<[f64; 7]>,
    }

    impl Glass {
        pub(crate) fn new(info: &WorldInfo, state: &State) -> anyhow::Result<Self> {
            let frames_per_block = f64::from(info.frames_per_block.max(1));
            let decoder = LiveDecoder::open()?;
            let mut this = Self {
                decoder,
                newest: None,
                frames_per_block,
                connected: Instant::now(),
                encode: 0.0,
                parts: Vec::new(),
            };
            this.state(state);
            Ok(this)
        }

        /// A frame has come just now.
        pub(crate) fn frame(&mut self, packet: &Packet) {
            let (came, clock) = (SystemTime::now(), Instant::now());
            let number = Some((packet.header.generation, packet.header.frame));
            let decoded = self.decoder.decode(&packet.payload);
            let decode = clock.elapsed().as_secs_f64();
            let again = self.newest >= number;
            self.newest = self.newest.max(number);
            let stamp = decoded.ok().flatten().and_then(|frame| barcode::read(&frame)).filter(|_| !again);
            let Some(Stamp { begun, age, denoise, decode: vae }) = stamp else { return };
            let came = came.duration_since(UNIX_EPOCH).unwrap_or_default();
            let whole = (came.as_millis() as u32).wrapping_sub(begun).cast_signed();
            let arrived = f64::from(whole) / 1e3 + f64::from(came.subsec_micros() % 1000) / 1e6;
            let [age, denoise, vae] = [age, denoise, vae].map(|quarters| f64::from(quarters) / 4e3);
            if arrived - age > self.connected.elapsed().as_secs_f64() {
                return;
            }
            let network = arrived - age - self.encode;
            self.parts.push([
                arrived + decode,
                age - denoise - vae,
                denoise,
                vae,
                self.encode,
                network,
                decode,
            ]);
        }

        /// The server has told what its newest block took.
        pub(crate) fn state(&mut self, state: &State) {
            self.encode = state.timings.encode / self.frames_per_block;
        }

        /// What it comes to.
        pub(crate) fn split(&self) -> anyhow::Result<Split> {
            let part = |index: usize| {
                let none = || Failed("no picture had a barcode: is it `serve --barcode`?".to_owned());
                percentiles(self.parts.iter().map(|parts| parts[index]).collect()).ok_or_else(none)
            };
            Ok(Split {
                frames: self.parts.len() as u64,
                total: part(0)?,
                queue: part(1)?,
                denoise: part(2)?,
                vae: part(3)?,
                encode: part(4)?,
                network: part(5)?,
                decode: part(6)?,
            })
        }
    }
}

#[cfg(not(feature = "video"))]
mod without_video {
    use super::{Packet, Split, State, WorldInfo};

    /// There is none.
    pub(crate) enum Glass {}

    impl Glass {
        pub(crate) fn new(_info: &WorldInfo, _state: &State) -> anyhow::Result<Self> {
            anyhow::bail!("this build cannot decode pictures (feature `video`)")
        }

        pub(crate) fn frame(&mut self, _packet: &Packet) {
            match *self {}
        }

        pub(crate) fn state(&mut self, _state: &State) {
            match *self {}
        }

        pub(crate) fn split(&self) -> anyhow::Result<Split> {
            match *self {}
        }
    }
}
