//! `generate`: blocks as fast as they come, into a file.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Instant;

use acdit_codec::{Frame, color, still};
use acdit_model::{Patcher, write_atomically};
use acdit_runtime::{Session, StepInput, frame_size, render};
use acdit_train::Interrupt;
use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use tch::Tensor;

use crate::failure::Failed;
use crate::output::{self, Output};
use crate::world::{self, Loaded, WorldArgs};
use crate::{film, signals};

/// What is made, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct Making {
    /// Frames to generate, exactly; left out for weights that make pictures
    #[arg(long, value_name = "N")]
    frames: Option<NonZeroU64>,
    /// Labels by name, in turn [default: the world's first]
    #[arg(long, value_name = "L[,L...]", value_delimiter = ',')]
    pub(crate) label: Vec<String>,
    /// Blocks for which each label holds
    #[arg(long, value_name = "BLOCKS", default_value = "4")]
    hold: NonZeroUsize,
    /// Seed of all noise: the same command with the same seed gives the same clip
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The file to write: .mp4, or .png for weights that make pictures
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acdit-world generate --frames 240 --out a.mp4
  acdit-world generate --frames 240 --label left,right --hold 8 --out a.mp4   # 8 blocks of each
  acdit-world generate --frames 64 --seed 7 --steps 25 --out a.mp4            # sampled with care
  acdit-world generate --weights weights/image --label tench --out a.png      # a picture")]
pub(crate) struct Generate {
    #[command(flatten)]
    making: Making,
}

/// What was made.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    /// Frames generated.
    frames: u64,
    seconds: f64,
    frames_per_second: f64,
    /// One for each block, in hexadecimal: equal hashes mean equal latents.
    block_hashes: Vec<String>,
}

impl Generate {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let Self { making } = self;
        let loaded = making.world.load()?;
        let made = if loaded.world.model.config().square_block.is_some() {
            making.picture(&loaded)?
        } else {
            let frames = making.frames()?;
            let settings = making.world.sampling.settings(&loaded.world, making.seed);
            let mut session = Session::prompted(&loaded.world, settings)?;
            making.film(&loaded, &mut session, frames, &[])?
        };
        output.print(&made, || made.line(&making.out))
    }
}

impl Made {
    pub(crate) fn line(&self, out: &Path) -> String {
        let Self { frames, seconds, frames_per_second, .. } = self;
        format!("{}: {frames} frames in {seconds:.1} s, {frames_per_second:.1} frames/s", out.display())
    }

    fn new(frames: u64, started: Instant, block_hashes: Vec<String>) -> Self {
        let seconds = started.elapsed().as_secs_f64();
        Self { frames, seconds, frames_per_second: frames as f64 / seconds, block_hashes }
    }
}

impl Making {
    pub(crate) fn frames(&self) -> anyhow::Result<u64> {
        self.frames.map(NonZeroU64::get).context("--frames N is missing: how long is the clip to be?")
    }

    /// Writes `opening` and `count` generated frames after it.
    pub(crate) fn film(
        &self,
        loaded: &Loaded,
        session: &mut Session,
        count: u64,
        opening: &[Frame],
    ) -> anyhow::Result<Made> {
        let Loaded { world, vae, .. } = loaded;
        let labels = world::labels(&world.meta, &self.label)?;
        let size = frame_size(world, vae)?;
        let mut file = film::create(&self.out, size, world.meta.fps)?;
        for frame in opening {
            file.write(frame)?;
        }
        let interrupt = signals::interrupt()?;
        let started = Instant::now();
        let bar = output::progress(count, "frames");
        let labels = labels.iter().flat_map(|&label| std::iter::repeat_n(label, self.hold.get())).cycle();
        let (mut left, mut hashes) = (count, Vec::new());
        for block in render(world, &vae.decoder, session, labels) {
            let block = block?;
            hashes.push(block.block.hash.to_hex().to_string());
            let taken = block.frames.iter().take(usize::try_from(left).unwrap_or(usize::MAX));
            left -= taken.len() as u64;
            for frame in taken {
                file.write(frame)?;
            }
            bar.set_position(count - left);
            if left == 0 {
                break;
            }
            stop_if_asked(&interrupt)?;
        }
        file.finish()?;
        bar.finish_and_clear();
        Ok(Made::new(count, started, hashes))
    }

    /// Writes one picture, of all its blocks.
    fn picture(&self, loaded: &Loaded) -> anyhow::Result<Made> {
        let Loaded { world, vae, .. } = loaded;
        let config = world.model.config();
        if self.frames.is_some_and(|frames| frames.get() != 1) {
            bail!("these weights make single pictures: leave --frames out");
        }
        if !self.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            bail!("{}: these weights make pictures, expected a name ending in .png", self.out.display());
        }
        let folder = self.out.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!("{}: the folder {} does not exist", self.out.display(), folder.display());
        }
        let label = world::labels(&world.meta, &self.label)?[0];
        let mut session = Session::new(world, self.world.sampling.settings(world, self.seed))?;
        let interrupt = signals::interrupt()?;
        let started = Instant::now();
        let total = config.training_blocks() as u64;
        let bar = output::progress(total, "blocks");
        let (mut latents, mut hashes) = (Vec::new(), Vec::new());
        for _ in 0..total {
            let block = session.step(world, &StepInput { label, inject: None })?;
            hashes.push(block.hash.to_hex().to_string());
            latents.push(block.latents);
            bar.inc(1);
            stop_if_asked(&interrupt)?;
        }
        bar.finish_and_clear();
        let latents = Patcher::new(config).assemble(&Tensor::cat(&latents, 0)); // (1, C, h, w)
        let pictures = tch::no_grad(|| color::to_frames(&vae.decoder.decode(&latents)?))?;
        write_atomically(&self.out, &still::png(&pictures[0])?)?;
        Ok(Made::new(1, started, hashes))
    }
}

pub(crate) fn stop_if_asked(interrupt: &Interrupt) -> Result<(), Failed> {
    if interrupt.is_set() {
        return Err(Failed("interrupted, nothing was written".to_owned()));
    }
    Ok(())
}
