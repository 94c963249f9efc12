//! `train-vae`: the autoencoder under a world.

use acdit_parallel::Place;
use acdit_runtime::device::{Placement, Precision};
use acdit_train::vae_loop::{self, VaeRecipe, VaeRun};
use anyhow::bail;
use clap::Args;

use crate::data::Data;
use crate::output::Output;
use crate::signals;
use crate::train::{Keeping, warn_of};

#[derive(Debug, Args)]
#[command(after_help = "\
It makes an AutoencoderTiny, eight-fold and with 4 channels, in diffusers' format. PSNR is that of
frames it never saw.

Examples:
  acdit-world train-vae --dataset gravity --out vae                     # one like the shipped one
  acdit-world train-vae --dataset ucf101 --data-dir UCF-101 --steps 20000 --out vae
  acdit-world train --dataset gravity --vae vae/weights/vae --out run   # a world over it")]
pub(crate) struct TrainVae {
    #[command(flatten)]
    data: Data,
    /// Frames to learn from, about
    #[arg(long, default_value_t = 4000, value_name = "N", help_heading = "Data")]
    frames: usize,
    /// Frames to measure on
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = "Data")]
    held_out: usize,
    /// Channels of each of the four stages
    #[arg(long, default_value_t = 24, value_name = "CHANNELS", help_heading = "Network")]
    width: i64,
    /// Frames per step
    #[arg(long, default_value_t = VaeRecipe::default().batch, help_heading = "Schedule")]
    batch: usize,
    /// Steps of the whole schedule
    #[arg(long, default_value_t = VaeRecipe::default().steps, help_heading = "Schedule")]
    steps: u64,
    /// Peak learning rate
    #[arg(long, default_value_t = VaeRecipe::default().rate, help_heading = "Schedule")]
    rate: f64,
    #[command(flatten)]
    keeping: Keeping,
}

impl TrainVae {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let Keeping { out, resume, stop_at, save_every, keep, seed, device, threads } = &self.keeping;
        threads.set();
        if let Some(place) = Place::from_env()? {
            bail!("train-vae runs in one process, a launcher has started {}", place.world);
        }
        let device = Placement::select(*device, Precision::F32)?.device;
        let usual = VaeRecipe::default();
        let stages = usual.vae.encoder_block_out_channels.len();
        let recipe = VaeRecipe {
            vae: acdit_codec::vae::tiny::Config {
                encoder_block_out_channels: vec![self.width; stages],
                decoder_block_out_channels: vec![self.width; stages],
                ..usual.vae
            },
            batch: self.batch,
            steps: self.steps,
            rate: self.rate,
            seed: *seed,
            ..usual
        };
        let interrupt = signals::interrupt()?;
        let (frames, skipped) = self.data.open(*seed)?.vae_frames(self.frames, self.held_out)?;
        warn_of(&skipped);
        let run = VaeRun {
            out,
            resume: *resume,
            stop_at: *stop_at,
            save_every: *save_every,
            keep: *keep,
            device,
            interrupt,
        };
        let summary = vae_loop::train(&recipe, &frames, &run)?;
        output.print(&summary, || {
            let weights = out.join("weights").join("vae");
            format!("step {}, {:.1} dB: {}", summary.step, summary.psnr, weights.display())
        })
    }
}
