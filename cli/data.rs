//! What there is to learn from: the flags that `train`, `train-vae`, `encode` and `eval` share.

use std::path::PathBuf;

use acdit_codec::Size;
use acdit_train::dataset::{BankSize, Dataset, Source};
use acdit_train::listing::Listing;
use acdit_train::procedural::{FRAMES_PER_BLOCK, Procedural};
use acdit_train::ucf101;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::world;

/// Trajectories of a procedural world, and blocks of each: three hours and 20 minutes of play.
const PROCEDURAL_CLIPS: usize = 480;
const PROCEDURAL_BLOCKS: usize = 100;

/// A dataset, and how its frames are taken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct Data {
    #[command(flatten)]
    clips: Clips,
    /// Pixels a side
    #[arg(long, default_value_t = 64)]
    pub(crate) resolution: u32,
}

/// A dataset, and which of its frames are taken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct Clips {
    /// Which clips
    #[arg(long, value_enum)]
    dataset: Option<DatasetArg>,
    /// Folder of the clips, which holds a folder for each class
    #[arg(long, value_name = "DIR", required_if_eq_any([("dataset", "ucf101"), ("dataset", "folder")]))]
    data_dir: Option<PathBuf>,
    /// Folder of UCF-101's lists [default: ucfTrainTestlist in the data folder or beside it]
    #[arg(long, value_name = "DIR")]
    splits_dir: Option<PathBuf>,
    /// Which of UCF-101's three pairs of lists [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3))]
    fold: Option<u32>,
    /// Of a clip's frames, every how many-th is taken
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    frame_interval: u32,
}

/// What is encoded of a dataset, and by which VAE.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct LatentArgs {
    #[command(flatten)]
    data: Data,
    /// VAE folder [default: the shipped world's, which knows gravity only]
    #[arg(long, value_name = "DIR")]
    pub(crate) vae: Option<PathBuf>,
    /// Clips at most [default: 480 procedural ones, or the whole list]
    #[arg(long, value_name = "N")]
    clips: Option<usize>,
    /// Frames of a training clip; clips that have fewer, after the interval, are left out
    #[arg(long, default_value_t = 32)]
    pub(crate) frames: usize,
    /// Take each clip's mirror image, too: of a dataset in files, whose labels have no directions
    #[arg(long)]
    flip: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum DatasetArg {
    /// The procedural world of two balls
    Gravity,
    /// The procedural walk in a maze
    Maze,
    /// UCF-101, by its folders and lists
    Ucf101,
    /// Any clips: a folder for each class, labels in the order of the folders' names
    Folder,
}

impl Data {
    /// Whether there is a dataset at all.
    pub(crate) fn is_named(&self) -> bool {
        self.clips.is_named()
    }

    /// `seed` is that of procedural clips.
    pub(crate) fn open(&self, seed: u64) -> anyhow::Result<Dataset> {
        self.clips.open(Size { width: self.resolution, height: self.resolution }, seed)
    }

    /// The VAE for a dataset when none is named.
    pub(crate) fn shipped_vae(&self) -> anyhow::Result<PathBuf> {
        if self.clips.dataset != Some(DatasetArg::Gravity) {
            tracing::warn!(
                "the shipped VAE knows gravity only: make another by train-vae and name it by --vae"
            );
        }
        Ok(world::shipped()?.join("vae"))
    }
}

impl Clips {
    /// Whether there is a dataset at all.
    pub(crate) fn is_named(&self) -> bool {
        self.dataset.is_some()
    }

    /// Frames of that size; `seed` is that of procedural clips.
    pub(crate) fn open(&self, size: Size, seed: u64) -> anyhow::Result<Dataset> {
        let dataset = self.dataset.context("--dataset is missing: gravity, maze, ucf101 or folder")?;
        let has_lists = dataset == DatasetArg::Ucf101;
        let has_clips = has_lists || dataset == DatasetArg::Folder;
        for (flag, given, fits, what) in [
            ("--data-dir", self.data_dir.is_some(), has_clips, "is computed, not filmed"),
            ("--splits-dir", self.splits_dir.is_some(), has_lists, "has no lists"),
            ("--fold", self.fold.is_some(), has_lists, "has no lists"),
        ] {
            if given && !fits {
                bail!("{flag}: --dataset {} {what}", dataset.name());
            }
        }
        let source = match (dataset, &self.data_dir) {
            (DatasetArg::Gravity, _) => Source::Procedural(Procedural::Gravity),
            (DatasetArg::Maze, _) => Source::Procedural(Procedural::Maze),
            (_, None) => bail!("--data-dir DIR is missing: where are the clips?"),
            (DatasetArg::Ucf101, Some(folder)) => {
                Source::Clips(ucf101::open(folder, self.splits_dir.as_deref(), self.fold.unwrap_or(1))?)
            }
            (DatasetArg::Folder, Some(folder)) => Source::Clips(Listing::of_folder(folder)?),
        };
        Ok(Dataset { source, size, frame_interval: self.frame_interval, seed })
    }
}

impl DatasetArg {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl LatentArgs {
    /// Whether there is a dataset at all.
    pub(crate) fn is_named(&self) -> bool {
        self.data.is_named()
    }

    /// `seed` is that of procedural clips.
    pub(crate) fn open(&self, seed: u64) -> anyhow::Result<Dataset> {
        let dataset = self.data.open(seed)?;
        Ok(if self.flip { dataset.with_mirrored()? } else { dataset })
    }

    /// Pixels a side.
    pub(crate) fn resolution(&self) -> u32 {
        self.data.resolution
    }

    /// The VAE for a dataset when none is named.
    pub(crate) fn shipped_vae(&self) -> anyhow::Result<PathBuf> {
        self.data.shipped_vae()
    }

    /// A clip's length in blocks.
    pub(crate) fn blocks(&self) -> anyhow::Result<usize> {
        let frames = self.frames;
        if frames == 0 || !frames.is_multiple_of(FRAMES_PER_BLOCK) {
            bail!("--frames {frames}: expected a multiple of {FRAMES_PER_BLOCK}");
        }
        Ok(frames / FRAMES_PER_BLOCK)
    }

    /// How much of a dataset is encoded.
    pub(crate) fn amount(&self, dataset: &Dataset) -> anyhow::Result<BankSize> {
        let blocks = self.blocks()?;
        let (clips, blocks) = match dataset.source {
            Source::Procedural(_) => (self.clips.unwrap_or(PROCEDURAL_CLIPS), PROCEDURAL_BLOCKS.max(blocks)),
            Source::Clips(_) => (self.clips.unwrap_or(usize::MAX), blocks),
        };
        Ok(BankSize { clips, blocks, frames_per_block: FRAMES_PER_BLOCK })
    }
}
