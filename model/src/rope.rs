//! Rotary positions over several axes (RoPE-ND), in both forms behind one type.
//!
//! Both forms end in `x · cos + rotate_half(x) · sin` over the whole head, where `rotate_half` pairs element i with
//! i + d/2. They differ in which angle stands where:
//!
//! - **Axial** (paper, eq. 4): the angles of all axes fill the first half of the head and are repeated in the second, so
//!   each pair shares one angle. That is a rotation, and attention depends on relative positions only, at any distance.
//! - **Published**: each axis fills a contiguous segment with its angles twice over, so a pair mixes two axes and its two
//!   angles differ. Released weights were trained with exactly this and need it; their tables must not be extended.
//!
//! Angles come from f64, so that positions far into a stream keep their precision.

use tch::{Device, Kind, Tensor};

use crate::{Config, Error, RopeKind};

/// Computes rotary tables for blocks at any position.
#[derive(Debug, Clone)]
pub struct Rope {
    kind: RopeKind,
    /// Per axis, the angular step of each frequency, in radians per position.
    frequencies: Vec<Vec<f64>>,
    /// Per axis, the position of each token of one block relative to the block's start: (axes, B).
    offsets: Vec<Vec<i64>>,
    layout: Layout,
}

#[derive(Debug, Clone)]
enum Layout {
    /// Blocks follow one another in time.
    Video { frames_per_block: i64, table_frames: i64 },
    /// Blocks tile an image in raster order.
    Image { side: i64, blocks_per_row: i64 },
}

/// Cosines and sines of a sequence, (L, d) f32 each; or of N sequences of a batch, (N, 1, L, d).
#[derive(Debug)]
pub struct RopeTable {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl Rope {
    /// The tables that `config` describes. The config must be valid.
    pub fn new(config: &Config) -> Self {
        let frequencies = (config.axis_dims().iter().zip(&config.axis_lengths))
            .map(|(&dim, &length)| axis_frequencies(config.rope, dim, length))
            .collect();
        let (rows, columns) = config.token_grid();
        let (layout, offsets) = match config.square_block {
            Some(side) => (Layout::Image { side, blocks_per_row: columns / side }, grid(&[side, side])),
            None => (
                Layout::Video {
                    frames_per_block: config.frames_per_block,
                    table_frames: config.axis_lengths[0],
                },
                grid(&[config.frames_per_block, rows, columns]),
            ),
        };
        Self { kind: config.rope, frequencies, offsets, layout }
    }

    /// Token positions of `blocks` consecutive blocks from block `first`: one row per axis, blocks·B columns.
    ///
    /// # Errors
    /// [`Error::Position`] if published tables do not reach that far.
    pub fn positions(&self, first: i64, blocks: i64) -> Result<Vec<Vec<i64>>, Error> {
        let mut axes = vec![Vec::new(); self.offsets.len()];
        for block in first..first + blocks {
            let start = match self.layout {
                Layout::Video { frames_per_block, table_frames } => {
                    let frame = block * frames_per_block;
                    if self.kind == RopeKind::Published && frame + frames_per_block > table_frames {
                        return Err(Error::Position { block, frames: table_frames });
                    }
                    vec![frame, 0, 0]
                }
                Layout::Image { side, blocks_per_row } => {
                    vec![block / blocks_per_row * side, block % blocks_per_row * side]
                }
            };
            for ((axis, offsets), start) in axes.iter_mut().zip(&self.offsets).zip(start) {
                axis.extend(offsets.iter().map(|offset| start + offset));
            }
        }
        Ok(axes)
    }

    /// The table for `blocks` consecutive blocks from block `first` of the stream.
    ///
    /// # Errors
    /// [`Error::Position`] if published tables do not reach that far.
    pub fn table(&self, first: i64, blocks: i64, device: Device) -> Result<RopeTable, Error> {
        let positions = self.positions(first, blocks)?;
        let angles: Vec<Tensor> = (positions.iter().zip(&self.frequencies))
            .map(|(axis, frequencies)| {
                let axis: Vec<f64> = axis.iter().map(|&p| p as f64).collect();
                Tensor::from_slice(&axis).outer(&Tensor::from_slice(frequencies)) // (L, axis dim / 2) f64
            })
            .collect();
        let angles = match self.kind {
            RopeKind::Axial => {
                let half = Tensor::cat(&angles, 1);
                Tensor::cat(&[&half, &half], 1)
            }
            RopeKind::Published => {
                Tensor::cat(&angles.iter().flat_map(|axis| [axis, axis]).collect::<Vec<_>>(), 1)
            }
        };
        let place = |t: Tensor| t.to_kind(Kind::Float).to_device(device);
        Ok(RopeTable { cos: place(angles.cos()), sin: place(angles.sin()) })
    }
}

impl RopeTable {
    /// The tables of N sequences of one length as one: (N, 1, L, d).
    pub fn stacked(tables: &[Self]) -> Self {
        let stack = |part: fn(&Self) -> &Tensor| {
            Tensor::stack(&tables.iter().map(part).collect::<Vec<_>>(), 0).unsqueeze(1)
        };
        Self { cos: stack(|table| &table.cos), sin: stack(|table| &table.sin) }
    }

