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
    /// None if the file has its name from the start.
    temporary: Option<Temporary>,
    path: PathBuf,
    /// Seconds per [`PARTS`]th of a frame.
    part: Rational,
    frames: i64,
    /// Times that the newest frame was repeated.
    repeats: i64,
}

/// Of a frame, to put repeated pictures between it and the next.
const PARTS: i64 = 64;

/// Seconds of film that a file in fragments may lose when its end is never written.
const FRAGMENT_SECONDS: u32 = 1;

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
        let output =
            mux(&temporary.utf8, size, part(frames_per_second), keyframe, &[("movflags", "+faststart")])
                .map_err(|error| refused(error.to_string()))?;
        let temporary = Some(temporary);
        Ok(Self { output, temporary, path, part: part(frames_per_second), frames: 0, repeats: 0 })
    }

    /// As [`Remuxer::create`], but the file is new, has its name from the start, and all but the last second of what was written
    /// can be played even if [`Remuxer::finish`] never comes.
    ///
    /// # Errors
    /// As [`Remuxer::create`], and [`Error::Output`] if there is such a file.
    pub fn create_in_fragments(
        path: impl Into<PathBuf>,
        size: Size,
        frames_per_second: f64,
        keyframe: &[u8],
    ) -> Result<Self, Error> {
        let path = path.into();
        let refused = |reason: String| Error::Output { path: path.clone(), reason };
        let utf8 = path.to_str().ok_or_else(|| refused("the path is not UTF-8".to_owned()))?;
        std::fs::File::create_new(&path).map_err(|error| refused(error.to_string()))?;
        let microseconds = (1_000_000 * FRAGMENT_SECONDS).to_string();
        let options = [
            ("movflags", "+empty_moov+default_base_moof"),
            ("frag_duration", &microseconds),
            ("flush_packets", "1"),
        ];
        let output = mux(utf8, size, part(frames_per_second), keyframe, &options)
            .map_err(|error| refused(error.to_string()))?;
        let part = part(frames_per_second);
        Ok(Self { output, temporary: None, path, part, frames: 0, repeats: 0 })
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// [`Error::Output`] if the disk fails or this is no access unit.
    pub fn write(&mut self, access_unit: &[u8], keyframe: bool) -> Result<(), Error> {
        (self.frames, self.repeats) = (self.frames + 1, 0);
        self.put(access_unit, keyframe, 0)
    }

    /// Adds the newest frame once more, as a keyframe on which the next one builds. It takes no time of its own: later frames
    /// are shown when they would be without it. After some thirty times it is left out.
    ///
    /// # Errors
    /// As [`Remuxer::write`].
    pub fn repeat(&mut self, keyframe: &[u8]) -> Result<(), Error> {
        self.repeats += 1;
        if self.frames == 0 || self.repeats >= PARTS / 2 {
            return Ok(());
        }
        self.put(keyframe, true, PARTS / 2 + self.repeats)
    }

    /// Writes a picture `late` parts of a frame after the newest frame begins.
    fn put(&mut self, access_unit: &[u8], keyframe: bool, late: i64) -> Result<(), Error> {
        let mut packet = Packet::copy(access_unit);
        packet.set_flags(if keyframe { Flags::KEY } else { Flags::empty() });
        let at = (self.frames - 1) * PARTS + late;
        packet.set_pts(Some(at));
        packet.set_dts(Some(at));
        packet.set_duration(PARTS - late);
        packet.set_stream(0);
        let to = self.output.stream(0).map_or(self.part, |stream| stream.time_base());
        packet.rescale_ts(self.part, to);
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
        temporary.map_or(Ok(()), |temporary| temporary.rename_to(&path)).map_err(refused)
    }
}

/// Seconds per part of a frame.
fn part(frames_per_second: f64) -> Rational {
    let Rational(seconds, frames) = rational(frames_per_second).invert();
    Rational(seconds, frames.saturating_mul(PARTS as i32))
}

fn mux(
    path: &str,
    size: Size,
    part: Rational,
    keyframe: &[u8],
    options: &[(&str, &str)],
) -> Result<Output, ffmpeg_next::Error> {
    let parameters = parameters(size, keyframe)?;
    // Behind "file:" no part of a path can pass for another protocol.
    let mut output = format::output_as(&format!("file:{path}"), "mp4")?;
    let mut stream = output.add_stream_with(&parameters)?;
    stream.set_time_base(part);
    output.write_header_with(Dictionary::from_iter(options.iter().copied()))?;
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
