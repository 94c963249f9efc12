//! What a training step costs on this machine.

use std::num::NonZeroUsize;
use std::time::Instant;

use acdit_model::diffusion::{Schedule, SchedulerConfig};
use acdit_parallel::Group;
use acdit_runtime::bench::median;
use acdit_runtime::{device, stats};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::noising::Noising;
use super::{Learner, Memory, Recipe};
use crate::{Error, Windows};

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
    let mut learner = Learner::new(recipe, None, memory, &group, device)?;
    let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction))?;
    let noising = Noising::new(&schedule, recipe, &group, device)?;
    let [frames, c, h, w] = recipe.model.block_shape();
    let (n, t) = (recipe.batch as i64, recipe.blocks as i64);
    let latents = Tensor::f_randn([n, t, frames, c, h, w], (Kind::Float, Device::Cpu))?;
    let labels = Tensor::f_randint(recipe.model.num_classes, [n, t], (Kind::Int64, Device::Cpu))?;
    let windows = Windows { latents, context: None, labels };

    let (mut seconds, mut loss) = (Vec::with_capacity(steps.get()), f64::NAN);
    for step in 0..=steps.get() as u64 {
        let started = Instant::now();
        let example = noising.batch(step, &windows);
        (loss, _) = learner.step(&example, recipe.rate)?;
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