    /// Rotates queries or keys (N, H, L, d) in f32.
    pub(crate) fn apply(&self, xs: &Tensor) -> Tensor {
        let xs = xs.to_kind(Kind::Float);
        let halves = xs.chunk(2, -1);
        let rotated = Tensor::cat(&[halves[1].neg(), halves[0].shallow_clone()], -1);
        (&xs * &self.cos).addcmul(&rotated, &self.sin)
    }
}

/// Base and exponents of one axis; `dim` head elements hold `dim / 2` frequencies.
fn axis_frequencies(kind: RopeKind, dim: i64, length: i64) -> Vec<f64> {
    let half = dim / 2;
    match kind {
        // θ_i = b^(−2(i−1)/d), b = 100·⌈8L/(100π)⌉
        RopeKind::Axial => {
            let base = 100.0 * (8.0 * length as f64 / (100.0 * std::f64::consts::PI)).ceil();
            (0..half).map(|i| base.powf(-2.0 * i as f64 / dim as f64)).collect()
        }
        // exponents run over [0, 1] with both ends included
        RopeKind::Published => {
            let base = (((8.0 * length as f64 / std::f64::consts::PI) as i64 / 100 + 1) * 100) as f64;
            let last = (half - 1).max(1) as f64;
            (0..half).map(|i| base.powf(-(i as f64 / last))).collect()
        }
    }
}

/// Coordinates of a row-major grid: one row per axis.
fn grid(lengths: &[i64]) -> Vec<Vec<i64>> {
    let total: i64 = lengths.iter().product();
    let mut stride = total;
    lengths
        .iter()
        .map(|&length| {
            stride /= length;
            (0..total).map(|token| token / stride % length).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    fn config(rope: RopeKind) -> Config {
        Config { rope, ..Config::video(Preset::B, 32, 10) }
    }

    /// q·k between two tokens of one head, for a pair of blocks.
    fn score(rope: &Rope, q_block: i64, k_block: i64) -> f64 {
        let ramp = Tensor::arange(16 * 64, (Kind::Float, Device::Cpu)).view([1, 1, 16, 64]);
        let (q, k) = ((&ramp * 0.7).sin(), (&ramp * 1.3).cos());
        let q = rope.table(q_block, 1, Device::Cpu).unwrap().apply(&q);
        let k = rope.table(k_block, 1, Device::Cpu).unwrap().apply(&k);
        q.matmul(&k.transpose(-1, -2)).double_value(&[0, 0, 3, 9])
    }

    #[test]
    fn axial_scores_depend_on_relative_positions_only() {
        let rope = Rope::new(&config(RopeKind::Axial));
        let near = score(&rope, 3, 1);
        for shift in [1, 7, 1_000, 10_000_000] {
            let far = score(&rope, 3 + shift, 1 + shift);
            assert!((far - near).abs() < 1e-4, "shift {shift}: {near} became {far}");
        }
        assert!((score(&rope, 3, 2) - near).abs() > 1e-2);
    }

    #[test]
    fn published_tables_end_with_the_training_clip() {
        let rope = Rope::new(&config(RopeKind::Published));
        assert!(rope.table(3, 1, Device::Cpu).is_ok());
        assert!(matches!(rope.table(3, 2, Device::Cpu), Err(Error::Position { block: 4, frames: 16 })));
    }

    #[test]
    fn both_base_formulas_agree() {
        for length in 1..400 {
            let paper = 100.0 * (8.0 * length as f64 / (100.0 * std::f64::consts::PI)).ceil();
            let published = (((8.0 * length as f64 / std::f64::consts::PI) as i64 / 100 + 1) * 100) as f64;
            assert_eq!(paper, published, "L = {length}");
        }
    }
}
