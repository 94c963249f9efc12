//! The network, its tables and its sampler against a `NAME.golden.safetensors` file.

use std::collections::BTreeMap;
use std::path::Path;

use acdit_model::diffusion::{Schedule, SchedulerConfig, Solver, SolverKind, guided};
use acdit_model::{Acdit, Config, Preset, RopeKind, TrainingBatch, scam, weights};
use acdit_runtime::device::Placement;
use acdit_runtime::{Window, WindowMode};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tch::{Device, Tensor};

use super::{Subject, Tolerances};

/// What the golden file says about the network, in the words of the published code.
#[derive(Debug, Deserialize)]
struct PublishedConfig {
    /// Token width patch²·C.
    latent_size: i64,
    /// Tokens per block.
    block_size: i64,
    hidden_size: i64,
    depth: i64,
    num_heads: i64,
    num_classes: i64,
    /// Frames of a clip; 1 for an image.
    temporal_len: i64,
    /// Tokens of a frame.
    spatial_len: i64,
    nd_split: Option<String>,
    square_block: bool,
}

impl PublishedConfig {
    /// The same in this project's words. Golden files hold tokens, so a patch of 1 over all of a token's values stands for
    /// any patch.
    fn translated(&self, intermediate_size: i64) -> Result<Config> {
        let grid = self.spatial_len.max(0).isqrt();
        ensure!(grid * grid == self.spatial_len, "spatial_len {} is not a square", self.spatial_len);
        let is_video = self.temporal_len > 1;
        let nd_split = match &self.nd_split {
            Some(text) => text
                .split('_')
                .map(|share| share.parse().with_context(|| format!("nd_split {text:?}")))
                .collect::<Result<_>>()?,
            None if is_video => vec![2, 3, 3],
            None => vec![1, 1],
        };
        let config = Config {
            hidden_size: self.hidden_size,
            num_layers: self.depth,
            num_attention_heads: self.num_heads,
            intermediate_size,
            num_classes: self.num_classes,
            in_channels: self.latent_size,
            patch_size: 1,
            sample_height: grid,
            sample_width: grid,
            sample_frames: self.temporal_len,
            frames_per_block: if is_video { self.block_size / self.spatial_len.max(1) } else { 1 },
            square_block: self.square_block.then(|| self.block_size.max(0).isqrt()),
            rope: RopeKind::Published,
            nd_split,
            axis_lengths: if is_video { vec![self.temporal_len, grid, grid] } else { vec![grid, grid] },
            ..Config::video(Preset::B, 256, 1)
        };
        config.validate()?;
        ensure!(
            config.block_tokens() == self.block_size,
            "blocks of {} tokens: expected whole frames, or squares of an image",
            self.block_size
        );
        Ok(config)
    }
}

/// A model/golden pair, loaded.
struct Pair {
    model: Acdit,
    schedule: Schedule,
    solver: SolverKind,
    guidance: f64,
    steps: usize,
    golden: BTreeMap<String, Tensor>,
}

/// Checks every tensor of the golden file that this project has a counterpart for.
pub(super) fn check(
    model: &Path,
    golden: &Path,
    placement: &Placement,
    tolerances: &Tolerances,
    subject: &mut Subject,
) -> Result<()> {
    let pair = Pair::load(model, golden, placement)?;
    pair.tables(tolerances, subject)?;
    pair.training(tolerances, subject)?;
    match tolerances.sampler {
        Some(tolerance) => pair.sampling(tolerance, subject),
        None => Ok(()),
    }
}

impl Pair {
    fn load(model: &Path, golden: &Path, placement: &Placement) -> Result<Self> {
        let tensors = weights::read(model)?;
        let metadata = weights::read_metadata(golden)?;
        let field = |name: &str| metadata.get(name).with_context(|| format!("metadata lacks {name:?}"));
        let mlp =
            tensors.get("blocks.0.mlp.fc1.weight").context("the model lacks blocks.0.mlp.fc1.weight")?;
        let intermediate_size = mlp.size().first().copied().unwrap_or(0);
        let published: PublishedConfig =
            serde_json::from_str(field("config")?).context("metadata \"config\"")?;
        let config = published.translated(intermediate_size)?;
        // Python's JSON has infinities; none of the fields read here can be one.
        let scheduler = field("scheduler")?.replace("-Infinity", "null").replace("Infinity", "null");
        let order: SolverOrder = serde_json::from_str(&scheduler).context("metadata \"scheduler\"")?;
        let scheduler: SchedulerConfig =
            serde_json::from_str(&scheduler).context("metadata \"scheduler\"")?;
        Ok(Self {
            model: Acdit::from_tensors(&config, &tensors, model, placement.device, placement.kind)?,
            schedule: Schedule::new(&scheduler)?,
            // DPM-Solver++ of first order is DDIM.
            solver: if order.solver_order == 1 { SolverKind::Ddim } else { SolverKind::DpmSolverPlusPlus },
            // The published sampler guides only above 1.
            guidance: field("cfg_scale")?.parse::<f64>().context("metadata \"cfg_scale\"")?.max(1.0),
            steps: field("steps")?.parse().context("metadata \"steps\"")?,
            golden: weights::read(golden)?,
        })
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.golden.get(name).with_context(|| format!("the golden file lacks {name:?}"))?;
        Ok(tensor.to_device(self.model.device()))
    }

