//! The backward pass of training with the activations of one layer at a time.
//!
//! Activation checkpointing (Chen et al., arXiv 1604.06174): the forward pass keeps the inputs of each layer alone, the
//! backward pass computes a layer again from them. Memory no longer grows with what happens inside layers; the price is one
//! more forward pass.

use tch::{Kind, Tensor};

use crate::acdit::{Clip, TrainingBatch};
use crate::{Acdit, Error};

/// What enters a layer, or leaves it: each (N, T, B, D).
struct Streams {
    /// Not behind the last layer, which owes the clean stream nothing.
    clean: Option<Tensor>,
    noised: Tensor,
}

impl Streams {
    /// The same values where autograd begins anew.
    fn leaves(&self) -> Self {
        Self { clean: self.clean.as_ref().map(leaf), noised: leaf(&self.noised) }
    }

    /// Their gradients after a backward pass, which does not reach the clean stream of a clip of one block.
    fn gradients(&self) -> Self {
        let clean = self.clean.as_ref().map(Tensor::grad).filter(Tensor::defined);
        Self { clean, noised: self.noised.grad() }
    }

    /// A scalar whose gradient with respect to these is `gradients`.
    fn dot(&self, gradients: &Self) -> Tensor {
        let noised = dot(&self.noised, &gradients.noised);
        match (&self.clean, &gradients.clean) {
            (Some(clean), Some(gradient)) => noised + dot(clean, gradient),
            _ => noised,
        }
    }
}

fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().set_requires_grad(true)
}

fn dot(tensor: &Tensor, gradient: &Tensor) -> Tensor {
    (tensor * gradient).sum(Kind::Float)
}

impl Acdit {
    /// Adds the gradients of `loss` of the training forward's predictions, (N, T, B, p²·C) f32, to those of the parameters,
    /// and returns the scalar that `loss` made of them: what running `loss(training_forward(batch))` backwards does, to
    /// rounding, with less memory and one more forward pass.
    ///
    /// # Errors
    /// As [`Acdit::training_forward`].
    pub fn training_backward(
        &self,
        batch: &TrainingBatch,
        loss: impl FnOnce(&Tensor) -> Tensor,
    ) -> Result<Tensor, Error> {
        let clip = self.clip(batch)?;
        let (clean, noised, condition) = self.embed(batch);
        let embedded = Streams { clean: Some(clean), noised };
        let condition_leaf = leaf(&condition);

        let mut inputs = vec![embedded.leaves()];
        tch::no_grad(|| {
            for layer in 0..self.layers() {
                inputs.push(self.both_streams(layer, &inputs[layer], &condition_leaf, &clip));
            }
        });
        let last = inputs.pop().expect("the first layer's inputs at least").leaves();
        let loss = loss(&self.predict(&last.noised, &condition_leaf));
        loss.backward();

        let mut gradients = last.gradients();
        for (layer, inputs) in inputs.into_iter().enumerate().rev() {
            let inputs = inputs.leaves();
            self.both_streams(layer, &inputs, &condition_leaf, &clip).dot(&gradients).backward();
            gradients = inputs.gradients();
        }
        (embedded.dot(&gradients) + dot(&condition, &condition_leaf.grad())).backward();
        Ok(loss.detach())
    }

    fn both_streams(&self, layer: usize, inputs: &Streams, condition: &Tensor, clip: &Clip) -> Streams {
        let clean = inputs.clean.as_ref().expect("every layer has a clean input");
        let (clean, noised) = self.layer(layer, clean, &inputs.noised, condition, clip);
        Streams { clean, noised }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tch::{Device, nn};

    use super::*;
    use crate::{Config, Preset};

    /// Gradients of a loss with unequal weights, by `backward`.
    fn gradients(
        blocks: i64,
        config: &Config,
        compute: Kind,
        backward: impl Fn(&Acdit, &TrainingBatch, &dyn Fn(&Tensor) -> Tensor) -> Tensor,
    ) -> (f64, BTreeMap<String, Tensor>) {
        let vs = nn::VarStore::new(Device::Cpu);
        let model = Acdit::new(&vs.root(), config, compute).unwrap();
        // away from the initialisation, whose gates are shut; values by place, since tests share libtorch's generator
        tch::no_grad(|| {
            for (index, (_, mut tensor)) in BTreeMap::from_iter(vs.variables()).into_iter().enumerate() {
                let count = tensor.numel() as i64;
                let waves =
                    (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 1.7 + index as f64).sin() * 0.1;
                tensor.copy_(&waves.view_as(&tensor));
            }
        });
        let shape = [2, blocks, config.block_tokens(), config.token_width()];
        let count = shape.iter().product::<i64>();
        let waves = |pace: f64| (Tensor::arange(count, (Kind::Float, Device::Cpu)) * pace).cos().view(shape);
        let batch = TrainingBatch {
            clean: waves(1.1),
            noised: waves(0.7),
            timesteps: Tensor::arange(2 * blocks, (Kind::Int64, Device::Cpu)).view([2, blocks]) * 100,
            labels: Tensor::arange(2 * blocks, (Kind::Int64, Device::Cpu)).view([2, blocks]).remainder(5),
        };
        let (target, weight) = (waves(0.3), waves(2.3) + 1.5);
        let loss = |prediction: &Tensor| ((prediction - &target).square() * &weight).mean(Kind::Float);
        let loss = backward(&model, &batch, &loss).double_value(&[]);
        (loss, vs.variables().into_iter().map(|(name, tensor)| (name, tensor.grad())).collect())
    }

    #[test]
    fn gradients_equal_those_of_the_whole_graph() {
        let config = |layers: i64, window: Option<i64>| Config {
            hidden_size: 32,
            num_layers: layers,
            num_attention_heads: 2,
            intermediate_size: 64,
            axis_lengths: vec![24, 2, 2],
            nd_split: vec![2, 1, 1],
            context_window: window,
            ..Config::video(Preset::B, 32, 5)
        };
        let cases = [(5, 3, Some(2), 1e-5), (4, 2, None, 1e-5), (3, 1, Some(1), 1e-5), (1, 2, None, 1e-5)];
        let cases = cases
            .map(|case| (case, Kind::Float))
            .into_iter()
            .chain([((5, 3, Some(2), 3e-2), Kind::BFloat16)]);
        for ((blocks, layers, window, tolerance), compute) in cases {
            let config = config(layers, window);
            let (loss, whole) = gradients(blocks, &config, compute, |model, batch, loss| {
                let loss = loss(&model.training_forward(batch).unwrap());
                loss.backward();
                loss
            });
            let (recomputed_loss, recomputed) = gradients(blocks, &config, compute, |model, batch, loss| {
                model.training_backward(batch, |prediction| loss(prediction)).unwrap()
            });
            assert_eq!(loss, recomputed_loss);
            assert_eq!(whole.keys().collect::<Vec<_>>(), recomputed.keys().collect::<Vec<_>>());
            for (name, gradient) in &whole {
                let other = &recomputed[name];
                assert_eq!(gradient.defined(), other.defined(), "{name}");
                if gradient.defined() {
                    let error = (gradient - other).norm().double_value(&[]);
                    let norm = gradient.norm().double_value(&[]);
                    assert!(norm > 0.0, "{name} has no gradient to compare");
                    assert!(error <= tolerance * norm, "{name}: {error} of {norm}");
                }
            }
        }
    }
}
