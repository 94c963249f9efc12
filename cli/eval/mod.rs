//! `eval`: figures for a world. Either its rules are known and its films are judged by them (`rules`), or there are real
//! clips, and its films are compared with those (`clips`).

mod chart;
mod clips;
mod figures;
mod gravity;
mod maze;
mod rules;
mod table;

use std::num::NonZeroU64;

use acdit_codec::{Frame, color};
use acdit_model::{Acdit, weights};
use anyhow::bail;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::output::Output;
use crate::world::{Loaded, WorldArgs};

/// Root mean square of the noise that breaks a network, as a share of that of each of its tensors.
const BREAKING_NOISE: f64 = 0.5;

#[derive(Debug, Args)]
#[command(after_help = "\
--world judges films by the rules of a world that is known, all under the same labels: those of the
weights; the simulator's own frames, which bound every figure; those frames after the VAE, which bound
what a network can reach; and those of the weights with noise on every parameter, which shows that the
judge can say no.

--dataset compares films with real clips. With --fvd, each film is made from nothing and the distance
is FVD; otherwise each goes on from the first blocks of a held-out clip (--context) and is compared with
how that clip goes on. Every figure is given for each window of --frames, so a long film shows drift.
docs/evaluation.md says what the figures mean.

Examples:
  acdit-world eval --world gravity                                # the shipped world, 10,000 frames
  acdit-world eval --world gravity --of weights --frames 2000 --weights run/weights
  acdit-world eval --world maze --of truth                        # needs no weights
  acdit-world eval --world gravity --json > figures.json          # with every 100 frames apart
  acdit-world eval --dataset gravity --frames 64 --plot drift.svg
  acdit-world eval --dataset ucf101 --data-dir UCF-101 --weights run/weights --fvd i3d_torchscript.pt")]
pub(crate) struct Eval {
    /// The world whose rules are known
    #[arg(long, value_enum)]
    world: Option<KnownWorld>,
    /// Frames of each film [default: 10000 to judge, one window to compare]
    #[arg(long, value_name = "N")]
    frames: Option<NonZeroU64>,
    /// Which films [default: all four to judge, that of the weights to compare]
    #[arg(long, value_enum, value_name = "FILM[,FILM...]", value_delimiter = ',')]
    of: Vec<Film>,
    /// Seed of labels, of clips and of all noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    clips: clips::ClipArgs,
    #[command(flatten)]
    weights: WorldArgs,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum KnownWorld {
    Gravity,
    Maze,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Film {
    /// What the weights generate
    Weights,
    /// What the simulator shows
    Truth,
    /// The same, or the real clips, after encoding and decoding
    Vae,
    /// What the weights generate with noise on every parameter
    Broken,
}

impl Film {
    fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Truth => "truth",
            Self::Vae => "vae",
            Self::Broken => "broken",
        }
    }
}

impl Eval {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        match (self.world, self.clips.wants()) {
            (Some(_), Some(flag)) => {
                bail!("--world with {flag}: films are judged by rules or compared with clips")
            }
            (Some(KnownWorld::Gravity), None) => rules::judge(&self, gravity::Gravity, output),
            (Some(KnownWorld::Maze), None) => rules::judge(&self, maze::Maze::default(), output),
            (None, Some(_)) => clips::compare(&self, output),
            (None, None) => bail!("--world or --dataset is missing: what are the films to be measured by?"),
        }
    }

    /// The films that were asked for, else `usual`, each once; the broken network takes the other's place, so it comes last.
    fn films(&self, usual: &[Film]) -> Vec<Film> {
        let mut films = if self.of.is_empty() { usual.to_vec() } else { self.of.clone() };
        films.sort();
        films.dedup();
        films
    }
}

fn reconstructed(loaded: &Loaded, frames: &[Frame]) -> anyhow::Result<Vec<Frame>> {
    let pixels = color::to_tensor(frames, Device::Cpu)?;
    let vae = &loaded.vae;
    Ok(tch::no_grad(|| color::to_frames(&vae.decoder.decode(&vae.encoder.encode(&pixels)?)?))?)
}

/// The network of `loaded` with noise on every parameter.
fn broken(loaded: &Loaded, seed: u64) -> anyhow::Result<Acdit> {
    let path = loaded.folder.join("transformer").join("diffusion_pytorch_model.safetensors");
    tch::manual_seed(seed as i64);
    let tensors = weights::read(&path)?.into_iter().map(|(name, tensor)| {
        let tensor = tensor.to_kind(Kind::Float);
        let noise: Tensor = tensor.randn_like() * tensor.square().mean(Kind::Float).sqrt() * BREAKING_NOISE;
        (name, tensor + noise)
    });
    let model = &loaded.world.model;
    Ok(Acdit::from_tensors(model.config(), &tensors.collect(), &path, model.device(), model.compute())?)
}
