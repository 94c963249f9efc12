//! Opening a clip that may come from anyone.
//!
//! Whatever the source, FFmpeg sees only bytes: no file name that could steer it, and no protocol by which a playlist or
//! a reference inside the clip could open another file or the network. Containers, codecs and picture sizes are checked
//! while probing already, because FFmpeg decodes a picture or two there.

use std::fs::{self, File};
use std::io::{self, Cursor, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::ptr;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::Id;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Dictionary, Rational, media, packet};

use super::picture::Orientation;
use super::{check_rate, failed, initialise};
use crate::{Error, Size};

/// Demuxers that may open, by FFmpeg's names.
const CONTAINERS: &str = "mov,avi,matroska";
/// Decoders that may open, by FFmpeg's names.
const DECODERS: &str = "h264,hevc,vp8,vp9,libdav1d,libaom-av1,av1,mpeg4,mjpeg";
/// The codecs that they decode.
const CODECS: [Id; 7] = [Id::H264, Id::HEVC, Id::VP8, Id::VP9, Id::AV1, Id::MPEG4, Id::MJPEG];
/// Streams of any kind in one container; beyond that it is refused.
const MAX_STREAMS: &str = "32";
/// What stands for the path of a clip that has none.
const UPLOAD: &str = "the uploaded clip";

