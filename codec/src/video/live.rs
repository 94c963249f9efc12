//! A live stream's access units to pictures, each at once.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, Flags};
use ffmpeg_next::{Packet, frame};

use super::scale::{Layout, Scaler, packed};
use super::{failed, initialise};
use crate::{Error, Frame, Size};

/// Decodes H.264 access units as [`Encoder`](super::Encoder) makes them, beginning with a keyframe. It trusts them: strangers'
/// bytes are for [`Decoder`](super::Decoder), in a process apart. Not meant to leave its thread.
pub struct LiveDecoder {
    decoder: ffmpeg::decoder::Video,
    scaler: Option<Scaler>,
}

impl LiveDecoder {
    /// Opens a decoder that holds nothing back.
    ///
    /// # Errors
    /// [`Error::Video`] if this FFmpeg has none for H.264.
    pub fn open() -> Result<Self, Error> {
        initialise();
        let codec = ffmpeg::decoder::find(codec::Id::H264)
            .ok_or_else(|| Error::Video("this FFmpeg cannot decode H.264".to_owned()))?;
        let mut context = codec::Context::new_with_codec(codec);
        context.set_flags(Flags::LOW_DELAY);
        context.set_threading(codec::threading::Config { count: 1, ..Default::default() });
        let decoder = context.decoder().video().map_err(failed)?;
        Ok(Self { decoder, scaler: None })
    }

    /// The picture of an access unit; `None` if the decoder needs more first.
    ///
    /// # Errors
    /// [`Error::Video`] for what is no access unit, or refers to one that did not come.
    pub fn decode(&mut self, access_unit: &[u8]) -> Result<Option<Frame>, Error> {
        self.decoder.send_packet(&Packet::copy(access_unit)).map_err(failed)?;
        let mut picture = frame::Video::empty();
        match self.decoder.receive_frame(&mut picture) {
            Ok(()) => self.convert(&picture).map(Some),
            Err(ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn convert(&mut self, picture: &frame::Video) -> Result<Frame, Error> {
        let from = Layout::of(picture);
        let scaler = match self.scaler.take().filter(|scaler| scaler.from() == from) {
            Some(scaler) => self.scaler.insert(scaler),
            None => self.scaler.insert(Scaler::new(from, Layout::rgb(from.size))?),
        };
        let mut rgb = frame::Video::empty();
        scaler.run(picture, &mut rgb)?;
        Frame::new(Size { width: rgb.width(), height: rgb.height() }, packed(&rgb))
    }
}
