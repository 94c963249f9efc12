//! What a viewer receives, kept as a file; and what a session shows, block by block, as a film.

use std::path::PathBuf;

use acdit_codec::Error;
use acdit_io::{Packet, WorldInfo};
use acdit_runtime::Cut;

use crate::sidecar::{self, Run};

#[cfg(feature = "video")]
pub(crate) use with_video::Recording;
#[cfg(not(feature = "video"))]
pub(crate) use without_video::Recording;

/// A film of whole blocks, from a cut on.
pub(crate) struct Film {
    recording: Recording,
    cut: Cut,
    frames_per_block: usize,
    /// Frames of a block that is not whole yet.
    block: Vec<Packet>,
    /// Generation and number of the newest frame of the film.
    newest: Option<(u32, u64)>,
    runs: Vec<Run>,
}

impl Film {
    /// Nothing is written before the first block is whole.
    pub(crate) fn new(path: PathBuf, info: &WorldInfo, cut: Cut) -> Self {
        let recording = Recording::new(path, info).in_fragments();
        let frames_per_block = info.frames_per_block as usize;
        Self { recording, cut, frames_per_block, block: Vec::new(), newest: None, runs: Vec::new() }
    }

    /// Takes the next packet of the stream.
    pub(crate) fn add(&mut self, packet: Packet) -> Result<(), Error> {
        let header = packet.header;
        if (header.generation, header.block) < (self.cut.generation, self.cut.block) {
            return Ok(());
        }
        if self.newest == Some((header.generation, header.frame)) {
            // A viewer joined: the same picture once more, on which the next one builds.
            return self.recording.add(&packet);
        }
        let goes_on = self.block.last().is_some_and(|last| {
            let last = last.header;
            (last.generation, last.block, last.frame + 1) == (header.generation, header.block, header.frame)
        });
        if !goes_on {
            self.block.clear();
        }
        self.block.push(packet);
        if self.block.len() == self.frames_per_block { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), Error> {
        let first = self.block[0].header;
        let before = first.frame.checked_sub(1).map(|frame| (first.generation, frame));
        if !(first.keyframe || self.newest.is_some() && self.newest == before) {
            // Blocks before it were lost: the next one begins with a keyframe.
            self.block.clear();
            return Ok(());
        }
        for packet in self.block.drain(..) {
            self.recording.add(&packet)?;
            self.newest = Some((packet.header.generation, packet.header.frame));
        }
        // Every generation begins with a line of the log that goes back.
        let turn = self.cut.turn + u64::from(first.generation - self.cut.generation);
        sidecar::add(&mut self.runs, turn, first.block);
        Ok(())
    }

    /// Completes the file. What it shows, and what went wrong at its end; nothing if it has no block.
    pub(crate) fn finish(self) -> Option<(Vec<Run>, Option<Error>)> {
        let Self { recording, runs, .. } = self;
        (!runs.is_empty()).then(|| (runs, recording.finish().err()))
    }
}

#[cfg(feature = "video")]
mod with_video {
    use acdit_codec::Size;
    use acdit_codec::video::Remuxer;

    use super::{Error, Packet, PathBuf, WorldInfo};

    /// An MP4 file of packets, from the first keyframe on.
    pub(crate) struct Recording {
        path: PathBuf,
        size: Size,
        frames_per_second: f64,
        file: Option<Remuxer>,
        /// Generation and number of the frame that would go on from the last one.
        next: (u32, u64),
        in_fragments: bool,
    }

    impl Recording {
        pub(crate) fn new(path: PathBuf, info: &WorldInfo) -> Self {
            let size = Size { width: info.frame.width, height: info.frame.height };
            Self {
                path,
                size,
                frames_per_second: info.frames_per_second,
                file: None,
                next: (0, 0),
                in_fragments: false,
            }
        }

        /// What is written can be played even if the end never is.
        pub(crate) fn in_fragments(self) -> Self {
            Self { in_fragments: true, ..self }
        }

        /// Appends a frame, unless frames that it goes on from are missing.
        pub(crate) fn add(&mut self, packet: &Packet) -> Result<(), Error> {
            let header = packet.header;
            if let Some(file) = &mut self.file
                && header.keyframe
                && self.next == (header.generation, header.frame + 1)
            {
                return file.repeat(&packet.payload);
            }
            let goes_on = self.file.is_some() && self.next == (header.generation, header.frame);
            if !(header.keyframe || goes_on) {
                return Ok(());
            }
            let file = match &mut self.file {
                Some(file) => file,
                none => {
                    let create =
                        if self.in_fragments { Remuxer::create_in_fragments } else { Remuxer::create };
                    none.insert(create(&self.path, self.size, self.frames_per_second, &packet.payload)?)
                }
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
    use super::{Error, Packet, PathBuf, WorldInfo};

    /// Refuses the first frame.
    pub(crate) struct Recording;

    impl Recording {
        pub(crate) fn new(_path: PathBuf, _info: &WorldInfo) -> Self {
            Self
        }

        pub(crate) fn in_fragments(self) -> Self {
            self
        }

        pub(crate) fn add(&mut self, _packet: &Packet) -> Result<(), Error> {
            Err(Error::Video("this build cannot write clips (feature `video`)".to_owned()))
        }

        pub(crate) fn finish(self) -> Result<(), Error> {
            Ok(())
        }
    }
}
