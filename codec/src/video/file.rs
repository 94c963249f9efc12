//! MP4 files that exist whole or not at all.
//!
//! Everything goes to a temporary file beside the destination, which takes its name only when complete. Moving the index
//! to the front, so that a browser can start before it has the whole file, happens there too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use ffmpeg_next::format::context::Output;
use ffmpeg_next::{Dictionary, Rational, format};

use super::x264::{Settings, X264};
use crate::{Error, Frame, Size};

/// What an MP4 file is to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FileConfig {
    /// Size of the frames given, in pixels.
    pub source: Size,
    /// Times as many pixels per side in the file, at least 1; the sides in the file must be even.
    pub scale: u32,
    /// Frames per second.
    pub frames_per_second: f64,
    /// x264's constant rate factor, 0 (lossless) to 51; 18 is hard to tell from the source.
    pub quality: u8,
}

/// Writes frames to an MP4 file (H.264, index first). Dropped before [`FileWriter::finish`] it leaves nothing behind. Not
/// `Send`: it stays on its thread.
pub struct FileWriter {
    x264: X264,
    output: Output,
    temporary: Temporary,
    path: PathBuf,
}

impl FileWriter {
    /// Starts a file.
    ///
    /// # Errors
    /// [`Error::Output`] if the name does not end in `.mp4`, its folder is missing, or it cannot be written there;
    /// [`Error::VideoConfig`] and [`Error::Video`] as [`Encoder::open`](super::Encoder::open).
    pub fn create(path: impl Into<PathBuf>, config: &FileConfig) -> Result<Self, Error> {
        let path = path.into();
        let refused = |reason: String| Error::Output { path: path.clone(), reason };
        let x264 = open_x264(config)?;
        let temporary = Temporary::beside(&path).map_err(refused)?;
        let output = mux(&temporary, &x264).map_err(|error| refused(error.to_string()))?;
        Ok(Self { x264, output, temporary, path })
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// [`Error::MixedSizes`] for a frame of another size, [`Error::Output`] if the disk fails, [`Error::Video`].
    pub fn write(&mut self, frame: &Frame) -> Result<(), Error> {
        self.x264.send(frame, false)?;
        self.write_ready()
    }

    /// Completes the file and gives it its name, replacing what was there.
    ///
    /// # Errors
    /// [`Error::NoFrames`] if nothing was written, else as [`FileWriter::write`]; the destination is then untouched.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.x264.sent() == 0 {
            return Err(Error::NoFrames);
        }
        self.x264.send_end()?;
        self.write_ready()?;
        let Self { mut output, temporary, path, .. } = self;
        let refused = |reason: String| Error::Output { path: path.clone(), reason };
        output.write_trailer().map_err(|error| refused(error.to_string()))?;
        drop(output);
        temporary.rename_to(&path).map_err(refused)
    }

    fn write_ready(&mut self) -> Result<(), Error> {
        while let Some(mut packet) = self.x264.receive()? {
            packet.set_stream(0);
            let to = self.output.stream(0).map_or(Rational(1, 1), |stream| stream.time_base());
            packet.rescale_ts(self.x264.context().time_base(), to);
            packet
                .write_interleaved(&mut self.output)
                .map_err(|error| Error::Output { path: self.path.clone(), reason: error.to_string() })?;
        }
        Ok(())
    }
}

fn open_x264(config: &FileConfig) -> Result<X264, Error> {
    let &FileConfig { source, scale, frames_per_second, quality } = config;
    if quality > 51 {
        return Err(Error::VideoConfig(format!("quality is {quality}: expected 0 to 51")));
    }
    let scaled = |side: u32| side.checked_mul(scale).filter(|&side| side > 0);
    let (Some(width), Some(height)) = (scaled(source.width), scaled(source.height)) else {
        return Err(Error::VideoConfig(format!("scale is {scale}: {source} cannot be enlarged by that")));
    };
    X264::open(&Settings {
        source,
        coded: Size { width, height },
        frames_per_second,
        global_header: true,
        // One thread: x264's output depends on how many it has.
        options: &[("preset", "fast"), ("threads", "1"), ("crf", &quality.to_string())],
    })
}

fn mux(temporary: &Temporary, x264: &X264) -> Result<Output, ffmpeg_next::Error> {
    // Behind "file:" no part of a path can pass for another protocol.
    let mut output = format::output_as(&format!("file:{}", temporary.utf8), "mp4")?;
    let mut stream = output.add_stream_with(x264.context())?;
    stream.set_time_base(x264.context().time_base());
    output.write_header_with(Dictionary::from_iter([("movflags", "+faststart")]))?;
    Ok(output)
}

/// An MP4 file in the making, which is removed unless it is renamed.
pub(super) struct Temporary {
    path: PathBuf,
    /// The same path, as FFmpeg takes it.
    pub(super) utf8: String,
}

impl Temporary {
    pub(super) fn beside(destination: &Path) -> Result<Self, String> {
        if !destination.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("mp4")) {
            return Err("expected a name ending in .mp4".to_owned());
        }
        if destination.is_dir() {
            return Err("is a folder".to_owned());
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = destination.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| "the name is not UTF-8".to_owned())?;
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = destination.with_file_name(format!(".{name}.{}-{unique}.part", process::id()));
        let utf8 = path.to_str().ok_or_else(|| "the path is not UTF-8".to_owned())?.to_owned();
        let folder = destination.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(format!("the folder {} does not exist", folder.display()));
        }
        File::create_new(&path).map_err(|error| error.to_string())?;
        Ok(Self { path, utf8 })
    }

    pub(super) fn rename_to(self, destination: &Path) -> Result<(), String> {
        fs::rename(&self.path, destination).map_err(|error| error.to_string())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and nobody to tell if it fails.
        let _ = fs::remove_file(&self.path);
    }
}