    /// Mask, positions and noise schedule: computed in f32 or better whatever the network's type.
    fn tables(&self, tolerances: &Tolerances, subject: &mut Subject) -> Result<()> {
        let blocks = self.model.config().training_blocks();
        let mut table = |name: &str, got: &Tensor| match self.golden.get(name) {
            Some(expected) => subject.compare(name, got, expected, tolerances.table),
            None => Ok(()),
        };
        table("mask", &scam(blocks as usize, None).to_tensor())?;
        let rope = self.model.rope().table(0, blocks, Device::Cpu)?;
        table("rope.cos", &rope.cos)?;
        table("rope.sin", &rope.sin)?;
        let positions = self.model.rope().positions(0, blocks)?;
        table("rope.position_ids", &Tensor::from_slice2(&positions))?;

        table("schedule.alphas_cumprod", &Tensor::from_slice(self.schedule.alphas_cumprod()))?;
        table("sample.timesteps", &Tensor::from_slice(&self.schedule.timesteps(self.steps)?))?;
        for name in self.golden.keys() {
            let Some((quantity, steps)) =
                name.strip_prefix("schedule.").and_then(|rest| rest.split_once('.'))
            else {
                continue;
            };
            let steps = steps.parse().with_context(|| format!("number of steps in {name:?}"))?;
            match quantity {
                "timesteps" => table(name, &Tensor::from_slice(&self.schedule.timesteps(steps)?))?,
                "sigmas" => table(name, &Tensor::from_slice(&self.schedule.sigmas(steps)?))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn training(&self, tolerances: &Tolerances, subject: &mut Subject) -> Result<()> {
        let timesteps = self.tensor("train.t")?; // (N, T)
        let clean = self.tensor("train.clean")?;
        let labels = self.tensor("train.y")?.unsqueeze(-1).expand_as(&timesteps).contiguous(); // (N, T)
        let embedding = tch::no_grad(|| self.model.timestep_embedding(&timesteps.reshape([-1])));
        subject.compare("t_embed", &embedding, &self.tensor("t_embed")?, tolerances.forward)?;
        let batch = TrainingBatch { clean, noised: self.tensor("train.noised")?, timesteps, labels };
        let eps = tch::no_grad(|| self.model.training_forward(&batch))?;
        subject.compare("train.eps", &eps, &self.tensor("train.eps")?, tolerances.forward)
    }

    /// The guided sampler over all blocks, through the window that streams use.
    fn sampling(&self, tolerance: f64, subject: &mut Subject) -> Result<()> {
        let (noise, labels) = (self.tensor("sample.noise")?, self.tensor("sample.y")?); // (N, T, B, C), (N)
        ensure!(
            noise.dim() == 4 && labels.size() == noise.size()[..1],
            "sample.noise and sample.y do not fit"
        );
        let traces = (0..noise.size()[0])
            .map(|n| tch::no_grad(|| self.sample(&noise.get(n), labels.int64_value(&[n]))))
            .collect::<Result<Vec<_>>>()?;
        let latents: Vec<Tensor> = traces.iter().map(|blocks| Tensor::stack(&finals(blocks), 0)).collect();
        subject.compare(
            "sample.latents",
            &Tensor::stack(&latents, 0),
            &self.tensor("sample.latents")?,
            tolerance,
        )?;
        for (block, _) in traces.first().into_iter().flatten().enumerate() {
            for (what, part) in [
                ("x", (|trace| &trace.tokens) as fn(&Trace) -> &Vec<Tensor>),
                ("guided_eps", |trace| &trace.eps),
            ] {
                let name = format!("sample.block{block}.{what}");
                let Some(expected) = self.golden.get(&name) else { continue };
                ensure!(
                    expected.dim() == 4,
                    "{name}: expected (steps, N, tokens, C), got {:?}",
                    expected.size()
                );
                let clips: Vec<Tensor> =
                    traces.iter().map(|blocks| Tensor::stack(part(&blocks[block]), 0)).collect();
                let got = Tensor::stack(&clips, 1); // (steps, N, B, C)
                let shown = expected.size()[2].min(got.size()[2]);
                subject.compare(&name, &got.narrow(2, 0, shown), expected, tolerance)?;
            }
        }
        Ok(())
    }

    /// One clip from noise (T, B, C).
    fn sample(&self, noise: &Tensor, label: i64) -> Result<Vec<Trace>> {
        let model = &self.model;
        let device = model.device();
        let labels = Tensor::from_slice(&[label, model.null_label()]).to_device(device);
        let blocks = noise.size()[0];
        let mut window = Window::new(model, (blocks as usize - 1).max(1), WindowMode::Recompute)?;
        let mut traces = Vec::new();
        for block in 0..blocks {
            let rope = model.rope().table(block, 1, device)?;
            let mut solver = Solver::new(self.solver, &self.schedule, self.steps)?;
            let mut tokens = noise.narrow(0, block, 1); // (1, B, C)
            let mut trace = Trace::default();
            let timesteps = Tensor::from_slice(solver.timesteps()).to_device(device);
            for (index, modulation) in model.modulations(&timesteps, &labels)?.iter().enumerate() {
                let branched = Tensor::cat(&[&tokens, &tokens], 0);
                let predictions = model.denoise(&branched, modulation, &rope, &mut window.reader())?;
                let eps = guided(&predictions, self.guidance);
                tokens = solver.step(index, &tokens, &eps);
                trace.eps.push(eps.squeeze_dim(0));
                trace.tokens.push(tokens.squeeze_dim(0));
            }
            window = window.appended(model, &tokens)?;
            traces.push(trace);
        }
        Ok(traces)
    }
}

#[derive(Debug, Deserialize)]
struct SolverOrder {
    #[serde(default = "second")]
    solver_order: i64,
}

fn second() -> i64 {
    2
}

/// One block's way: after every step, the tokens (B, C) and the guided prediction that led there.
#[derive(Debug, Default)]
struct Trace {
    tokens: Vec<Tensor>,
    eps: Vec<Tensor>,
}

fn finals(blocks: &[Trace]) -> Vec<Tensor> {
    blocks.iter().filter_map(|trace| Some(trace.tokens.last()?.shallow_clone())).collect()
}
