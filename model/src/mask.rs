//! The skip-causal attention mask (SCAM), full and windowed, at block level.
//!
//! Sequence order is all clean blocks, then all noised blocks. `c_i` attends `c_{i−W}..c_i`; `n_i` attends
//! `c_{i−W}..c_{i−1}` and itself. Without a window, W is unbounded (the paper).

use tch::{Device, Kind, Tensor};

/// The mask over `blocks` clean and `blocks` noised blocks: (2T, 2T) bool, rows attend columns.
pub fn scam(blocks: i64, window: Option<i64>, device: Device) -> Tensor {
    let clean = causal(blocks, 0, window, device);
    let own = Tensor::eye(blocks, (Kind::Bool, device));
    let none = Tensor::zeros([blocks, blocks], (Kind::Bool, device));
    let before = clean.logical_and(&own.logical_not());
    Tensor::cat(&[Tensor::cat(&[clean, none], 1), Tensor::cat(&[before, own], 1)], 0)
}

/// Which of `past + blocks` clean blocks each of the last `blocks` attends: (blocks, past + blocks) bool.
pub fn causal(blocks: i64, past: i64, window: Option<i64>, device: Device) -> Tensor {
    let rows = Tensor::arange(blocks, (Kind::Int64, device)).unsqueeze(1) + past;
    let columns = Tensor::arange(past + blocks, (Kind::Int64, device)).unsqueeze(0);
    let seen = columns.le_tensor(&rows);
    match window {
        Some(window) => seen.logical_and(&columns.ge_tensor(&(rows - window))),
        None => seen,
    }
}

/// A block-level mask spread over tokens: (R, C) → (R·B, C·B).
pub fn tokens(mask: &Tensor, block_tokens: i64) -> Tensor {
    mask.repeat_interleave_self_int(block_tokens, 0, None).repeat_interleave_self_int(block_tokens, 1, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cell(mask: &Tensor, row: i64, column: i64) -> bool {
        mask.int64_value(&[row, column]) != 0
    }

    proptest! {
        #[test]
        fn scam_is_the_papers_rule(blocks in 1i64..9, window in prop::option::of(1i64..9)) {
            let mask = scam(blocks, window, Device::Cpu);
            let reach = window.unwrap_or(blocks);
            for i in 0..blocks {
                for j in 0..blocks {
                    let near = j >= i - reach;
                    prop_assert_eq!(cell(&mask, i, j), j <= i && near);
                    prop_assert!(!cell(&mask, i, blocks + j));
                    prop_assert_eq!(cell(&mask, blocks + i, j), j < i && near);
                    prop_assert_eq!(cell(&mask, blocks + i, blocks + j), i == j);
                }
            }
        }

        #[test]
        fn causal_continues_where_the_past_ended(blocks in 1i64..5, past in 0i64..5, window in prop::option::of(1i64..6)) {
            let whole = causal(past + blocks, 0, window, Device::Cpu);
            let tail = causal(blocks, past, window, Device::Cpu);
            prop_assert!(whole.narrow(0, past, blocks).equal(&tail));
        }
    }

    #[test]
    fn tokens_repeats_every_cell() {
        let spread = tokens(&causal(2, 0, None, Device::Cpu), 2);
        let expected = Tensor::from_slice(&[1i64, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]).view([4, 4]);
        assert!(spread.to_kind(Kind::Int64).equal(&expected));
    }
}
