//! The network and what changes it, as one step of training does.

use acdit_model::Acdit;
use acdit_parallel::Group;
use tch::{Device, Kind, Tensor, nn};

use super::noising::Example;
use super::{Memory, Recipe};
use crate::optim::{AdamW, AdamWConfig, Ema, FlatParameters};
use crate::{Error, Start};

pub(super) struct Learner {
    pub(super) model: Acdit,
    pub(super) optimizer: AdamW,
    pub(super) ema: Ema,
    memory: Memory,
}

impl Learner {
    /// A network of `start`'s parameters, or random ones of the recipe's seed.
    pub(super) fn new(
        recipe: &Recipe,
        start: Option<&Start>,
        memory: Memory,
        group: &Group,
        device: Device,
    ) -> Result<Self, Error> {
        let vs = nn::VarStore::new(device);
        tch::manual_seed(recipe.seed as i64);
        let compute = if recipe.bf16 { Kind::BFloat16 } else { Kind::Float };
        let model = Acdit::new(&vs.root(), &recipe.model, compute)?;
        if let Some(start) = start {
            start.copy_to(&vs)?;
        }
        let optimizer = AdamW::new(FlatParameters::new(&vs)?.averaged_over(group)?, AdamWConfig::default())?;
        let ema = Ema::new(optimizer.parameters(), recipe.ema)?;
        Ok(Self { model, optimizer, ema, memory })
    }

    /// Learns from an example at a rate; returns its loss and the gradient's norm before clipping.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a norm that is no number, with nothing changed; [`Error::Torch`], [`Error::Parallel`].
    pub(super) fn step(&mut self, example: &Example, rate: f64) -> Result<(f64, f64), Error> {
        let loss = self.backward(example)?;
        let gradient_norm = self.optimizer.step(rate)?;
        self.ema.update(self.optimizer.parameters())?;
        Ok((loss, gradient_norm))
    }

    /// Accumulates the gradient of an example and returns its loss.
    fn backward(&self, example: &Example) -> Result<f64, Error> {
        let parts = self.memory.accumulate.get() as i64;
        let mut sum = 0.0;
        for (index, part) in (1..).zip(example.split(parts)) {
            if index == parts {
                self.optimizer.parameters().expect_last_pass();
            }
            let loss_of = |prediction: &Tensor| {
                ((prediction - &part.target).square() * &part.weight).mean(Kind::Float) / parts
            };
            let loss = if self.memory.recompute {
                self.model.training_backward(&part.batch, loss_of)?
            } else {
                let loss = loss_of(&self.model.training_forward(&part.batch)?);
                self.optimizer.parameters().add_gradient(&loss)?;
                loss
            };
            sum += f64::try_from(loss)?;
        }
        Ok(sum)
    }
}
