//! Clips in and films out, or a plain word about it in a build without FFmpeg.

use acdit_codec::Size;

/// Pixels down that a film should have at least: worlds are small, and players show a small one as a stamp.
const WATCHABLE_HEIGHT: u32 = 256;

/// What to take of a clip.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "video"), allow(dead_code, reason = "nothing can be taken"))]
pub(crate) struct Wanted {
    /// Size of the frames, in pixels.
    pub(crate) size: Size,
    /// Rate of the frames.
    pub(crate) frames_per_second: f64,
    /// Frames at most, from the end.
    pub(crate) frames: usize,
}

/// The whole factor by which frames of `size` are enlarged to be looked at; H.264 wants even sides.
pub(crate) fn enlargement(size: Size) -> u32 {
    let factor = WATCHABLE_HEIGHT.div_ceil(size.height.max(1)).max(1);
    let odd = (size.width * factor) % 2 + (size.height * factor) % 2 > 0;
    factor + u32::from(odd)
}

/// `size`, enlarged.
pub(crate) fn enlarged(size: Size) -> Size {
    let factor = enlargement(size);
    Size { width: size.width * factor, height: size.height * factor }
}

#[cfg(feature = "video")]
pub(crate) use with_video::{FileWriter, Film, create, last_frames};
#[cfg(not(feature = "video"))]
pub(crate) use without_video::{FileWriter, Film, create, last_frames};

#[cfg(feature = "video")]
mod with_video {
    use std::path::Path;

    pub(crate) use acdit_codec::video::FileWriter;
    use acdit_codec::video::{DecodeOptions, Decoder, FileConfig, Limits, decode_last};
    use acdit_codec::{Error, Frame, Size};

    use super::{Wanted, enlargement};

    /// Hard to tell from the pictures themselves.
    const QUALITY: u8 = 16;

    pub(crate) fn create(path: &Path, source: Size, frames_per_second: f64) -> Result<FileWriter, Error> {
        let config = FileConfig { source, scale: enlargement(source), frames_per_second, quality: QUALITY };
        FileWriter::create(path, &config)
    }

    /// A film of one's own, frame by frame.
    pub(crate) struct Film(Decoder);

    impl Film {
        pub(crate) fn open(path: &Path, size: Size, frames_per_second: f64) -> Result<Self, Error> {
            let options = DecodeOptions { size, frames_per_second, limits: Limits::FILE };
            Ok(Self(Decoder::open(path, &options)?))
        }
    }

    impl Iterator for Film {
        type Item = Result<Frame, Error>;

        fn next(&mut self) -> Option<Self::Item> {
            self.0.next()
        }
    }

    /// The last frames of a file of one's own, decoded in this process: its owner runs the command. What strangers send
    /// goes through `uploads`.
    pub(crate) fn last_frames(clip: &Path, wanted: Wanted) -> Result<Vec<Frame>, Error> {
        let Wanted { size, frames_per_second, frames } = wanted;
        let options = DecodeOptions { size, frames_per_second, limits: Limits::FILE };
        Ok(decode_last(clip, &options, frames)?.frames)
    }
}

#[cfg(not(feature = "video"))]
mod without_video {
    use std::path::Path;

    use acdit_codec::{Error, Frame, Size};

    use super::Wanted;

    /// There is none.
    pub(crate) enum FileWriter {}

    impl FileWriter {
        pub(crate) fn write(&mut self, _frame: &Frame) -> Result<(), Error> {
            match *self {}
        }

        pub(crate) fn finish(self) -> Result<(), Error> {
            match self {}
        }
    }

    pub(crate) fn create(_path: &Path, _source: Size, _frames_per_second: f64) -> Result<FileWriter, Error> {
        Err(absent())
    }

    /// There is none.
    pub(crate) enum Film {}

    impl Film {
        pub(crate) fn open(_path: &Path, _size: Size, _frames_per_second: f64) -> Result<Self, Error> {
            Err(absent())
        }
    }

    impl Iterator for Film {
        type Item = Result<Frame, Error>;

        fn next(&mut self) -> Option<Self::Item> {
            match *self {}
        }
    }

    pub(crate) fn last_frames(_clip: &Path, _wanted: Wanted) -> Result<Vec<Frame>, Error> {
        Err(absent())
    }

    fn absent() -> Error {
        Error::Video("this build can neither read nor write clips (feature `video`)".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn films_are_tall_enough_and_even() {
        let factor = |width, height| enlargement(Size { width, height });
        assert_eq!(factor(64, 64), 4);
        assert_eq!(factor(16, 8), 32);
        assert_eq!(factor(256, 256), 1);
        assert_eq!(factor(1000, 401), 2);
        assert_eq!(enlarged(Size { width: 85, height: 86 }), Size { width: 340, height: 344 });
    }
}
