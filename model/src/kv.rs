//! Attention's only view of a cache.

use tch::Tensor;

/// Supplies the keys and values that the current tokens may attend beside their own.
///
/// Keys are stored rotated. One store serves one sequence of clean blocks; a batch of guidance branches or forks shares
/// it, since clean keys depend on neither timestep nor label.
pub trait KvStore {
    /// Takes this layer's keys and values of the current tokens, (N, H, L, d) each, and returns what they attend:
    /// (N, H, P + L, d), the past first.
    fn extend(&mut self, layer: usize, keys: Tensor, values: Tensor) -> (Tensor, Tensor);

    /// Number P of cached tokens.
    fn past_tokens(&self) -> i64;
}

/// Nothing but the current tokens: training, and the first block of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl KvStore for NoCache {
    fn extend(&mut self, _layer: usize, keys: Tensor, values: Tensor) -> (Tensor, Tensor) {
        (keys, values)
    }

    fn past_tokens(&self) -> i64 {
        0
    }
}
