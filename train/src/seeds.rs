//! Which worlds of a procedural kind are learnt from, and which are kept to judge by.

/// Worlds of one draw: two draws with different seeds share none.
const OF_A_DRAW: u64 = 1 << 20;
/// Every second half of all seeds.
const HELD_OUT: u64 = 1 << 63;

/// Seed of world `number`, below 2^20, of those that a training with `seed` sees.
pub fn training(seed: u64, number: u64) -> u64 {
    seed.wrapping_mul(OF_A_DRAW).wrapping_add(number) & !HELD_OUT
}

/// Seed of world `number`, below 2^19, of those in which a network's own streams begin in a training with `seed`: apart from
/// the first 2^19 of its clips.
pub fn streamed(seed: u64, number: u64) -> u64 {
    training(seed, OF_A_DRAW / 2 + number)
}

/// Seed of world `number` of those that judge with `seed`; no training sees it.
pub fn held_out(seed: u64, number: u64) -> u64 {
    training(seed, number) | HELD_OUT
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn draws_share_no_world_and_training_sees_none_that_is_held_out() {
        let draws = [0, 1, 2, 1 << 20, 1 << 42];
        let worlds = |of: fn(u64, u64) -> u64| -> BTreeSet<u64> {
            draws.iter().flat_map(|&seed| [0, 1, 700, OF_A_DRAW - 1].map(|number| of(seed, number))).collect()
        };
        let (seen, kept) = (worlds(training), worlds(held_out));
        assert_eq!((seen.len(), kept.len()), (20, 20));
        assert!(seen.is_disjoint(&kept));
        assert_eq!(training(0, 5), 5);
    }
}
