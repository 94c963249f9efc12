//! Timestep and label embeddings.

use tch::{Device, Kind, Tensor, nn};

use crate::linear::{Linear, Start};

const FREQUENCIES: i64 = 128;
const MAX_PERIOD: f64 = 10_000.0;

/// Sinusoidal features of diffusion timesteps: (N) → (N, 256) f32, cosines first (DiT's order).
///
/// Always f32: in bf16 the angle of a timestep near 1000 is off by radians.
pub fn timestep_sinusoid(timesteps: &Tensor) -> Tensor {
    let device = timesteps.device();
    let exponents = Tensor::arange(FREQUENCIES, (Kind::Float, device)) / FREQUENCIES as f64;
    let frequencies = (exponents * -MAX_PERIOD.ln()).exp();
    let angles = timesteps.to_kind(Kind::Float).unsqueeze(-1) * frequencies; // (N, 128)
    Tensor::cat(&[angles.cos(), angles.sin()], -1)
}

/// `t_embedder`: sinusoid → Linear → SiLU → Linear.
#[derive(Debug)]
pub(crate) struct TimestepEmbedder {
    first: Linear,
    second: Linear,
}

impl TimestepEmbedder {
    pub(crate) fn new(vs: nn::Path, hidden: i64) -> Self {
        let mlp = vs / "mlp";
        Self {
            first: Linear::new(&mlp / 0, 2 * FREQUENCIES, hidden, true, Start::Small),
            second: Linear::new(&mlp / 2, hidden, hidden, true, Start::Small),
        }
    }

    /// Timesteps (…) → (…, D) in `kind`.
    pub(crate) fn forward(&self, timesteps: &Tensor, kind: Kind) -> Tensor {
        self.second.forward(&self.first.forward(&timestep_sinusoid(timesteps).to_kind(kind)).silu())
    }
}

/// `y_embedder`: one row per label and a last row for "no label".
#[derive(Debug)]
pub(crate) struct LabelEmbedder {
    embedding_table: Tensor,
}

impl LabelEmbedder {
    pub(crate) fn new(vs: nn::Path, num_classes: i64, hidden: i64) -> Self {
        let table = vs / "embedding_table";
        let init = nn::Init::Randn { mean: 0.0, stdev: 0.02 };
        Self { embedding_table: table.var("weight", &[num_classes + 1, hidden], init) }
    }

    /// Labels (…) → (…, D) in `kind`.
    pub(crate) fn forward(&self, labels: &Tensor, kind: Kind) -> Tensor {
        Tensor::embedding(&self.embedding_table, labels, -1, false, false).to_kind(kind)
    }

    pub(crate) fn device(&self) -> Device {
        self.embedding_table.device()
    }
}
