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

#[cfg(all(test, feature = "video"))]
mod tests {
    use acdit_codec::video::{DecodeOptions, Encoder, EncoderConfig, Limits, decode};
    use acdit_codec::{Frame, Size};
    use acdit_io::{Header, Kind};

    use super::*;

    const SIZE: Size = Size { width: 32, height: 32 };

    /// A packet of each frame: generation, number, block, and whether it is a keyframe.
    fn packets(frames: &[(u32, u64, u64, bool)]) -> Vec<Packet> {
        let config = EncoderConfig {
            source: SIZE,
            display: SIZE,
            frames_per_second: 8.0,
            keyframe_interval: 100,
            quality: 20,
            max_bits_per_second: 1_000_000,
        };
        let mut encoder = Encoder::open(&config).unwrap();
        let packet = |&(generation, frame, block, keyframe): &(u32, u64, u64, bool)| {
            let picture = Frame::new(SIZE, vec![(frame as u8).wrapping_mul(10); 32 * 32 * 3]).unwrap();
            let unit = encoder.encode(&picture, keyframe).unwrap();
            let (generated, injected, pts, label) = (true, false, 0, 0);
            let kind = Kind::H264;
            let header = Header { kind, keyframe, generated, injected, generation, frame, pts, block, label };
            Packet { header, payload: unit.data.into() }
        };
        frames.iter().map(packet).collect()
    }

    #[test]
    fn a_film_has_whole_blocks_from_its_cut_on() {
        let folder = tempfile::tempdir().unwrap();
        let size = acdit_io::Size { width: 32, height: 32 };
        let info =
            WorldInfo { frame: size, frames_per_second: 8.0, frames_per_block: 2, ..WorldInfo::default() };
        let path = folder.path().join("film.mp4");
        let cut = Cut { generation: 1, block: 4, turn: 3 };
        let mut film = Film::new(path.clone(), &info, cut);
        for packet in packets(&[
            (0, 90, 45, true), // of an older generation, though its block is later
            (1, 6, 3, true),   // before the cut
            (1, 7, 3, false),
            (1, 8, 4, true),
            (1, 9, 4, false),
            (1, 9, 4, true), // once more, for a viewer
            (1, 10, 5, false),
            (1, 11, 5, false),
            (1, 12, 6, false), // block 6 and all of 7 are lost
            (1, 16, 8, true),
            (1, 17, 8, false),
            (2, 0, 6, true), // the picture before a rewound block
            (2, 1, 7, true),
            (2, 2, 7, false),
            (2, 3, 8, false), // and no more of it
        ]) {
            film.add(packet).unwrap();
        }
        let run = |turn, first, next| Run { turn, blocks: [first, next] };
        let (runs, broken) = film.finish().unwrap();
        assert_eq!(runs, [run(3, 4, 6), run(3, 8, 9), run(4, 7, 8)]);
        assert!(broken.is_none(), "{broken:?}");
        let options = DecodeOptions { size: SIZE, frames_per_second: 8.0, limits: Limits::FILE };
        let frames = decode(path, &options).unwrap().frames;
        let shades: Vec<i16> = frames.iter().map(|frame| i16::from(frame.rgb()[0])).collect();
        let expected: [i16; 8] = [80, 90, 100, 110, 160, 170, 10, 20];
        assert_eq!(shades.len(), 8, "{shades:?}");
        let near = |(got, expected): (&i16, &i16)| (got - expected).abs() <= 4;
        assert!(shades.iter().zip(&expected).all(near), "{shades:?}");

        let nothing = Film::new(folder.path().join("none.mp4"), &info, cut);
        assert!(nothing.finish().is_none() && !folder.path().join("none.mp4").exists());
    }
}
