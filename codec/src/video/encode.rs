//! Live H.264: one access unit per frame, at once.
//!
//! Constrained baseline, no B-frames, no look-ahead, one slice thread: the encoder holds nothing back, and a viewer who
//! joins needs only the next keyframe, which carries its own parameter sets.

use super::x264::{Settings, X264};
use crate::{Error, Frame, Size};

/// What the live encoder is to make of the frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Size of the frames given, in pixels.
    pub source: Size,
    /// Size of the pictures shown, in pixels, both sides even: frames are scaled to it, as worlds are small.
    pub display: Size,
    /// Frames per second; it sets the pace that rate control assumes, nothing is timed.
    pub frames_per_second: f64,
    /// Frames from one keyframe to the next, if none is asked for in between.
    pub keyframe_interval: u32,
    /// x264's constant rate factor, 0 (lossless) to 51; 18 is hard to tell from the source.
    pub quality: u8,
    /// Bits per second for a link that buffers one second: quality gives way before the stream outruns it.
    pub max_bits_per_second: u32,
}

/// One encoded picture in Annex B form; on keyframes SPS and PPS come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// The NAL units with their start codes.
    pub data: Vec<u8>,
    /// Decoding can start here.
    pub keyframe: bool,
}

impl AccessUnit {
    /// The RFC 6381 name of the stream, such as `avc1.42c01e`, which a keyframe's SPS tells.
    pub fn codec(&self) -> Option<String> {
        const SPS: u8 = 7;
        let sps = self.data.windows(7).find(|w| w[..3] == [0, 0, 1] && w[3] & 0x1f == SPS)?;
        Some(format!("avc1.{:02x}{:02x}{:02x}", sps[4], sps[5], sps[6]))
    }
}

/// Encodes frames as they come. Not `Send`: it stays on its thread.
pub struct Encoder {
    x264: X264,
}

impl Encoder {
    /// Opens an encoder.
    ///
    /// # Errors
    /// [`Error::VideoConfig`] names the value that makes no sense; [`Error::Video`] if libx264 is missing or refuses.
    pub fn open(config: &EncoderConfig) -> Result<Self, Error> {
        let EncoderConfig { quality, keyframe_interval, max_bits_per_second, .. } = *config;
        let bad = |message: String| Err(Error::VideoConfig(message));
        if quality > 51 {
            return bad(format!("quality is {quality}: expected 0 to 51"));
        }
        if !(1..=100_000).contains(&keyframe_interval) {
            return bad(format!("keyframe_interval is {keyframe_interval}: expected 1 to 100000 frames"));
        }
        if !(10_000..=1_000_000_000).contains(&max_bits_per_second) {
            return bad(format!(
                "max_bits_per_second is {max_bits_per_second}: expected 10000 to 1000000000"
            ));
        }
        let (crf, gop, rate) =
            (quality.to_string(), keyframe_interval.to_string(), max_bits_per_second.to_string());
        let x264 = X264::open(&Settings {
            source: config.source,
            coded: config.display,
            frames_per_second: config.frames_per_second,
            global_header: false,
            options: &[
                ("preset", "superfast"),
                ("tune", "zerolatency"),
                ("profile", "baseline"),
                ("threads", "1"),
                ("crf", &crf),
                ("g", &gop),
                ("maxrate", &rate),
                ("bufsize", &rate),
                ("forced-idr", "1"),
                ("sc_threshold", "0"),
            ],
        })?;
        Ok(Self { x264 })
    }

    /// Encodes one frame; the first, and those asked for, become keyframes.
    ///
    /// # Errors
    /// [`Error::MixedSizes`] if the frame is not of the configured size, [`Error::Video`] if libx264 fails.
    pub fn encode(&mut self, frame: &Frame, keyframe: bool) -> Result<AccessUnit, Error> {
        self.x264.send(frame, keyframe)?;
        let packet = self.x264.receive()?;
        let packet = packet.ok_or_else(|| Error::Video("libx264 held a frame back".to_owned()))?;
        let data = packet.data().unwrap_or_default().to_vec();
        Ok(AccessUnit { data, keyframe: packet.is_key() })
    }
}
