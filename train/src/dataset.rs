//! What there is to learn from: clips whose blocks carry labels, from the procedural world or from files.

use std::fmt;
use std::path::{Path, PathBuf};

use acdit_codec::vae::VaeEncoder;
use acdit_codec::{Error as CodecError, Frame, Size};
use acdit_runtime::{Label, Sampling, WorldMeta};
use serde::{Deserialize, Serialize};

use crate::encoding::Encoding;
use crate::listing::{Entry, Listing, Split};
use crate::procedural::{FRAMES_PER_BLOCK, Procedural};
use crate::vae_loop::VaeFrames;
use crate::{Description, Error, Interrupt, LatentBank, seeds};

/// Threads that decode clips into memory.
const DECODERS: usize = 2;

/// Where clips come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A procedural world.
    Procedural(Procedural),
    /// Files.
    Clips(Listing),
}

/// Clips of one size and rate.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Where they come from.
    pub source: Source,
    /// Size of every frame in pixels.
    pub size: Size,
    /// Every how many frames of a clip one is taken; the procedural world knows only 1.
    pub frame_interval: u32,
    /// Of procedural clips: [`seeds::training`].
    pub seed: u64,
}

/// What [`Dataset::bank`] is to hold.
#[derive(Debug, Clone, Copy)]
pub struct BankSize {
    /// Clips at most; files in the order of their list.
    pub clips: usize,
    /// Blocks of a procedural clip, and the fewest that a file must have.
    pub blocks: usize,
    /// Frames per block.
    pub frames_per_block: usize,
}

