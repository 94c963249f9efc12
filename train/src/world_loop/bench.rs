//! What a training step costs on this machine.

use std::num::NonZeroUsize;
use std::time::Instant;

use acdit_model::Acdit;
use acdit_model::diffusion::{Schedule, SchedulerConfig};
use acdit_parallel::Group;
use acdit_runtime::bench::median;
use acdit_runtime::{device, stats};
use serde::Serialize;
use tch::{Device, Kind, Tensor, nn};

use super::noising::Noising;
use super::{Memory, Recipe, backward};
use crate::Error;
use crate::optim::{AdamW, AdamWConfig, Ema, FlatParameters};

/// What one step of training costs.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `cpu`, or the GPU's name.
    pub device: String,
    /// `f32` or `bf16`: of the activations.
    pub dtype: &'static str,
    /// Everything from latents in memory to updated weights and their average: the median, in seconds.
    pub seconds_per_step: f64,
    /// Clips per second.
    pub samples_per_second: f64,
    /// Most memory held: the process's on a CPU, the device's on CUDA. In bytes, if known.
    pub peak_memory_bytes: Option<u64>,
    /// Loss of the last step, of a network that learns noise: comparable with itself alone.
    pub loss: f64,
}

/// Times `steps` training steps of `recipe` on random latents, after one that warms up. Own context is left out.
///
/// # Errors
/// As [`Recipe::check`]; [`Error::Torch`], [`Error::Model`].
pub fn measure(
    recipe: &Recipe,
    memory: Memory,
    steps: NonZeroUsize,
    device: Device,
) -> Result<Measured, Error> {
    recipe.check()?;
    let group = Group::alone();
    memory.check(recipe, &group)?;
    let vs = nn::VarStore::new(device);
    tch::manual_seed(recipe.seed as i64);
    let compute = if recipe.bf16 { Kind::BFloat16 } else { Kind::Float };
    let model = Acdit::new(&vs.root(), &recipe.model, compute)?;
    let mut optimizer = AdamW::new(FlatParameters::new(&vs)?, AdamWConfig::default())?;
    let mut ema = Ema::new(optimizer.parameters(), recipe.ema)?;
    let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction))?;
    let noising = Noising::new(&schedule, recipe, &group, device);
    let [frames, c, h, w] = recipe.model.block_shape();
    let (n, t) = (recipe.batch as i64, recipe.blocks as i64);
    let latents = Tensor::f_randn([n, t, frames, c, h, w], (Kind::Float, Device::Cpu))?;
    let labels = Tensor::f_randint(recipe.model.num_classes, [n, t], (Kind::Int64, Device::Cpu))?;

    let (mut seconds, mut loss) = (Vec::with_capacity(steps.get()), f64::NAN);
    for step in 0..=steps.get() as u64 {
        let started = Instant::now();
        let example = noising.batch(step, &latents, &labels);
        loss = backward(&model, &optimizer, &example, memory)?;
        optimizer.step(recipe.rate)?;
        ema.update(optimizer.parameters())?;
        if step > 0 {
            // the optimizer reads the gradient's norm, so all work but the last updates is done
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    let seconds_per_step = median(seconds);
    Ok(Measured {
        device: device::name(device),
        dtype: if recipe.bf16 { "bf16" } else { "f32" },
        seconds_per_step,
        samples_per_second: recipe.batch as f64 / seconds_per_step,
        peak_memory_bytes: match device {
            Device::Cuda(index) => device::cuda_memory_held(index),
            _ => stats::peak_memory(),
        },
        loss,
    })
}