/// Where a clip's bytes come from.
#[derive(Debug)]
pub enum Source {
    /// A regular file.
    Path(PathBuf),
    /// A whole file in memory.
    Bytes(Vec<u8>),
    /// A file that is open already, such as an upload handed to a process that may open nothing.
    Open(File),
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<&PathBuf> for Source {
    fn from(path: &PathBuf) -> Self {
        Self::Path(path.clone())
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<File> for Source {
    fn from(file: File) -> Self {
        Self::Open(file)
    }
}

/// What a clip may cost. Anything beyond is refused with [`Error::ClipTooLarge`], before decoding where the container
/// tells, as soon as it shows where it does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// Width × height of a coded picture.
    pub pixels: u64,
    /// Pictures decoded, and frames given out.
    pub frames: u64,
    /// Duration of the clip, in seconds.
    pub seconds: f64,
}

impl Limits {
    /// For files of one's own: wide enough for anything real, still a bound.
    pub const FILE: Self =
        Self { bytes: 1 << 40, pixels: 8192 * 8192, frames: 10_000_000, seconds: 86_400.0 };
    /// For strangers' uploads: a phone's clip of a few minutes.
    pub const UPLOAD: Self = Self { bytes: 64 << 20, pixels: 3840 * 2160, frames: 20_000, seconds: 600.0 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::FILE
    }
}

/// An open container and what is needed to decode its video stream.
pub(super) struct Container {
    /// The path, or what stands for one in messages.
    pub(super) clip: String,
    pub(super) input: Input,
    pub(super) stream: usize,
    pub(super) time_base: Rational,
    /// Frames per second on average, where the container knows.
    pub(super) average_rate: Option<f64>,
    /// Width of a coded pixel over its height.
    pub(super) pixel_aspect: f64,
    pub(super) orientation: Orientation,
    pub(super) coded: Size,
}

impl Container {
    pub(super) fn open(source: Source, limits: &Limits) -> Result<Self, Error> {
        initialise();
        let (clip, io) = bytes_of(source, limits)?;
        let not_a_video = |_| Error::NotAVideo { clip: clip.clone() };
        let mut input = demux(io).map_err(not_a_video)?;
        let stream = video_stream(&input).ok_or_else(|| Error::NotAVideo { clip: clip.clone() })?;
        let codec = input.stream(stream).map_or(Id::None, |stream| stream.parameters().id());
        match codec {
            // A header cut short declares streams that it does not describe.
            Id::None => return Err(Error::NotAVideo { clip }),
            known if CODECS.contains(&known) => {}
            other => return Err(Error::ClipCodec { clip, codec: other.name() }),
        }
        check_pixels(&clip, coded_size(&input, stream), limits)?;
        find_stream_info(&mut input, limits).map_err(not_a_video)?;
        let coded = coded_size(&input, stream);
        check_pixels(&clip, coded, limits)?;
        check_length(&clip, &input, stream, limits)?;
        let Some(video) = input.stream(stream) else {
            return Err(Error::NotAVideo { clip });
        };
        let matrix = video.side_data().find(|data| data.kind() == packet::side_data::Type::DisplayMatrix);
        let orientation =
            matrix.map(|data| Orientation::from_display_matrix(data.data())).unwrap_or_default();
        let time_base = video.time_base();
        let average_rate = positive(video.avg_frame_rate()).filter(|&rate| check_rate(rate).is_ok());
        // SAFETY: context and stream are alive and belong together; a null frame asks for the stream's own ratio, and
        // neither is changed.
        let pixel_aspect = unsafe {
            ffi::av_guess_sample_aspect_ratio(
                input.as_mut_ptr(),
                input.stream(stream).map_or(ptr::null_mut(), |s| s.as_ptr().cast_mut()),
                ptr::null_mut(),
            )
        };
        let pixel_aspect = positive(pixel_aspect.into()).unwrap_or(1.0);
        Ok(Self { clip, input, stream, time_base, average_rate, pixel_aspect, orientation, coded })
    }

    /// Opens the stream's decoder: one thread, so that memory and results do not depend on the machine.
    pub(super) fn decoder(&self, limits: &Limits) -> Result<ffmpeg::decoder::Video, Error> {
        let broken = |_| Error::NotAVideo { clip: self.clip.clone() };
        let stream = self.input.stream(self.stream).ok_or(ffmpeg::Error::StreamNotFound).map_err(broken)?;
        let codec = ffmpeg::decoder::find(stream.parameters().id());
        let context = ffmpeg::codec::Context::from_parameters(stream.parameters()).map_err(broken)?;
        let mut decoder = context.decoder();
        decoder.set_packet_time_base(self.time_base);
        let opened = decoder.open_as_with(codec, decoder_options(limits)).map_err(broken)?;
        opened.video().map_err(broken)
    }

    pub(super) fn too_large(&self, found: String, limit: String) -> Error {
        Error::ClipTooLarge { clip: self.clip.clone(), found, limit }
    }
}

/// The name for messages and the bytes behind it.
fn bytes_of(source: Source, limits: &Limits) -> Result<(String, StreamIo), Error> {
    let (clip, length, io) = match source {
        Source::Path(path) => {
            let clip = path.display().to_string();
            let unreadable = |reason: String| Error::ClipUnreadable { clip: clip.clone(), reason };
            // Asked before opening, which would wait for ever on a pipe.
            let metadata = fs::metadata(&path).map_err(|e| unreadable(e.to_string()))?;
            if !metadata.is_file() {
                return Err(unreadable("not a regular file".to_owned()));
            }
            let file = File::open(&path).map_err(|e| unreadable(e.to_string()))?;
            (clip, metadata.len(), StreamIo::from_read_seek(file))
        }
        Source::Bytes(bytes) => {
            (UPLOAD.to_owned(), bytes.len() as u64, StreamIo::from_read_seek(Cursor::new(bytes)))
        }
        Source::Open(mut file) => {
            let unreadable =
                |e: io::Error| Error::ClipUnreadable { clip: UPLOAD.to_owned(), reason: e.to_string() };
            // Asked by seeking, which a confined process may do.
            let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
            file.rewind().map_err(unreadable)?;
            (UPLOAD.to_owned(), length, StreamIo::from_read_seek(file))
        }
    };
    if length > limits.bytes {
        let (found, limit) = (format!("{length} bytes"), format!("{} bytes", limits.bytes));
        return Err(Error::ClipTooLarge { clip, found, limit });
    }
    Ok((clip, io.map_err(failed)?))
}

fn demux(mut io: StreamIo) -> Result<Input, ffmpeg::Error> {
    let options = Dictionary::from_iter([
        ("format_whitelist", CONTAINERS),
        ("codec_whitelist", DECODERS),
        ("protocol_whitelist", ""),
        ("max_streams", MAX_STREAMS),
    ]);
    // SAFETY: the context is fresh and, on failure, freed by avformat_open_input; `io` outlives it in both cases, because
    // on success it moves into the `Input` that closes the context first. The dictionary is taken back after the call.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(ffmpeg::Error::Other { errno: ffi::ENOMEM });
        }
        (*context).pb = io.as_mut_ptr();
        (*context).flags |= ffi::AVFMT_FLAG_CUSTOM_IO;
        let mut unused = options.disown();
        let opened = ffi::avformat_open_input(&mut context, ptr::null(), ptr::null_mut(), &mut unused);
        drop(Dictionary::own(unused));
        if opened < 0 {
            return Err(opened.into());
        }
        Ok(Input::wrap_with_custom_io(context, io))
    }
}