/// A clip that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Skipped {
    /// Errors often name their file: the reason goes without.
    pub(crate) fn new(path: &Path, reason: &str) -> Self {
        let named = format!("{}: ", path.display());
        Self { path: path.into(), reason: reason.strip_prefix(&named).unwrap_or(reason).into() }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl Dataset {
    /// What `world.json` says of a world trained on these clips.
    pub fn meta(&self) -> WorldMeta {
        let listing = match &self.source {
            Source::Procedural(world) => return world.meta(),
            Source::Clips(listing) => listing,
        };
        WorldMeta {
            name: listing.name.clone(),
            labels: listing.classes.iter().map(|class| Label { name: class.clone(), key: None }).collect(),
            fps: listing.rate / f64::from(self.frame_interval),
            sampling: Sampling::default(),
        }
    }

    /// With every clip's mirror image beside it; which of the two a window is of is drawn with the window.
    ///
    /// # Errors
    /// [`Error::Options`] for a procedural world, whose labels are directions.
    pub fn with_mirrored(mut self) -> Result<Self, Error> {
        match &mut self.source {
            Source::Procedural(world) => {
                let name = world.meta().name;
                Err(Error::Options(format!("{name} has no mirror image: its labels are directions")))
            }
            Source::Clips(listing) => {
                listing.mirrored = true;
                Ok(self)
            }
        }
    }

    pub(crate) fn is_mirrored(&self) -> bool {
        matches!(&self.source, Source::Clips(listing) if listing.mirrored)
    }

    /// What the clips are that [`Dataset::bank`] makes of a list.
    pub(crate) fn describe(&self, split: Split, size: BankSize) -> Description {
        let WorldMeta { name, labels, fps, .. } = self.meta();
        let listing = match &self.source {
            Source::Procedural(_) => None,
            Source::Clips(listing) => Some(listing),
        };
        Description {
            dataset: name,
            labels: labels.into_iter().map(|label| label.name).collect(),
            fps,
            seed: listing.is_none().then_some(self.seed),
            streams: None,
            list: listing.map(|listing| listing.fingerprint(split)),
            fold: listing.and_then(|listing| listing.fold),
            split,
            mirrored: self.is_mirrored(),
            width: self.size.width,
            height: self.size.height,
            frame_interval: self.frame_interval,
            frames_per_block: size.frames_per_block,
            blocks: size.blocks,
        }
    }

    /// Whether there is such a list.
    pub fn has(&self, split: Split) -> bool {
        match &self.source {
            Source::Procedural(_) => split == Split::Train,
            Source::Clips(listing) => !listing.entries(split).is_empty(),
        }
    }

    /// Clips that may be tried for a bank of that size.
    pub fn count(&self, split: Split, size: BankSize) -> usize {
        match &self.source {
            Source::Procedural(_) => size.clips,
            Source::Clips(listing) => listing.entries(split).len(),
        }
    }

    /// Why clip `number` of a list was left out.
    pub(crate) fn skipped(&self, split: Split, number: usize, reason: &str) -> Skipped {
        match &self.source {
            Source::Procedural(world) => Skipped::new(Path::new(&world.meta().name), reason),
            Source::Clips(listing) => Skipped::new(&listing.entries(split)[number].path, reason),
        }
    }

    /// Encodes the clips of the training list; `progress` is told how many are done, usable or not. Files that cannot be used
    /// come back beside the bank.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if asked to end;
    /// [`Error::Options`] for a block length or interval that the procedural world does not have; [`Error::Dataset`] if
    /// no clip could be used; [`Error::Codec`] if the VAE does not fit the frames.
    pub fn bank(
        &self,
        encoder: &VaeEncoder,
        size: BankSize,
        interrupt: &Interrupt,
        mut progress: impl FnMut(usize),
    ) -> Result<(LatentBank, Vec<Skipped>), Error> {
        let split = Split::Train;
        self.check(size)?;
        let (mut clips, mut skipped) = (Vec::new(), Vec::new());
        let encoding = Encoding { dataset: self, split, size, workers: DECODERS };
        encoding.run(encoder, 0, interrupt, |number, clip| {
            match clip {
                Ok(clip) => clips.push(clip),
                Err(reason) => skipped.push(self.skipped(split, number, &reason)),
            }
            progress(number + 1);
            Ok(clips.len() < size.clips)
        })?;
        if clips.is_empty() {
            return Err(nothing_usable(&skipped));
        }
        Ok((LatentBank::new(self.describe(split, size), clips), skipped))
    }

    /// Single frames for the VAE: about `training` of them, and `held_out` of clips that training never sees. Where no clip
    /// of a test list is at hand, those are every eighth clip for training, or every eighth frame of fewer clips. Files that
    /// cannot be used come back beside them.
    ///
    /// # Errors
    /// As [`Dataset::bank`].
    pub fn vae_frames(&self, training: usize, held_out: usize) -> Result<(VaeFrames, Vec<Skipped>), Error> {
        match &self.source {
            Source::Procedural(world) => {
                self.check(BankSize { clips: 0, blocks: 0, frames_per_block: FRAMES_PER_BLOCK })?;
                // one frame per seed, so that frames are independent
                let frames = |seed_of: fn(u64, u64) -> u64, count: usize| -> Result<Vec<Frame>, Error> {
                    let seeds = (0..count as u64).map(|number| seed_of(self.seed, number));
                    seeds.map(|seed| Ok(world.still(seed, self.size)?)).collect()
                };
                let training = frames(seeds::training, training)?;
                let held_out = frames(seeds::held_out, held_out)?;
                Ok((VaeFrames { training, held_out }, Vec::new()))
            }
            Source::Clips(listing) => {
                let mut skipped = Vec::new();
                let (train, test) = (listing.entries(Split::Train), listing.entries(Split::Test));
                let every_eighth = |index: usize| index % 8 == 7;
                let (training, held_out) = if test.iter().any(|entry| entry.path.is_file()) {
                    (
                        self.file_frames(train, training, &mut skipped)?,
                        self.file_frames(test, held_out, &mut skipped)?,
                    )
                } else if train.len() >= 8 {
                    let (out, kept): (Vec<_>, Vec<_>) =
                        train.iter().cloned().enumerate().partition(|&(index, _)| every_eighth(index));
                    let entries = |part: Vec<(usize, Entry)>| {
                        part.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>()
                    };
                    let training = self.file_frames(&entries(kept), training, &mut skipped)?;
                    (training, self.file_frames(&entries(out), held_out, &mut skipped)?)
                } else {
                    let frames = self.file_frames(train, training, &mut skipped)?;
                    let (out, kept): (Vec<_>, Vec<_>) =
                        frames.into_iter().enumerate().partition(|&(index, _)| every_eighth(index));
                    let frames = |part: Vec<(usize, Frame)>| part.into_iter().map(|(_, frame)| frame);
                    (frames(kept).collect(), frames(out).take(held_out).collect())
                };
                Ok((VaeFrames { training, held_out }, skipped))
            }
        }
    }

    /// Frames spread evenly over the usable files and over each file's length.
    fn file_frames(
        &self,
        entries: &[Entry],
        count: usize,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<Frame>, Error> {
        let present: Vec<&Entry> = entries.iter().filter(|entry| entry.path.is_file()).collect();
        let (clips, per_clip) = match present.len() {
            0 => return Err(nothing_usable(&absent(entries))),
            have if have >= count => (count, 1),
            have => (have, count.div_ceil(have)),
        };
        let mut frames = Vec::with_capacity(count);
        for entry in present.iter().step_by((present.len() / clips.max(1)).max(1)) {
            let spread = self.frames(&entry.path).and_then(|all| spread(all, per_clip));
            match spread {
                Ok(some) => frames.extend(some),
                Err(reason) => skipped.push(Skipped::new(&entry.path, &reason.to_string())),
            }
        }
        if frames.is_empty() { Err(nothing_usable(skipped)) } else { Ok(frames) }
    }

    /// Whether clips of that size can be had.
    pub(crate) fn check(&self, size: BankSize) -> Result<(), Error> {
        if let Source::Procedural(_) = self.source
            && (size.frames_per_block, self.frame_interval) != (FRAMES_PER_BLOCK, 1)
        {
            let expected = format!("{FRAMES_PER_BLOCK} frames per block and a frame interval of 1");
            let got = format!("{} and {}", size.frames_per_block, self.frame_interval);
            return Err(Error::Options(format!("procedural worlds have {expected}, not {got}")));
        }
        Ok(())
    }

    /// The frames of a file, one by one, at the wanted size and interval.
    #[cfg(feature = "video")]
    pub(crate) fn frames(
        &self,
        path: &Path,
    ) -> Result<impl Iterator<Item = Result<Frame, CodecError>>, CodecError> {
        use acdit_codec::video::{DecodeOptions, Decoder, Limits, probe};

        let limits = Limits::FILE;
        let rate = probe(path, &limits)?.frames_per_second.unwrap_or(crate::listing::NOMINAL_RATE);
        let frames_per_second = rate / f64::from(self.frame_interval.max(1));
        Decoder::open(path, &DecodeOptions { size: self.size, frames_per_second, limits })
    }

    #[cfg(not(feature = "video"))]
    pub(crate) fn frames(
        &self,
        path: &Path,
    ) -> Result<impl Iterator<Item = Result<Frame, CodecError>>, CodecError> {
        let reason = "this build cannot read video (feature `video`)".into();
        Err::<std::iter::Empty<_>, _>(CodecError::ClipUnreadable { clip: path.display().to_string(), reason })
    }
}

/// Up to `count` of the frames, evenly spread over however many there are, and at least half of `count` if there are as many.
/// No more than twice `count` are held.
fn spread(
    frames: impl Iterator<Item = Result<Frame, CodecError>>,
    count: usize,
) -> Result<Vec<Frame>, CodecError> {
    let (mut kept, mut every) = (Vec::new(), 1);
    for (index, frame) in frames.enumerate() {
        let frame = frame?;
        if index % every == 0 {
            kept.push(frame);
        }
        if kept.len() > 2 * count {
            kept = kept.into_iter().step_by(2).collect();
            every *= 2;
        }
    }
    let every = kept.len().div_ceil(count.max(1)).max(1);
    Ok(kept.into_iter().step_by(every).collect())
}

fn absent(entries: &[Entry]) -> Vec<Skipped> {
    entries.iter().map(|entry| Skipped::new(&entry.path, "no such file")).collect()
}

pub(crate) fn nothing_usable(skipped: &[Skipped]) -> Error {
    Error::Dataset(match skipped.first() {
        Some(first) => format!("none of {} listed clips can be used; the first: {first}", skipped.len()),
        None => "no clips asked for".into(),
    })
}
