//! What there is to learn from: clips whose blocks carry labels, from the procedural world or from files.

use std::fmt;
use std::path::{Path, PathBuf};

use acdit_codec::vae::VaeEncoder;
use acdit_codec::{Frame, Size};
use acdit_runtime::{Label, Sampling, WorldMeta};

use crate::listing::{Entry, Listing, NOMINAL_RATE, Split};
use crate::procedural::{FRAMES_PER_BLOCK, Procedural};
use crate::vae_loop::VaeFrames;
use crate::{Error, Interrupt, LatentBank};

/// Seeds of held-out material are counted from here, far from those that training can reach.
pub(crate) const HELD_OUT_SEED: u64 = 1 << 40;

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
    /// Seed of procedural clips.
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// Encodes clips; `progress` is told how many are done. Files that cannot be used come back beside the bank.
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
        let mut bank = LatentBank::new(size.frames_per_block as i64);
        let mut skipped = Vec::new();
        match &self.source {
            Source::Procedural(world) => {
                self.check_procedural(size.frames_per_block)?;
                for index in 0..size.clips {
                    interrupt.check()?;
                    let seed = self.seed.wrapping_add(index as u64);
                    let (frames, labels) = world.trajectory(seed, size.blocks, self.size)?;
                    let labels: Vec<i64> = labels.into_iter().map(|label| label as i64).collect();
                    bank.push(encoder, &frames, &labels)?;
                    progress(bank.len());
                }
            }
            Source::Clips(listing) => {
                for entry in listing.entries(Split::Train) {
                    interrupt.check()?;
                    if bank.len() == size.clips {
                        break;
                    }
                    match self.decode(entry, size.blocks * size.frames_per_block) {
                        Ok(frames) => {
                            let labels = vec![entry.label as i64; frames.len() / size.frames_per_block];
                            bank.push(encoder, &frames, &labels)?;
                            progress(bank.len());
                        }
                        Err(reason) => skipped.push(Skipped::new(&entry.path, &reason)),
                    }
                }
            }
        }
        if bank.is_empty() {
            return Err(nothing_usable(&skipped));
        }
        Ok((bank, skipped))
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
                self.check_procedural(FRAMES_PER_BLOCK)?;
                // one frame per seed, so that frames are independent
                let frames = |first: u64, count: usize| -> Result<Vec<Frame>, Error> {
                    let seeds = (0..count as u64).map(|index| first.wrapping_add(index));
                    seeds.map(|seed| Ok(world.still(seed, self.size)?)).collect()
                };
                let training = frames(self.seed, training)?;
                let held_out = frames(self.seed.wrapping_add(HELD_OUT_SEED), held_out)?;
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
            match self.decode(entry, 1) {
                Ok(clip) => frames.extend(clip.iter().step_by(clip.len().div_ceil(per_clip)).cloned()),
                Err(reason) => skipped.push(Skipped::new(&entry.path, &reason)),
            }
        }
        if frames.is_empty() { Err(nothing_usable(skipped)) } else { Ok(frames) }
    }

    pub(crate) fn check_procedural(&self, frames_per_block: usize) -> Result<(), Error> {
        if (frames_per_block, self.frame_interval) != (FRAMES_PER_BLOCK, 1) {
            let expected = format!("{FRAMES_PER_BLOCK} frames per block and a frame interval of 1");
            let got = format!("{frames_per_block} and {}", self.frame_interval);
            return Err(Error::Options(format!("procedural worlds have {expected}, not {got}")));
        }
        Ok(())
    }

    /// All frames of a file at the wanted size and interval, or why it cannot be used.
    #[cfg(feature = "video")]
    pub(crate) fn decode(&self, entry: &Entry, fewest: usize) -> Result<Vec<Frame>, String> {
        use acdit_codec::video::{DecodeOptions, Limits, decode, probe};

        let limits = Limits::FILE;
        let rate = probe(&entry.path, &limits).map_err(|e| e.to_string())?.frames_per_second;
        let options = DecodeOptions {
            size: self.size,
            frames_per_second: rate.unwrap_or(NOMINAL_RATE) / f64::from(self.frame_interval.max(1)),
            limits,
        };
        let frames = decode(&entry.path, &options).map_err(|e| e.to_string())?.frames;
        if frames.len() < fewest {
            return Err(format!("{} frames at this interval, {fewest} needed", frames.len()));
        }
        Ok(frames)
    }

    #[cfg(not(feature = "video"))]
    pub(crate) fn decode(&self, _entry: &Entry, _fewest: usize) -> Result<Vec<Frame>, String> {
        Err("this build cannot read video (feature `video`)".into())
    }
}

fn absent(entries: &[Entry]) -> Vec<Skipped> {
    entries.iter().map(|entry| Skipped::new(&entry.path, "no such file")).collect()
}

fn nothing_usable(skipped: &[Skipped]) -> Error {
    Error::Dataset(match skipped.first() {
        Some(first) => format!("none of {} listed clips can be used; the first: {first}", skipped.len()),
        None => "no clips asked for".into(),
    })
}