fn find_stream_info(input: &mut Input, limits: &Limits) -> Result<(), ffmpeg::Error> {
    // SAFETY: the function wants one dictionary per stream and may replace each; all are taken back afterwards. The three
    // containers declare their streams in the header, so their number is settled.
    unsafe {
        let mut options: Vec<_> = input.streams().map(|_| decoder_options(limits).disown()).collect();
        let found = ffi::avformat_find_stream_info(input.as_mut_ptr(), options.as_mut_ptr());
        options.into_iter().for_each(|unused| drop(Dictionary::own(unused)));
        if found < 0 { Err(found.into()) } else { Ok(()) }
    }
}

fn decoder_options(limits: &Limits) -> Dictionary<'static> {
    let max_pixels = limits.pixels.to_string();
    Dictionary::from_iter([
        ("codec_whitelist", DECODERS),
        ("max_pixels", max_pixels.as_str()),
        ("threads", "1"),
    ])
}

/// The first video stream that is not a cover picture.
fn video_stream(input: &Input) -> Option<usize> {
    let is_video = |stream: &ffmpeg::Stream| {
        stream.parameters().medium() == media::Type::Video
            && !stream.disposition().contains(Disposition::ATTACHED_PIC)
    };
    input.streams().find(is_video).map(|stream| stream.index())
}

fn coded_size(input: &Input, stream: usize) -> Size {
    let Some(stream) = input.stream(stream) else {
        return Size { width: 0, height: 0 };
    };
    // SAFETY: the parameters live as long as the stream; two integers are read.
    let (width, height) = unsafe {
        let parameters = stream.parameters();
        ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height)
    };
    Size { width: width.max(0).unsigned_abs(), height: height.max(0).unsigned_abs() }
}

fn check_pixels(clip: &str, coded: Size, limits: &Limits) -> Result<(), Error> {
    if u64::from(coded.width) * u64::from(coded.height) <= limits.pixels {
        return Ok(());
    }
    let limit = format!("{} pixels", limits.pixels);
    Err(Error::ClipTooLarge { clip: clip.to_owned(), found: format!("pictures of {coded}"), limit })
}

fn check_length(clip: &str, input: &Input, stream: usize, limits: &Limits) -> Result<(), Error> {
    let frames = input.stream(stream).map_or(0, |s| s.frames().max(0).unsigned_abs());
    let seconds = input.duration() as f64 / f64::from(ffi::AV_TIME_BASE);
    let (found, limit) = if frames > limits.frames {
        (format!("{frames} frames"), format!("{} frames", limits.frames))
    } else if seconds > limits.seconds {
        (format!("{seconds:.0} seconds"), format!("{} seconds", limits.seconds))
    } else {
        return Ok(());
    };
    Err(Error::ClipTooLarge { clip: clip.to_owned(), found, limit })
}

fn positive(ratio: Rational) -> Option<f64> {
    let value = f64::from(ratio.numerator()) / f64::from(ratio.denominator());
    (value.is_finite() && value > 0.0).then_some(value)
}
