//! One transformer layer with adaLN-Zero conditioning.

use tch::{Tensor, nn};

use crate::attention::Attention;
use crate::linear::{Linear, Start};
use crate::mask::BlockMask;
use crate::norm::{NormModulate, RmsNorm};
use crate::{Config, KvStore, RopeTable};

/// `norm1 → attn → norm2 → mlp`, each half a residual. Noised tokens are modulated and gated by their condition; clean
/// tokens pass through the same weights without either.
#[derive(Debug)]
pub(crate) struct Block {
    norm1: RmsNorm,
    attn: Attention,
    norm2: RmsNorm,
    mlp: Mlp,
    ada_ln: AdaLn<6>,
}

impl Block {
    pub(crate) fn new(vs: nn::Path, config: &Config, layer: usize) -> Self {
        let hidden = config.hidden_size;
        Self {
            norm1: RmsNorm::new(&vs / "norm1", hidden),
            attn: Attention::new(&vs / "attn", config, layer),
            norm2: RmsNorm::new(&vs / "norm2", hidden),
            mlp: Mlp::new(&vs / "mlp", hidden, config.intermediate_size),
            ada_ln: AdaLn::new(&vs, hidden),
        }
    }

    /// Clean tokens (N, T, B, D) → (N, T, B, D).
    pub(crate) fn clean(
        &self,
        xs: &Tensor,
        rope: &RopeTable,
        store: &mut dyn KvStore,
        mask: Option<&BlockMask>,
    ) -> Tensor {
        let normed = self.norm1.plain(xs);
        let xs = xs + self.attend(&normed, rope, store, mask);
        &xs + self.mlp.forward(&self.norm2.plain(&xs))
    }

    /// Shift, scale and gate of the attention, then of the MLP: (…, D) → (…, 1, D) each.
    pub(crate) fn modulation(&self, condition: &Tensor) -> [Tensor; 6] {
        self.ada_ln.forward(condition)
    }

    /// Noised tokens (N, T, B, D) under parts (N, T, 1, D) of a modulation → (N, T, B, D).
    pub(crate) fn noised(
        &self,
        xs: &Tensor,
        modulation: &[Tensor; 6],
        norm: &dyn NormModulate,
        rope: &RopeTable,
        store: &mut dyn KvStore,
        mask: Option<&BlockMask>,
    ) -> Tensor {
        let [shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp] = modulation;
        let normed = self.norm1.modulated(norm, xs, shift_msa, scale_msa);
        let xs = xs.addcmul(gate_msa, &self.attend(&normed, rope, store, mask));
        let normed = self.norm2.modulated(norm, &xs, shift_mlp, scale_mlp);
        xs.addcmul(gate_mlp, &self.mlp.forward(&normed))
    }

    /// Stores this layer's clean keys and values and stops there.
    pub(crate) fn remember(&self, xs: &Tensor, rope: &RopeTable, store: &mut dyn KvStore) {
        self.attn.remember(&self.norm1.plain(xs).flatten(1, 2), rope, store);
    }

    fn attend(
        &self,
        normed: &Tensor,
        rope: &RopeTable,
        store: &mut dyn KvStore,
        mask: Option<&BlockMask>,
    ) -> Tensor {
        self.attn.forward(&normed.flatten(1, 2), rope, store, mask).view_as(normed)
    }
}

/// Linear → GELU (tanh) → Linear.
#[derive(Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(vs: nn::Path, hidden: i64, intermediate: i64) -> Self {
        Self {
            fc1: Linear::new(&vs / "fc1", hidden, intermediate, true, Start::Xavier),
            fc2: Linear::new(&vs / "fc2", intermediate, hidden, true, Start::Xavier),
        }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        self.fc2.forward(&self.fc1.forward(xs).gelu("tanh"))
    }
}

/// `adaLN_modulation`: SiLU, then one zero-initialised Linear that yields `PARTS` vectors per condition.
#[derive(Debug)]
struct AdaLn<const PARTS: usize> {
    linear: Linear,
}

impl<const PARTS: usize> AdaLn<PARTS> {
    fn new(vs: &nn::Path, hidden: i64) -> Self {
        Self {
            linear: Linear::new(
                vs / "adaLN_modulation" / 1,
                hidden,
                PARTS as i64 * hidden,
                true,
                Start::Zero,
            ),
        }
    }

    /// (…, D) → `PARTS` tensors (…, 1, D), to be broadcast over a block's tokens.
    fn forward(&self, condition: &Tensor) -> [Tensor; PARTS] {
        let parts = self.linear.forward(&condition.silu()).unsqueeze(-2).chunk(PARTS as i64, -1);
        parts.try_into().expect("the Linear's width is PARTS times the hidden size")
    }
}

/// RMSNorm → modulate → Linear to the token width.
#[derive(Debug)]
pub(crate) struct FinalLayer {
    norm_final: RmsNorm,
    ada_ln: AdaLn<2>,
    linear: Linear,
}

impl FinalLayer {
    pub(crate) fn new(vs: nn::Path, config: &Config) -> Self {
        Self {
            norm_final: RmsNorm::new(&vs / "norm_final", config.hidden_size),
            ada_ln: AdaLn::new(&vs, config.hidden_size),
            linear: Linear::new(&vs / "linear", config.hidden_size, config.token_width(), true, Start::Zero),
        }
    }

    /// Shift and scale: (…, D) → (…, 1, D) each.
    pub(crate) fn modulation(&self, condition: &Tensor) -> [Tensor; 2] {
        self.ada_ln.forward(condition)
    }

    /// (N, T, B, D) under parts (N, T, 1, D) of a modulation → (N, T, B, p²·C).
    pub(crate) fn forward(&self, xs: &Tensor, modulation: &[Tensor; 2], norm: &dyn NormModulate) -> Tensor {
        let [shift, scale] = modulation;
        self.linear.forward(&self.norm_final.modulated(norm, xs, shift, scale))
    }
}
