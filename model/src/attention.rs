//! Multi-head attention over cached and current tokens.

use tch::{Device, Kind, Tensor, nn};

use crate::linear::{Linear, Start};
use crate::mask::BlockMask;
use crate::norm::RmsNorm;
use crate::{Config, KvStore, RopeTable};

/// Scores that a CPU computes at a time: they are read and written several times over, so they should stay in its cache,
/// but too few queries at a time slow the products down.
const SCORES_AT_A_TIME: i64 = 16 << 20;

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

    /// Attends from `xs` (N, L, D) to what `store` returns for it: to all of it, or block by block as `mask` says, whose
    /// rows are the blocks of `xs` and whose columns those that `store` returns. Returns (N, L, D).
    pub(crate) fn forward(
        &self,
        xs: &Tensor,
        rope: &RopeTable,
        store: &mut dyn KvStore,
        mask: Option<&BlockMask>,
    ) -> Tensor {
        let (n, l, hidden) = xs.size3().expect("attention input is (N, L, D)");
        let [queries, keys, values] = self.project(xs, rope);
        let (keys, values) = store.extend(self.layer, keys, values); // (N, H, P + L, d)
        let attended = match mask {
            None => attend(&queries, &keys, &values),
            Some(mask) => attend_blocks(&queries, &keys, &values, mask),
        };
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

/// softmax(q·kᵀ / √d)·v of queries (N, H, L, d) over keys and values (N, H, K, d); returns (N, H, L, d).
fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
    if (queries.device(), queries.kind()) != (Device::Cpu, Kind::BFloat16) {
        return Tensor::scaled_dot_product_attention::<&Tensor>(
            queries, keys, values, None, 0.0, false, None, false,
        );
    }
    // On a CPU, libtorch's fused attention multiplies bf16 at the speed of f32, and its backward pass is slower still;
    // its matrix products use the CPU's bf16 instructions. The price: scores are rounded to bf16 before the softmax. For normal
    // queries and keys the result's relative error (root mean square) is 0.0044 instead of 0.0022, for scores three times as
    // large 0.0115 instead of 0.0018.
    let (n, heads, length, size) = queries.size4().expect("queries are (N, H, L, d)");
    let transposed = keys.transpose(2, 3);
    let slice = (SCORES_AT_A_TIME / (n * heads * keys.size()[2])).clamp(1, length);
    let some = |queries: &Tensor| {
        let scores = (queries * (size as f64).sqrt().recip()).matmul(&transposed);
        scores.softmax(-1, Kind::BFloat16).matmul(values)
    };
    if slice == length {
        return some(queries);
    }
    Tensor::cat(&queries.split(slice, 2).iter().map(some).collect::<Vec<_>>(), 2)
}

/// As [`attend`], with every block of queries over the key blocks that `mask` names for it.
fn attend_blocks(queries: &Tensor, keys: &Tensor, values: &Tensor, mask: &BlockMask) -> Tensor {
    let blocks = |tokens: &Tensor, count: usize| tokens.chunk(count as i64, 2);
    let (keys, values) = (blocks(keys, mask.columns()), blocks(values, mask.columns()));
    let pick = |from: &[Tensor], seen: &[usize]| {
        Tensor::cat(&seen.iter().map(|&block| &from[block]).collect::<Vec<_>>(), 2)
    };
    let attended: Vec<Tensor> = (blocks(queries, mask.rows().len()).iter().zip(mask.rows()))
        .map(|(queries, seen)| attend(queries, &pick(&keys, seen), &pick(&values, seen)))
        .collect();
    Tensor::cat(&attended, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{causal, scam};
    use proptest::prelude::*;

    /// Values in [-1, 1] that depend on the seed alone: libtorch's generator is shared by tests that run at once.
    fn waves(shape: [i64; 4], seed: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Float, Device::Cpu)) * (1.3 + seed)).sin().view(shape)
    }

    /// Every score computed, those that `mask` forbids at minus infinity.
    fn dense(
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mask: Option<&BlockMask>,
        block: i64,
    ) -> Tensor {
        let scores = queries.matmul(&keys.transpose(2, 3)) / (queries.size()[3] as f64).sqrt();
        let scores = match mask.map(BlockMask::to_tensor) {
            None => scores,
            Some(seen) => {
                let seen = seen
                    .repeat_interleave_self_int(block, 0, None)
                    .repeat_interleave_self_int(block, 1, None);
                scores.masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
            }
        };
        scores.softmax(-1, Kind::Float).matmul(values)
    }

    fn error(got: &Tensor, expected: &Tensor) -> f64 {
        (got.to_kind(Kind::Float) - expected).abs().max().double_value(&[])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn block_by_block_equals_the_dense_masked_product(
            blocks in 1usize..6, past in 0usize..3, window in prop::option::of(1usize..5), noised: bool,
        ) {
            let mask = if noised { scam(blocks, window).narrow(blocks..2 * blocks) } else { causal(blocks, past, window) };
            let (block, rows, columns) = (3, mask.rows().len() as i64, mask.columns() as i64);
            let queries = waves([2, 2, rows * block, 8], 0.1) * 3.0;
            let [keys, values] = [0.2, 0.3].map(|seed| waves([2, 2, columns * block, 8], seed) * 3.0);
            let expected = dense(&queries, &keys, &values, Some(&mask), block);
            prop_assert!(error(&attend_blocks(&queries, &keys, &values, &mask), &expected) < 1e-5);
        }
    }

    #[test]
    fn bf16_on_a_cpu_is_attention_whether_sliced_or_not() {
        // 18,000 keys of 8 heads leave slices of 116 queries
        for (length, keys) in [(7, 40), (150, 18_000)] {
            let q = waves([1, 8, length, 64], 0.1).to_kind(Kind::BFloat16);
            let [k, v] = [0.2, 0.3].map(|seed| waves([1, 8, keys, 64], seed).to_kind(Kind::BFloat16));
            let [qf, kf, vf] = [&q, &k, &v].map(|t| t.to_kind(Kind::Float));
            let expected = dense(&qf, &kf, &vf, None, 1);
            let error = error(&attend(&q, &k, &v), &expected);
            assert!(error < 1e-2, "{length} queries, {keys} keys: {error}");
        }
    }
}
