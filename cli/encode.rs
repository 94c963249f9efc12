//! `encode`: a dataset's latents, made once.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use acdit_codec::vae::Config as VaeConfig;
use acdit_runtime::device::{DeviceChoice, Placement, Precision};
use acdit_train::listing::Split;
use acdit_train::shards::{self, Job};
use anyhow::bail;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::Threads;
use crate::data::LatentArgs;
use crate::failure::Failed;
use crate::output::{self, Output};
use crate::signals;

#[derive(Debug, Args)]
#[command(after_help = "\
Whatever ends it, the same command goes on with it. DIR/skipped.jsonl lists clips that cannot be
used, which are not tried again. DIR is all that `train --latents DIR` needs: it holds a copy of the VAE, too.

Examples:
  acdit-world encode --dataset gravity --out latents
  acdit-world encode --dataset ucf101 --data-dir UCF-101 --vae sd-vae --resolution 256 \\
      --frames 16 --flip --out ucf-latents
  acdit-world train --latents ucf-latents --frames 16 --out run")]
pub(crate) struct Encode {
    #[command(flatten)]
    data: LatentArgs,
    /// Which of UCF-101's two lists; trainings take the one for training
    #[arg(long, value_enum, default_value = "train", help_heading = "Data")]
    split: SplitArg,
    /// Folder of the latents
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Megabytes of one file at most, unless a single clip has more
    #[arg(long, default_value_t = 256.0, value_name = "MB", allow_negative_numbers = true)]
    shard_size: f64,
    /// Threads that decode clips
    #[arg(long, default_value = "2", value_name = "N")]
    workers: NonZeroUsize,
    /// Seed of the first procedural clip
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// auto, cpu, cuda or cuda:N; auto is the first GPU, else the CPU
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum SplitArg {
    Train,
    Test,
}

#[derive(Serialize)]
struct Encoded {
    #[serde(flatten)]
    summary: shards::Summary,
    out: PathBuf,
}

impl Encode {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        self.threads.set();
        let device = Placement::select(self.device, Precision::F32)?.device;
        let dataset = self.data.open(self.seed)?;
        let split = match self.split {
            SplitArg::Train => Split::Train,
            SplitArg::Test if dataset.has(Split::Test) => Split::Test,
            SplitArg::Test => bail!("--split test: this dataset has no list of clips for tests"),
        };
        let vae = self.data.vae.clone().map_or_else(|| self.data.shipped_vae(), Ok)?;
        let (resolution, multiple) = (self.data.resolution(), VaeConfig::load(&vae)?.downsampling());
        if resolution == 0 || i64::from(resolution) % multiple != 0 {
            bail!("--resolution {resolution}: expected a multiple of {multiple}, the VAE's");
        }
        if !(self.shard_size > 0.0 && self.shard_size.is_finite()) {
            bail!("--shard-size {}: expected a number above 0", self.shard_size);
        }
        let bar = output::progress(0, "clips");
        let job = Job {
            dataset: &dataset,
            split,
            size: self.data.amount(&dataset)?,
            vae: &vae,
            device,
            workers: self.workers.get(),
            out: &self.out,
            shard_bytes: (self.shard_size * MEGABYTE) as usize,
            interrupt: signals::interrupt()?,
        };
        let summary = shards::encode(&job, |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        let shards::Summary { clips, skipped, shards, complete } = summary;
        let folder = self.out.display();
        if !complete {
            let text = format!("interrupted after {clips} clips: the same command goes on with {folder}");
            return Err(Failed(text).into());
        }
        if skipped > 0 {
            tracing::warn!("{skipped} clips are left out: {}", self.out.join(shards::SKIPPED).display());
        }
        let text = format!("{clips} clips in {shards} files: {folder}");
        output.print(&Encoded { summary, out: self.out.clone() }, || text)
    }
}

const MEGABYTE: f64 = 1e6;
