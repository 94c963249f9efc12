//! `convert`: a published `.pt` checkpoint becomes a weights folder.

use std::path::PathBuf;

use acdit_model::diffusion::{Prediction, SchedulerConfig};
use acdit_model::weights::pt::{Which, read_pt};
use acdit_model::{Acdit, Config};
use acdit_runtime::{Sampling, WorldFolder, WorldMeta};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::output::Output;

/// Import a published PyTorch checkpoint
///
/// Nothing in the file is executed. Sizes come from the tensors; the training arguments inside only say what tensors
/// cannot.
#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// The checkpoint, such as ACDiT-XL-vid.pt
    #[arg(value_name = "FILE.pt")]
    checkpoint: PathBuf,
    /// Folder of a diffusers VAE to put beside the network
    #[arg(long, value_name = "DIR")]
    vae: Option<PathBuf>,
    /// Weights folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// ema, or model; a checkpoint without ema gives its model
    #[arg(long, value_enum, default_value_t)]
    which: Weights,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Weights {
    #[default]
    Ema,
    Model,
}

#[derive(Debug, Serialize)]
struct Converted {
    tensors: usize,
    parameters: usize,
}

impl Convert {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        let wanted = match self.which {
            Weights::Ema => Which::Ema,
            Weights::Model => Which::Model,
        };
        let checkpoint = read_pt(&self.checkpoint, wanted)?;
        if checkpoint.which != wanted {
            tracing::warn!("the checkpoint holds no \"ema\": its \"model\" is converted");
        }
        let config = checkpoint.config()?;
        // Built once, so that a checkpoint with missing or surplus keys is refused before anything is written.
        Acdit::from_tensors(&config, &checkpoint.tensors, &self.checkpoint, Device::Cpu, Kind::Float)?;
        if let Some(vae) = &self.vae {
            let channels = acdit_codec::vae::Config::load(vae)?.latent_channels();
            ensure!(
                channels == config.in_channels,
                "{} makes latents of {channels} channels, the network needs {}",
                vae.display(),
                config.in_channels
            );
        }
        let folder = WorldFolder {
            config: &config,
            tensors: &checkpoint.tensors,
            kind: Kind::Float,
            scheduler: &SchedulerConfig::paper(Prediction::Epsilon),
            prompts: None,
            meta: &described(&config),
            vae: self.vae.as_deref(),
        };
        folder.write(&self.out)?;
        let converted = Converted {
            tensors: checkpoint.tensors.len(),
            parameters: checkpoint.tensors.values().map(Tensor::numel).sum(),
        };
        output.print(&converted, || {
            format!(
                "{} parameters in {} tensors written to {}",
                converted.parameters,
                converted.tensors,
                self.out.display()
            )
        })
    }
}

/// What the paper samples with: less guidance for images.
fn described(config: &Config) -> WorldMeta {
    let meta = WorldMeta::unnamed(config);
    match config.square_block {
        Some(_) => WorldMeta { sampling: Sampling { guidance: 1.5, ..meta.sampling }, ..meta },
        None => meta,
    }
}
