//! `bench train`: what a step of training costs on this machine.

use std::num::NonZeroUsize;

use acdit_model::diffusion::Prediction;
use acdit_model::{Config, Preset};
use acdit_train::world_loop::{self, Measured, Recipe};
use anyhow::bail;
use clap::Args;
use serde::Serialize;
use tch::Kind;

use super::LABELS;
use crate::args::Compute;
use crate::output::Output;
use crate::train::MemoryArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Latents and weights are random: the speed is the same. A step is noise, forward, backward, AdamW and the
weights' average; the median of --steps counts, after one that warms up. `make bench ARGS=train` compares
with PyTorch.

Examples:
  acdit-world bench train                                              # 256 tokens a block, 4 blocks, batch 4
  acdit-world bench train --hidden 256 --heads 8 --resolution 64 --patch 4 --blocks 8 --window 3 --batch 16
  acdit-world bench train --hidden 1152 --layers 28 --heads 18 --resolution 256 --device cuda --recompute")]
pub(super) struct BenchTraining {
    /// Token width inside the network
    #[arg(long, default_value_t = 384)]
    hidden: i64,
    /// Transformer layers
    #[arg(long, default_value_t = 6)]
    layers: i64,
    /// Attention heads
    #[arg(long, default_value_t = 6)]
    heads: i64,
    /// Side of a patch in latent pixels
    #[arg(long, default_value_t = 2)]
    patch: i64,
    /// Pixels a side
    #[arg(long, default_value_t = 128)]
    resolution: i64,
    /// Frames per block
    #[arg(long, default_value_t = 4)]
    frames_per_block: i64,
    /// Blocks of a clip
    #[arg(long, default_value_t = 4)]
    blocks: usize,
    /// Blocks that a block sees beside itself; 0 for all before it, as in the paper
    #[arg(long, default_value_t = 0)]
    window: i64,
    /// Clips per step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Steps that are timed
    #[arg(long, default_value = "5")]
    steps: NonZeroUsize,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    hidden: i64,
    layers: i64,
    heads: i64,
    tokens_per_block: i64,
    blocks: usize,
    window: Option<i64>,
    batch: usize,
    steps: usize,
    #[serde(flatten)]
    measured: Measured,
}

impl BenchTraining {
    pub(super) fn run(self, output: Output) -> anyhow::Result<()> {
        let multiple = 8 * self.patch.max(1);
        if self.resolution < multiple || self.resolution % multiple != 0 {
            bail!("--resolution {}: expected a multiple of {multiple}, 8 times --patch", self.resolution);
        }
        let placement = self.compute.placement()?;
        self.compute.threads.set();
        let model = self.config();
        let recipe = Recipe {
            prediction: Prediction::V,
            blocks: self.blocks,
            batch: self.batch,
            steps: self.steps.get() as u64,
            rate: 1e-4,
            warmup: 0,
            decay: 0.0,
            label_dropout: 0.1,
            first_block_weight: 1.0,
            context_noise: 0.0,
            self_context: 0.0,
            sampler_steps: None,
            ema: 0.9999,
            bf16: placement.kind == Kind::BFloat16,
            seed: 0,
            model,
        };
        let measured = world_loop::measure(&recipe, self.memory.into(), self.steps, placement.device)?;
        let report = Report {
            program: concat!("acdit-world ", env!("CARGO_PKG_VERSION")),
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            tokens_per_block: recipe.model.block_tokens(),
            blocks: self.blocks,
            window: recipe.model.context_window,
            batch: self.batch,
            steps: self.steps.get(),
            measured,
        };
        output.print(&report, || report.text())
    }

    fn config(&self) -> Config {
        let config = Config::video(Preset::B, self.resolution, LABELS);
        let (side, frames) = (config.sample_height / self.patch, self.blocks as i64 * self.frames_per_block);
        Config {
            hidden_size: self.hidden,
            intermediate_size: 4 * self.hidden,
            num_layers: self.layers,
            num_attention_heads: self.heads,
            patch_size: self.patch,
            frames_per_block: self.frames_per_block,
            sample_frames: frames,
            axis_lengths: vec![frames, side, side],
            context_window: Some(self.window).filter(|&window| window != 0),
            ..config
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let m = &self.measured;
        let peak = m.peak_memory_bytes.map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        format!(
            "{} layers of {}, batch {} of {} blocks of {} tokens, {} {}\n\
             seconds per step    {:.4}\nclips per second    {:.3}\npeak memory         {peak}",
            self.layers,
            self.hidden,
            self.batch,
            self.blocks,
            self.tokens_per_block,
            m.device,
            m.dtype,
            m.seconds_per_step,
            m.samples_per_second,
        )
    }
}
