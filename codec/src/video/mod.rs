//! Clips in and H.264 out, through the system's FFmpeg.
//!
//! ```text
//! source ──► Decoder ──► frames          frames ──► Encoder    ──► access units (live)
//! (path, bytes,                                 └─► FileWriter ──► an MP4 file ◄── Remuxer ◄── access units ──► Publication
//!  open file)
//! ```
//! A [`Decoder`] reads one clip: which containers and codecs are accepted is fixed in `source`, when each output frame
//! is taken in `timeline`, how its pixels are cropped, turned and coloured in `picture` and `scale`. [`Encoder`] and
//! [`FileWriter`] share one libx264 wrapper and differ in what they ask of it: no delay, or good compression. A [`Publication`]
//! carries the live stream on to other people's servers.
//!
//! Strangers' clips are decoded in a process of their own, which answers with a [`Reply`].
//!
//! FFmpeg contexts stay on the thread that made them: none of these types is `Send`. FFmpeg's own log is switched off,
//! because it would print pointers and other people's file names; what matters is in the [`Error`].

mod decode;
mod encode;
mod file;
mod live;
mod picture;
mod publish;
mod remux;
mod reply;
mod scale;
mod source;
mod timeline;
mod x264;

use std::sync::Once;

use ffmpeg_next as ffmpeg;

pub use self::decode::{Clip, DecodeOptions, Decoder, Info, decode, decode_last, probe};
pub use self::encode::{AccessUnit, Encoder, EncoderConfig};
pub use self::file::{FileConfig, FileWriter};
pub use self::live::LiveDecoder;
pub use self::publish::{Interrupt, Publication, Target};
pub use self::remux::Remuxer;
pub use self::reply::{Reason, Reply};
pub use self::source::{Limits, Source};
use crate::{Error, Size};

/// The longest side in pixels that is decoded to or encoded. A picture of that size still fits into memory a few times.
const MAX_SIDE: u32 = 8192;

/// The FFmpeg libraries in use and their versions.
pub fn libraries() -> [(&'static str, String); 4] {
    let text = |version: u32| format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff);
    [
        ("libavutil", text(ffmpeg::util::version())),
        ("libavcodec", text(ffmpeg::codec::version())),
        ("libavformat", text(ffmpeg::format::version())),
        ("libswscale", text(ffmpeg::software::scaling::version())),
    ]
}

fn initialise() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // It only fills the table of error texts; the version built against cannot fail.
        let _ = ffmpeg::init();
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    });
}

fn check_size(field: &str, size: Size) -> Result<(), Error> {
    let side = 1..=MAX_SIDE;
    if side.contains(&size.width) && side.contains(&size.height) {
        return Ok(());
    }
    Err(Error::VideoConfig(format!("{field} is {size}: each side must be 1 to {MAX_SIDE} pixels")))
}

fn check_rate(frames_per_second: f64) -> Result<(), Error> {
    if frames_per_second.is_finite() && (0.01..=1000.0).contains(&frames_per_second) {
        return Ok(());
    }
    Err(Error::VideoConfig(format!("frames_per_second is {frames_per_second}: expected 0.01 to 1000")))
}

fn failed(error: ffmpeg::Error) -> Error {
    Error::Video(error.to_string())
}
