//! libx264 fed with RGB frames: what the live encoder and the file writer have in common.
//!
//! Colour is BT.601, limited range, and the stream says so: of all choices it is the one that also comes out right in
//! readers that ignore the flag, since they assume it for pictures of our sizes.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::Flags;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Dictionary, Packet, Rational, color, ffi, frame, picture};

use super::scale::{Layout, Scaler, fill};
use super::{check_rate, check_size, failed, initialise};
use crate::{Error, Size};

/// What both users of the encoder decide.
pub(super) struct Settings<'a> {
    /// Size of the frames that will come.
    pub(super) source: Size,
    /// Size of the pictures in the stream.
    pub(super) coded: Size,
    pub(super) frames_per_second: f64,
    /// Parameter sets in the container's header instead of before each keyframe.
    pub(super) global_header: bool,
    /// Options by FFmpeg's names.
    pub(super) options: &'a [(&'a str, &'a str)],
}

pub(super) struct X264 {
    encoder: ffmpeg::encoder::video::Encoder,
    scaler: Scaler,
    rgb: frame::Video,
    source: Size,
    sent: i64,
}

impl X264 {
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        initialise();
        let &Settings { source, coded, frames_per_second, global_header, options } = settings;
        check_size("source", source)?;
        check_size("coded size", coded)?;
        check_rate(frames_per_second)?;
        if coded.width % 2 != 0 || coded.height % 2 != 0 {
            let message =
                format!("coded size is {coded}: both sides must be even, chroma has half the resolution");
            return Err(Error::VideoConfig(message));
        }
        let codec = ffmpeg::encoder::find_by_name("libx264")
            .ok_or_else(|| Error::Video("this FFmpeg has no libx264".to_owned()))?;
        let mut encoder = ffmpeg::codec::Context::new_with_codec(codec).encoder().video().map_err(failed)?;
        let rate = rational(frames_per_second);
        encoder.set_width(coded.width);
        encoder.set_height(coded.height);
        encoder.set_format(Pixel::YUV420P);
        encoder.set_time_base(rate.invert());
        encoder.set_frame_rate(Some(rate));
        encoder.set_aspect_ratio(Rational(1, 1));
        encoder.set_colorspace(color::Space::SMPTE170M);
        encoder.set_color_range(color::Range::MPEG);
        encoder.set_color_primaries(color::Primaries::BT709);
        encoder.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
        if global_header {
            encoder.set_flags(Flags::GLOBAL_HEADER);
        }
        let encoder = encoder.open_with(Dictionary::from_iter(options)).map_err(failed)?;
        let to =
            Layout { pixel: Pixel::YUV420P, size: coded, matrix: color::Space::SMPTE170M, full_range: false };
        Ok(Self {
            encoder,
            scaler: Scaler::new(Layout::rgb(source), to)?,
            rgb: frame::Video::new(Pixel::RGB24, source.width, source.height),
            source,
            sent: 0,
        })
    }

    /// Hands the encoder one frame.
    pub(super) fn send(&mut self, frame: &crate::Frame, keyframe: bool) -> Result<(), Error> {
        if frame.size() != self.source {
            let index = usize::try_from(self.sent).unwrap_or(usize::MAX);
            return Err(Error::MixedSizes { index, expected: self.source, got: frame.size() });
        }
        fill(&mut self.rgb, frame);
        // The encoder may keep a reference to a picture while it looks ahead: each frame gets its own.
        let mut yuv = frame::Video::empty();
        self.scaler.run(&self.rgb, &mut yuv)?;
        yuv.set_kind(if keyframe { picture::Type::I } else { picture::Type::None });
        yuv.set_pts(Some(self.sent));
        self.encoder.send_frame(&yuv).map_err(failed)?;
        self.sent += 1;
        Ok(())
    }

    /// Tells the encoder that no more frames come, so that it gives up those it holds.
    pub(super) fn send_end(&mut self) -> Result<(), Error> {
        self.encoder.send_eof().map_err(failed)
    }

    /// The next packet that is ready, lasting one frame.
    pub(super) fn receive(&mut self) -> Result<Option<Packet>, Error> {
        let mut packet = Packet::empty();
        match self.encoder.receive_packet(&mut packet) {
            Ok(()) => {
                packet.set_duration(1);
                Ok(Some(packet))
            }
            Err(ffmpeg::Error::Eof | ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Frames sent so far.
    pub(super) fn sent(&self) -> i64 {
        self.sent
    }

    pub(super) fn context(&self) -> &ffmpeg::codec::Context {
        self.encoder.as_ref()
    }
}

/// The closest fraction with a small denominator: 12.5 becomes 25/2, 29.97002997 becomes 30000/1001.
pub(super) fn rational(frames_per_second: f64) -> Rational {
    // SAFETY: a pure function of two numbers.
    unsafe { ffi::av_d2q(frames_per_second, 100_000) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_the_fractions_they_stand_for() {
        assert_eq!(rational(12.5), Rational(25, 2));
        assert_eq!(rational(8.0), Rational(8, 1));
        assert_eq!(rational(30_000.0 / 1001.0), Rational(30_000, 1001));
    }
}
