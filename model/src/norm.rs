//! Root-mean-square normalisation and adaLN modulation.

use tch::{Kind, Tensor, nn};

const EPSILON: f64 = 1e-6;

/// RMSNorm with a learned weight, computed in f32 whatever the input's type.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    size: i64,
}

impl RmsNorm {
    pub(crate) fn new(vs: nn::Path, size: i64) -> Self {
        Self { weight: vs.var("weight", &[size], nn::Init::Const(1.0)), size }
    }

    /// (…, size) → (…, size) in f32; the caller casts back where it wants to.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        xs.to_kind(Kind::Float).rms_norm([self.size], Some(&self.weight.to_kind(Kind::Float)), EPSILON)
    }

    /// [`Self::forward`] followed by `x · (1 + scale) + shift`, back in the input's type. `None` is the clean stream.
    pub(crate) fn modulated(&self, xs: &Tensor, modulation: Option<(&Tensor, &Tensor)>) -> Tensor {
        let normed = self.forward(xs).to_kind(xs.kind());
        match modulation {
            Some((shift, scale)) => shift.addcmul(&normed, &(scale + 1.0)),
            None => normed,
        }
    }
}
