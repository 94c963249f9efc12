//! A live stream's access units as an MP4 file, without decoding them.

use std::path::PathBuf;
use std::ptr;

use ffmpeg_next::format::context::Output;
use ffmpeg_next::packet::Flags;
use ffmpeg_next::{Dictionary, Packet, Rational, codec, ffi, format};

use super::file::Temporary;
use super::initialise;
use super::x264::rational;
use crate::{Error, Size};

/// Writes H.264 access units, as [`Encoder`](super::Encoder) makes them, to an MP4 file at a steady rate. Dropped before
/// [`Remuxer::finish`] it leaves nothing behind. Not `Send`: it stays on its thread.
pub struct Remuxer {
    output: Output,
    temporary: Temporary,
    path: PathBuf,
    /// Seconds per frame.
    frame: Rational,
    frames: i64,
}

impl Remuxer {
    /// Starts a file of pictures of `size`. `keyframe`, the first access unit that will be written, must be an Annex B one with
    /// parameter sets, from which the file's header is made.
    ///
    /// # Errors
    /// [`Error::Output`] if the name does not end in `.mp4`, its folder is missing, or it cannot be written there.
    pub fn create(
        path: impl Into<PathBuf>,
        size: Size,
        frames_per_second: f64,
        keyframe: &[u8],
    ) -> Result<Self, Error> {
        initialise();
        let path = path.into();
        let refused = |reason: String| Error::Output { path: path.clone(), reason };
        let temporary = Temporary::beside(&path).map_err(refused)?;
        let frame = rational(frames_per_second).invert();
        let output = mux(&temporary, size, frame, keyframe).map_err(|error| refused(error.to_string()))?;
        Ok(Self { output, temporary, path, frame, frames: 0 })
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// [`Error::Output`] if the disk fails or this is no access unit.
    pub fn write(&mut self, access_unit: &[u8], keyframe: bool) -> Result<(), Error> {
        let mut packet = Packet::copy(access_unit);
        packet.set_flags(if keyframe { Flags::KEY } else { Flags::empty() });
        packet.set_pts(Some(self.frames));
        packet.set_dts(Some(self.frames));
        packet.set_duration(1);
        packet.set_stream(0);
        let to = self.output.stream(0).map_or(self.frame, |stream| stream.time_base());
        packet.rescale_ts(self.frame, to);
        self.frames += 1;
        let written = packet.write_interleaved(&mut self.output);
        written.map_err(|error| Error::Output { path: self.path.clone(), reason: error.to_string() })
    }

    /// Completes the file and gives it its name, replacing what was there.
    ///
    /// # Errors
    /// [`Error::NoFrames`] if nothing was written; [`Error::Output`]; the destination is then untouched.
    pub fn finish(self) -> Result<(), Error> {
        let Self { mut output, temporary, path, frames, .. } = self;
        if frames == 0 {
            return Err(Error::NoFrames);
        }
        let refused = |reason: String| Error::Output { path: path.clone(), reason };
        output.write_trailer().map_err(|error| refused(error.to_string()))?;
        drop(output);
        temporary.rename_to(&path).map_err(refused)
    }
}

fn mux(
    temporary: &Temporary,
    size: Size,
    frame: Rational,
    keyframe: &[u8],
) -> Result<Output, ffmpeg_next::Error> {
    let parameters = parameters(size, keyframe)?;
    // Behind "file:" no part of a path can pass for another protocol.
    let mut output = format::output_as(&format!("file:{}", temporary.utf8), "mp4")?;
    let mut stream = output.add_stream_with(&parameters)?;
    stream.set_time_base(frame);
    output.write_header_with(Dictionary::from_iter([("movflags", "+faststart")]))?;
    Ok(output)
}

/// What a muxer has to know of a stream that begins with this access unit: Annex B, with parameter sets.
pub(super) fn parameters(size: Size, keyframe: &[u8]) -> Result<codec::Context, ffmpeg_next::Error> {
    let mut context = codec::Context::new();
    let padding = ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
    // SAFETY: the context is ours alone; it owns the extradata from here on and frees it with av_free. The muxer takes the
    // parameter sets that it needs from a whole Annex B access unit.
    unsafe {
        let context = &mut *context.as_mut_ptr();
        let extradata = ffi::av_mallocz(keyframe.len() + padding).cast::<u8>();
        if extradata.is_null() {
            return Err(ffmpeg_next::Error::Other { errno: ffmpeg_next::error::ENOMEM });
        }
        ptr::copy_nonoverlapping(keyframe.as_ptr(), extradata, keyframe.len());
        context.extradata = extradata;
        context.extradata_size = keyframe.len() as i32;
        context.codec_type = ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
        context.codec_id = ffi::AVCodecID::AV_CODEC_ID_H264;
        context.width = size.width as i32;
        context.height = size.height as i32;
    }
    Ok(context)
}
