//! The skip-causal attention mask (SCAM), full and windowed, at block level.
//!
//! Sequence order is all clean blocks, then all noised blocks. `c_i` attends `c_{i−W}..c_i`; `n_i` attends
//! `c_{i−W}..c_{i−1}` and itself. Without a window, W is unbounded (the paper).
//!
//! A mask is the list of what each block attends, and attention multiplies just those blocks: no score is computed to be
//! masked out.

use std::ops::Range;

use tch::Tensor;

/// Which of the key blocks each query block attends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMask {
    columns: usize,
    /// Per query block, the attended key blocks in ascending order.
    rows: Vec<Vec<usize>>,
}

/// The mask over `blocks` clean and `blocks` noised blocks, `2 · blocks` rows and columns.
pub fn scam(blocks: usize, window: Option<usize>) -> BlockMask {
    let clean = causal(blocks, 0, window).rows;
    let noised = (clean.iter().enumerate())
        .map(|(i, seen)| seen.iter().copied().filter(|&j| j != i).chain([blocks + i]).collect())
        .collect::<Vec<_>>();
    BlockMask { columns: 2 * blocks, rows: [clean, noised].concat() }
}

/// Which of `past + blocks` clean blocks each of the last `blocks` attends.
pub(crate) fn causal(blocks: usize, past: usize, window: Option<usize>) -> BlockMask {
    let reach = window.unwrap_or(usize::MAX);
    let rows = (past..past + blocks).map(|i| (i.saturating_sub(reach)..=i).collect()).collect();
    BlockMask { columns: past + blocks, rows }
}

impl BlockMask {
    /// Per query block, the attended key blocks.
    pub fn rows(&self) -> &[Vec<usize>] {
        &self.rows
    }

    /// Key blocks.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The mask for some of the query blocks.
    pub fn narrow(&self, rows: Range<usize>) -> Self {
        Self { columns: self.columns, rows: self.rows[rows].to_vec() }
    }

    /// (rows, columns) bool, true where attended.
    pub fn to_tensor(&self) -> Tensor {
        let row = |seen: &Vec<usize>| (0..self.columns).map(|j| seen.contains(&j)).collect::<Vec<_>>();
        let cells: Vec<bool> = self.rows.iter().flat_map(row).collect();
        Tensor::from_slice(&cells).view([self.rows.len() as i64, self.columns as i64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scam_is_the_papers_rule(blocks in 1usize..9, window in prop::option::of(1usize..9)) {
            let mask = scam(blocks, window).to_tensor();
            let cell = |row: usize, column: usize| mask.int64_value(&[row as i64, column as i64]) != 0;
            let reach = window.unwrap_or(blocks);
            for i in 0..blocks {
                for j in 0..blocks {
                    let near = j + reach >= i;
                    prop_assert_eq!(cell(i, j), j <= i && near);
                    prop_assert!(!cell(i, blocks + j));
                    prop_assert_eq!(cell(blocks + i, j), j < i && near);
                    prop_assert_eq!(cell(blocks + i, blocks + j), i == j);
                }
            }
        }

        #[test]
        fn causal_continues_where_the_past_ended(blocks in 1usize..5, past in 0usize..5, window in prop::option::of(1usize..6)) {
            let whole = causal(past + blocks, 0, window);
            prop_assert_eq!(whole.narrow(past..past + blocks), causal(blocks, past, window));
        }
    }
}
