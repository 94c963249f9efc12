//! A live stream's access units to where others watch, without encoding them again: RTMP, SRT, RTSP, an HLS folder, a file.
//!
//! FFmpeg's muxers do the talking. Whatever they wait for is ended by an [`Interrupt`]: a call that takes longer than
//! [`PATIENCE`], or one that runs when the end was asked for.

mod interrupt;
mod target;

use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use ffmpeg_next::format::context::Output;
use ffmpeg_next::packet::Flags;
use ffmpeg_next::{Dictionary, Packet, Rational, ffi};

pub use self::interrupt::Interrupt;
pub use self::target::Target;
use super::remux::parameters;
use super::x264::rational;
use super::{check_rate, check_size, initialise};
use crate::{Error, Size};

/// The longest that connecting, or sending one packet, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest that a proper end may take once something has failed already.
const FAREWELL: Duration = Duration::from_secs(1);

/// The clock of the timestamps given, and the one that files are told: MPEG's, which all rates fit.
const MICROSECONDS: Rational = Rational(1, 1_000_000);
const TICK: Rational = Rational(1, 90_000);

/// A connection to a target, or a file being written. Dropped without [`Publication::finish`] it is ended all the same. Not
/// meant to leave its thread.
pub struct Publication {
    output: Output,
    /// Outlives what FFmpeg calls it from.
    interrupt: Interrupt,
    target: Target,
    /// The newest timestamp, in the muxer's own unit.
    last: Option<i64>,
    open: bool,
}

impl Publication {
    /// Connects, and sends what comes before the first frame. `keyframe` is the access unit that will be written first: Annex B,
    /// with parameter sets. Waits, but no longer than ten seconds, and not on after an `interrupt`.
    ///
    /// # Errors
    /// [`Error::Target`] if the target does not answer or refuses; [`Error::VideoConfig`].
    pub fn open(
        target: &Target,
        size: Size,
        frames_per_second: f64,
        keyframe: &[u8],
        interrupt: &Interrupt,
    ) -> Result<Self, Error> {
        initialise();
        check_size("size", size)?;
        check_rate(frames_per_second)?;
        interrupt.allow(PATIENCE);
        let failed = |error| target.failed(error, interrupt);
        let output = connect(target, interrupt).map_err(failed)?;
        let interrupt = interrupt.clone();
        let mut this = Self { output, interrupt, target: target.clone(), last: None, open: false };
        let header = this.write_header(size, frames_per_second, keyframe);
        header.map_err(|error| target.failed(error, &this.interrupt))?;
        this.open = true;
        Ok(this)
    }

    fn write_header(
        &mut self,
        size: Size,
        frames_per_second: f64,
        keyframe: &[u8],
    ) -> Result<(), ffmpeg_next::Error> {
        let parameters = parameters(size, keyframe)?;
        let mut stream = self.output.add_stream_with(&parameters)?;
        stream.set_time_base(TICK);
        stream.set_avg_frame_rate(rational(frames_per_second));
        self.output.write_header_with(self.target.muxer_options()).map(drop)
    }

    /// Sends one frame, to be shown `microseconds` after the beginning. Timestamps that do not advance are moved on by a tick.
    ///
    /// # Errors
    /// [`Error::Target`] if the target is gone, or does not take it in ten seconds.
    pub fn write(&mut self, access_unit: &[u8], keyframe: bool, microseconds: u64) -> Result<(), Error> {
        let tick = self.output.stream(0).map_or(TICK, |stream| stream.time_base());
        let mut packet = Packet::copy(access_unit);
        packet.set_flags(if keyframe { Flags::KEY } else { Flags::empty() });
        packet.set_pts(i64::try_from(microseconds).ok());
        packet.rescale_ts(MICROSECONDS, tick);
        let at = packet.pts().unwrap_or_default().max(self.last.map_or(i64::MIN, |last| last + 1));
        packet.set_pts(Some(at));
        packet.set_dts(Some(at));
        packet.set_stream(0);
        self.last = Some(at);
        self.interrupt.allow(PATIENCE);
        // One stream has nothing to be interleaved with, and so nothing is held back.
        let written = packet.write(&mut self.output);
        written.map(drop).map_err(|error| self.target.failed(error, &self.interrupt))
    }

    /// Ends it properly, in at most ten seconds, or before the end that was asked of the interrupt.
    ///
    /// # Errors
    /// [`Error::Target`] if the target does not take the end.
    pub fn finish(mut self) -> Result<(), Error> {
        self.interrupt.allow(PATIENCE);
        self.close().map_err(|error| self.target.failed(error, &self.interrupt))
    }

    fn close(&mut self) -> Result<(), ffmpeg_next::Error> {
        match std::mem::take(&mut self.open) {
            true => self.output.write_trailer(),
            false => Ok(()),
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        // RTSP closes its connections here and nowhere else. What fails has failed before, and was told then.
        self.interrupt.allow(FAREWELL);
        let _ = self.close();
    }
}

/// Opens the target without writing to it.
fn connect(target: &Target, interrupt: &Interrupt) -> Result<Output, ffmpeg_next::Error> {
    let invalid = |_| ffmpeg_next::Error::InvalidData;
    let (url, muxer) =
        (CString::new(target.url()).map_err(invalid)?, CString::new(target.muxer()).map_err(invalid)?);
    let mut context = ptr::null_mut();
    // SAFETY: a fresh context, whose owner is the `Output` from the second call on; the strings live until the end. The
    // callback's argument is kept alive by the `Interrupt` in the `Publication`, which drops it after the context.
    unsafe {
        check(ffi::avformat_alloc_output_context2(&mut context, ptr::null(), muxer.as_ptr(), url.as_ptr()))?;
        let output = Output::wrap(context);
        (*context).interrupt_callback = interrupt.callback();
        (*context).flags |= ffi::AVFMT_FLAG_FLUSH_PACKETS;
        if (*(*context).oformat).flags & ffi::AVFMT_NOFILE == 0 {
            let mut options = target.protocol_options().disown();
            let opened = ffi::avio_open2(
                &mut (*context).pb,
                url.as_ptr(),
                ffi::AVIO_FLAG_WRITE,
                &(*context).interrupt_callback,
                &mut options,
            );
            drop(Dictionary::own(options));
            check(opened)?;
        }
        Ok(output)
    }
}

fn check(code: i32) -> Result<(), ffmpeg_next::Error> {
    if code < 0 { Err(code.into()) } else { Ok(()) }
}
