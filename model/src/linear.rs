//! Affine maps whose weights follow the activations' type.
//!
//! Weights may be stored in f32 (training masters, golden checks) or bf16 (serving). Casting them to the input's type at
//! the call makes mixed-precision training the same code as inference: feed bf16 activations to f32 weights. Where the
//! types agree the cast is free.

use tch::{Tensor, nn};

#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// How a layer's weight starts; biases start at zero.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    /// Glorot-uniform, as DiT.
    Xavier,
    /// Normal with standard deviation 0.02, as DiT's timestep MLP.
    Small,
    /// Zero: adaLN and the output, so that every block starts as the identity (adaLN-Zero).
    Zero,
}

impl Linear {
    pub(crate) fn new(vs: nn::Path, inputs: i64, outputs: i64, bias: bool, start: Start) -> Self {
        let init = match start {
            Start::Xavier => {
                let bound = (6.0 / (inputs + outputs) as f64).sqrt();
                nn::Init::Uniform { lo: -bound, up: bound }
            }
            Start::Small => nn::Init::Randn { mean: 0.0, stdev: 0.02 },
            Start::Zero => nn::Init::Const(0.0),
        };
        Self {
            weight: vs.var("weight", &[outputs, inputs], init),
            bias: bias.then(|| vs.var("bias", &[outputs], nn::Init::Const(0.0))),
        }
    }

    /// (…, inputs) → (…, outputs), in the input's type.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        let kind = xs.kind();
        xs.linear(&self.weight.to_kind(kind), self.bias.as_ref().map(|b| b.to_kind(kind)).as_ref())
    }
}
