//! What decides the outcome of a run.

use std::num::NonZeroUsize;

use acdit_model::Config;
use acdit_model::diffusion::{Prediction, Schedule};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What decides the outcome of a run: two runs with equal recipes, data and build give equal weights. Stored in every
/// checkpoint, and a resumed run must agree with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The network.
    pub model: Config,
    /// What it predicts.
    pub prediction: Prediction,
    /// Blocks per training clip; more than the window, so that the steady state of a stream is met.
    pub blocks: usize,
    /// Clips per step.
    pub batch: usize,
    /// Steps of the whole schedule.
    pub steps: u64,
    /// Peak learning rate.
    pub rate: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Share of the schedule over which the rate falls to 0 at its end; 0.15 in the paper.
    pub decay: f64,
    /// Probability with which a block's label is replaced by the null label.
    pub label_dropout: f64,
    /// Weight of a clip's first block in the loss, relative to the others. It has no context, so most of what it shows
    /// cannot be foreseen and its gradient is mostly noise.
    pub first_block_weight: f64,
    /// Largest standard deviation of the noise on the clean context; each clip draws its own.
    pub context_noise: f64,
    /// Share of the clips whose context is not the clip's but, for a random share of its blocks, what the network
    /// makes of them as a stream does: from noise, then from its own guess noised again, the second time after its own
    /// guesses at the blocks before. A stream's context is its own work, and its faults must not grow. Over the last third
    /// of the schedule, once there is something to learn from, or all of one that goes on from weights; costs two forward
    /// passes a step.
    pub self_context: f64,
    /// Denoising steps of the sampler that the weights are for: timesteps are drawn among those that it visits. All of the
    /// schedule's where it is not known. A sampler of few steps never sees little noise, and what the network has to
    /// learn is then less.
    #[serde(default)]
    pub sampler_steps: Option<NonZeroUsize>,
    /// Decay of the weight average.
    pub ema: f64,
    /// Whether activations are bf16 (weights and optimizer stay f32).
    pub bf16: bool,
    /// Seed of everything random.
    pub seed: u64,
}

impl Recipe {
    /// Whether a network can be trained so.
    ///
    /// # Errors
    /// [`Error::Options`] for values out of range; [`Error::Model`] for sizes that contradict one another.
    pub fn check(&self) -> Result<(), Error> {
        self.model.validate()?;
        let fail = |text: String| Err(Error::Options(text));
        let Recipe { batch, blocks, steps, .. } = *self;
        if batch == 0 || blocks == 0 || steps == 0 {
            return fail(format!("batch {batch}, {blocks} blocks, {steps} steps: each must be at least 1"));
        }
        let within = |name, value: f64, fits: bool, expected| match fits {
            true => Ok(()),
            false => Err(Error::Options(format!("{name} {value}: expected {expected}"))),
        };
        within("decay", self.decay, (0.0..=1.0).contains(&self.decay), "0 to 1")?;
        let Recipe { rate, first_block_weight, label_dropout, ema, self_context, context_noise, .. } = *self;
        let positive = |value: f64| value > 0.0 && value.is_finite();
        within("learning rate", rate, positive(rate), "a number above 0")?;
        let name = "first block's weight";
        within(name, first_block_weight, positive(first_block_weight), "a number above 0")?;
        within("label dropout", label_dropout, (0.0..1.0).contains(&label_dropout), "0 to below 1")?;
        within("EMA decay", ema, (0.0..1.0).contains(&ema), "0 to below 1")?;
        within("share of own context", self_context, (0.0..=1.0).contains(&self_context), "0 to 1")?;
        within("context noise", context_noise, (0.0..10.0).contains(&context_noise), "0 to below 10")?;
        if self_context > 0.0 && self.prediction == Prediction::Epsilon {
            // x₀ = (x − σε)/α, and α is 0.006 where sampling begins
            let why = "from ε, nothing can be told of x₀ in pure noise";
            return fail(format!(
                "own context needs a network that predicts x₀ or v: {why}; its share must be 0"
            ));
        }
        Ok(())
    }

    /// The timesteps that blocks are drawn at; and those at which a stream's own guess is noised again, which leave out
    /// pure noise and, of the whole schedule, its ends.
    ///
    /// # Errors
    /// [`Error::Model`] for a sampler of more steps than the schedule has.
    pub(super) fn timesteps(&self, schedule: &Schedule) -> Result<[Vec<i64>; 2], Error> {
        let Some(steps) = self.sampler_steps else {
            let end = schedule.len() as i64;
            return Ok([(0..end).collect(), (end / 10..end * 9 / 10).collect()]);
        };
        let visited = schedule.timesteps(steps.get())?;
        let after_first = if visited.len() > 1 { visited[1..].to_vec() } else { visited.clone() };
        Ok([visited, after_first])
    }
}
