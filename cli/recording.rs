//! What a viewer receives, kept as a file.

use std::path::PathBuf;

use acdit_io::{Packet, WorldInfo};

#[cfg(feature = "video")]
pub(crate) use with_video::Recording;
#[cfg(not(feature = "video"))]
pub(crate) use without_video::Recording;

#[cfg(feature = "video")]
mod with_video {
    use acdit_codec::video::Remuxer;
    use acdit_codec::{Error, Size};

    use super::{Packet, PathBuf, WorldInfo};

    /// An MP4 file of packets, from the first keyframe on.
    pub(crate) struct Recording {
        path: PathBuf,
        size: Size,
        frames_per_second: f64,
        file: Option<Remuxer>,
        /// Generation and number of the frame that would go on from the last one.
        next: (u32, u64),
    }

    impl Recording {
        pub(crate) fn new(path: PathBuf, info: &WorldInfo) -> Self {
            let size = Size { width: info.frame.width, height: info.frame.height };
            Self { path, size, frames_per_second: info.frames_per_second, file: None, next: (0, 0) }
        }

        /// Appends a frame, unless frames that it goes on from are missing.
        pub(crate) fn add(&mut self, packet: &Packet) -> Result<(), Error> {
            let header = packet.header;
            let goes_on = self.file.is_some() && self.next == (header.generation, header.frame);
            if !(header.keyframe || goes_on) {
                return Ok(());
            }
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(Remuxer::create(
                    &self.path,
                    self.size,
                    self.frames_per_second,
                    &packet.payload,
                )?),
            };
            self.next = (header.generation, header.frame + 1);
            file.write(&packet.payload, header.keyframe)
        }

        pub(crate) fn finish(self) -> Result<(), Error> {
            self.file.ok_or(Error::NoFrames)?.finish()
        }
    }
}

#[cfg(not(feature = "video"))]
mod without_video {
    use acdit_codec::Error;

    use super::{Packet, PathBuf, WorldInfo};

    /// Refuses the first frame.
    pub(crate) struct Recording;

    impl Recording {
        pub(crate) fn new(_path: PathBuf, _info: &WorldInfo) -> Self {
            Self
        }

        pub(crate) fn add(&mut self, _packet: &Packet) -> Result<(), Error> {
            Err(Error::Video("this build cannot write clips (feature `video`)".to_owned()))
        }

        pub(crate) fn finish(self) -> Result<(), Error> {
            Ok(())
        }
    }
}
