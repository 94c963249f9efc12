//! What a window holds, whatever was put into it and whichever way it came there.

use acdit_model::{Config, Preset};
use proptest::prelude::*;
use tch::{Device, Kind};

use super::*;

fn model(context_window: Option<i64>) -> Acdit {
    let config = Config {
        hidden_size: 32,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        context_window,
        ..Config::video(Preset::B, 32, 3)
    };
    Acdit::random(&config, 7, Device::Cpu, Kind::Float).unwrap()
}

/// Tokens (1, B, p²·C) that no other seed has.
fn tokens(model: &Acdit, seed: u64) -> Tensor {
    let (count, width) = (model.config().block_tokens(), model.config().token_width());
    let values = Tensor::arange(count * width, (Kind::Float, Device::Cpu)) * (0.3 + seed as f64 / 7.0);
    values.sin().view([1, count, width])
}

fn appended(model: &Acdit, from: &Window, seeds: impl IntoIterator<Item = u64>) -> Window {
    seeds.into_iter().fold(from.clone(), |window, seed| window.appended(model, &tokens(model, seed)).unwrap())
}

fn held(window: &Window) -> Vec<Tensor> {
    let cached = window.layers().iter().flat_map(|(keys, values)| [keys, values]);
    window.blocks().chain(cached).map(Tensor::shallow_clone).collect()
}

fn equal(a: &Window, b: &Window) -> bool {
    let (a, b) = (held(a), held(b));
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equal(b))
}

fn furthest(a: &Window, b: &Window) -> f64 {
    let pairs = held(a).into_iter().zip(held(b));
    pairs.map(|(a, b)| (a - b).abs().max().double_value(&[])).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_window_holds_the_newest_blocks_and_no_more(
        windowed: bool, capacity in 1usize..4, count in 0u64..9,
    ) {
        let model = model(windowed.then_some(capacity as i64));
        let mode = if windowed { WindowMode::Windowed } else { WindowMode::Recompute };
        let window = appended(&model, &Window::new(&model, capacity, mode).unwrap(), 0..count);
        let kept = (count as usize).min(capacity);
        prop_assert_eq!((window.len(), window.is_empty()), (kept, kept == 0));
        prop_assert_eq!(window.position(), if windowed { count as i64 } else { kept as i64 });
        for (block, seed) in window.blocks().zip(count - kept as u64..) {
            prop_assert!(block.equal(&tokens(&model, seed)));
        }
        let config = model.config();
        let cached = [1, config.num_attention_heads, kept as i64 * config.block_tokens(), config.head_dim()];
        prop_assert!(window.layers().iter().all(|(k, v)| k.size() == cached && v.size() == cached));
        prop_assert_eq!(window.layers().len(), if kept == 0 { 0 } else { 2 });
    }

    #[test]
    fn whoever_leaves_a_window_changes_nothing_for_the_others(
        windowed: bool, before in 0u64..6, ours in 1u64..4, theirs in 1u64..4,
    ) {
        let model = model(windowed.then_some(3));
        let mode = if windowed { WindowMode::Windowed } else { WindowMode::Recompute };
        let shared = appended(&model, &Window::new(&model, 3, mode).unwrap(), 0..before);
        let as_it_was = held(&shared).iter().map(Tensor::copy).collect::<Vec<_>>();
        let alone = appended(&model, &shared, 100..100 + ours);
        let _other = appended(&model, &shared, 200..200 + theirs);
        let again = appended(&model, &shared, 100..100 + ours);
        prop_assert!(equal(&alone, &again));
        prop_assert!(held(&shared).iter().zip(&as_it_was).all(|(now, then)| now.equal(then)));
    }

    /// Recomputed windows know nothing of blocks that are gone; the rotated keys of windowed ones stay where they were.
    #[test]
    fn what_slid_out_leaves_no_trace(before in 0u64..5, capacity in 1usize..4) {
        let model = model(None);
        let empty = Window::new(&model, capacity, WindowMode::Recompute).unwrap();
        let newest = 50..50 + capacity as u64 + 1;
        let slid = appended(&model, &empty, (0..before).chain(newest.clone()));
        let fresh = appended(&model, &empty, newest);
        prop_assert!(furthest(&slid, &fresh) < 1e-5, "{}", furthest(&slid, &fresh));
    }
}
