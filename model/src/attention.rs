//! Multi-head attention over cached and current tokens.

use tch::{Tensor, nn};

use crate::linear::{Linear, Start};
use crate::norm::RmsNorm;
use crate::{Config, KvStore, RopeTable};

#[derive(Debug)]
pub(crate) struct Attention {
    qkv: Linear,
    proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    heads: i64,
    layer: usize,
}

impl Attention {
    pub(crate) fn new(vs: nn::Path, config: &Config, layer: usize) -> Self {
        let hidden = config.hidden_size;
        Self {
            qkv: Linear::new(&vs / "qkv", hidden, 3 * hidden, true, Start::Xavier),
            proj: Linear::new(&vs / "proj", hidden, hidden, true, Start::Xavier),
            q_norm: RmsNorm::new(&vs / "q_norm", config.head_dim()),
            k_norm: RmsNorm::new(&vs / "k_norm", config.head_dim()),
            heads: config.num_attention_heads,
            layer,
        }
    }

    /// Attends from `xs` (N, L, D) to what `store` returns for it, under `mask` (L, P + L) if given. Returns (N, L, D).
    pub(crate) fn forward(
        &self,
        xs: &Tensor,
        rope: &RopeTable,
        store: &mut dyn KvStore,
        mask: Option<&Tensor>,
    ) -> Tensor {
        let (n, l, hidden) = xs.size3().expect("attention input is (N, L, D)");
        let [queries, keys, values] = self.project(xs, rope);
        let (keys, values) = store.extend(self.layer, keys, values); // (N, H, P + L, d)
        let attended =
            Tensor::scaled_dot_product_attention(&queries, &keys, &values, mask, 0.0, false, None, false);
        self.proj.forward(&attended.transpose(1, 2).reshape([n, l, hidden]))
    }

    /// Hands this layer's keys and values to `store` without attending: all that a last layer owes the clean stream.
    pub(crate) fn remember(&self, xs: &Tensor, rope: &RopeTable, store: &mut dyn KvStore) {
        let [_, keys, values] = self.project(xs, rope);
        let _ = store.extend(self.layer, keys, values);
    }

    /// Normalised, rotated queries and keys, and values: each (N, H, L, d).
    fn project(&self, xs: &Tensor, rope: &RopeTable) -> [Tensor; 3] {
        let (n, l, hidden) = xs.size3().expect("attention input is (N, L, D)");
        let qkv = self.qkv.forward(xs).view([n, l, 3, self.heads, hidden / self.heads]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // (3, N, H, L, d)
        let rotated =
            |norm: &RmsNorm, part: i64| rope.apply(&norm.forward(&qkv.get(part))).to_kind(xs.kind());
        [rotated(&self.q_norm, 0), rotated(&self.k_norm, 1), qkv.get(2)]
    }
}
