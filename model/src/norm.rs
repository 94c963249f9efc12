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

    /// Normalises clean tokens (…, size), in their own type.
    pub(crate) fn plain(&self, xs: &Tensor) -> Tensor {
        self.forward(xs).to_kind(xs.kind())
    }

    /// Normalises noised tokens (N, T, B, size) and modulates them by `shift` and `scale` (N, T, 1, size).
    pub(crate) fn modulated(
        &self,
        norm: &dyn NormModulate,
        xs: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
    ) -> Tensor {
        norm.norm_modulate(xs, &self.weight, shift, scale, EPSILON)
    }
}

/// RMSNorm and adaLN modulation as one operation, which a device may have a kernel for.
pub trait NormModulate: std::fmt::Debug + Send {
    /// `rms_norm(xs) · weight · (1 + scale) + shift`, the norm in f32, the result in the type of `xs`.
    ///
    /// `xs` is (N, T, B, D), `weight` (D), `shift` and `scale` (N, T, 1, D).
    fn norm_modulate(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
        epsilon: f64,
    ) -> Tensor;
}

/// [`NormModulate`] in ATen operations: differentiable, and right on every device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Eager;

impl NormModulate for Eager {
    fn norm_modulate(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
        epsilon: f64,
    ) -> Tensor {
        let width = weight.size();
        let normed = xs.to_kind(Kind::Float).rms_norm(width, Some(&weight.to_kind(Kind::Float)), epsilon);
        shift.addcmul(&normed.to_kind(xs.kind()), &(scale + 1.0))
    }
}
