//! Where the balls of a film are and how fast they move, whoever made it: so that the world can say what comes next.
//!
//! A film that a network makes strays from the one that the simulator would have made. The tracker looks for the state at a
//! block's start from which the rules lead closest to what the block shows (a cross-entropy search around the state it
//! believed in), and believes in what that comes to at the block's end. A ball that is not to be seen goes on by the rules.

use acdit_codec::Frame;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::judge::find;
use super::{Ball, State, norm, sub};
use crate::procedural::FRAMES_PER_BLOCK;

/// Rounds of the search, states tried in each, and how many of the best the next round is drawn around.
const ROUNDS: usize = 6;
const TRIED: usize = 96;
const BEST: usize = 12;
/// How far a film strays within a block: of a centre in box lengths, of a velocity in box lengths per frame.
const STRAYED: [f64; 2] = [0.012, 0.008];
/// Error of a centre that is found in a picture, in box lengths.
const SEEN: f64 = 0.003;
/// Weight of each frame of a block: what comes next goes on from the last.
const WEIGHTS: [f64; FRAMES_PER_BLOCK] = [0.5, 1.0, 1.5, 2.0];
/// Numbers that a state is searched by: centre and velocity of both balls.
const NUMBERS: usize = 8;

/// Follows a film block by block.
#[derive(Debug, Clone)]
pub struct Tracker {
    state: State,
    rng: ChaCha8Rng,
}

impl Tracker {
    /// Of a film whose last frame showed `state`; `seed` is that of its searches.
    pub fn new(state: State, seed: u64) -> Self {
        Self { state, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// What the last frame seen is believed to show.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the next block would show by the rules.
    ///
    /// # Panics
    /// When `label` is not an index into [`super::LABELS`].
    pub fn expected(&self, label: usize) -> [State; FRAMES_PER_BLOCK] {
        self.state.block(label)
    }

    /// Sees the next block, which was made under `label`.
    ///
    /// # Panics
    /// As [`Self::expected`]; unless `frames` are those of one block.
    pub fn see(&mut self, frames: &[Frame], label: usize) {
        assert_eq!(frames.len(), FRAMES_PER_BLOCK, "frames of a block");
        let seen: Vec<_> = frames.iter().map(|frame| [0, 1].map(|ball| find(frame, ball))).collect();
        let misfit = |state: &State| -> f64 {
            let shown = state.block(label).into_iter().zip(&seen).zip(WEIGHTS);
            let errors = shown.flat_map(|((shown, seen), weight)| {
                [0, 1].map(|ball| {
                    seen[ball].map_or(0.0, |centre| {
                        let off = norm(sub(shown.balls[ball].centre, centre)) / SEEN;
                        weight * off * off
                    })
                })
            });
            errors.sum()
        };
        let believed = numbers(&self.state);
        let strayed: [f64; NUMBERS] = std::array::from_fn(|number| {
            let shown = seen.iter().any(|balls| balls[number / 4].is_some());
            if shown { STRAYED[number / 2 % 2] } else { 0.0 }
        });
        let (mut mean, mut spread) = (believed, strayed);
        for _ in 0..ROUNDS {
            let mut tried: Vec<(f64, [f64; NUMBERS])> = (0..TRIED)
                .map(|place| {
                    let step = |number: usize| -> f64 {
                        let drawn: f64 = StandardNormal.sample(&mut self.rng);
                        mean[number] + if place == 0 { 0.0 } else { drawn * spread[number] }
                    };
                    let drawn: [f64; NUMBERS] = std::array::from_fn(step);
                    let state = self.state.at(&drawn);
                    let numbers = numbers(&state); // back inside the box, within the limit of speed
                    let searched = (0..NUMBERS).filter(|&n| strayed[n] > 0.0);
                    let apart = searched.map(|n| ((numbers[n] - believed[n]) / strayed[n]).powi(2));
                    (misfit(&state) + apart.sum::<f64>(), numbers)
                })
                .collect();
            tried.sort_by(|one, other| one.0.total_cmp(&other.0));
            let best = || tried[..BEST].iter().map(|(_, numbers)| numbers);
            mean = std::array::from_fn(|n| best().map(|numbers| numbers[n]).sum::<f64>() / BEST as f64);
            spread = std::array::from_fn(|n| {
                let squares = best().map(|numbers| (numbers[n] - mean[n]).powi(2)).sum::<f64>();
                (squares / BEST as f64).sqrt().max(1e-3 * strayed[n])
            });
        }
        [.., self.state] = self.state.at(&mean).block(label);
    }
}

/// Centre and velocity of one ball, then of the other.
fn numbers(state: &State) -> [f64; NUMBERS] {
    let [a, b] = state.balls.map(|ball| [ball.centre, ball.velocity]);
    let [[ac, av], [bc, bv]] = [a, b];
    [ac[0], ac[1], av[0], av[1], bc[0], bc[1], bv[0], bv[1]]
}

impl State {
    /// These balls elsewhere, inside the box and no faster than balls are.
    fn at(&self, numbers: &[f64; NUMBERS]) -> Self {
        let mut state = *self;
        for (ball, of) in state.balls.iter_mut().zip(numbers.chunks_exact(NUMBERS / 2)) {
            *ball = Ball { centre: [of[0], of[1]], velocity: [of[2], of[3]], ..*ball };
            ball.keep_inside();
            ball.limit_speed();
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use acdit_codec::Size;
    use rand::Rng;

    use super::super::{World, render};
    use super::*;

    const SIZE: Size = Size { width: 64, height: 64 };

    fn painted(states: &[State]) -> Vec<Frame> {
        states.iter().map(|state| render(state, SIZE).unwrap()).collect()
    }

    /// Errors of the tracker's state over `blocks` blocks: of centres and velocities, in pixels (per frame), sorted.
    fn errors(blocks: usize, mut film: impl FnMut(&mut World) -> (Vec<Frame>, usize)) -> [Vec<f64>; 2] {
        let mut world = World::new(3);
        let mut tracker = Tracker::new(*world.state(), 1);
        let mut errors = [vec![], vec![]];
        for _ in 0..blocks {
            let (frames, label) = film(&mut world);
            tracker.see(&frames, label);
            for (ball, truth) in tracker.state().balls.iter().zip(&world.state().balls) {
                errors[0].push(norm(sub(ball.centre, truth.centre)) * 64.0);
                errors[1].push(norm(sub(ball.velocity, truth.velocity)) * 64.0);
            }
        }
        errors.iter_mut().for_each(|errors| errors.sort_by(f64::total_cmp));
        errors
    }

    fn at(sorted: &[f64], share: f64) -> f64 {
        sorted[(sorted.len() as f64 * share) as usize]
    }

    #[test]
    fn the_worlds_own_film_is_followed() {
        let [centres, velocities] = errors(200, |world| {
            let label = world.next_label();
            (painted(&world.block(label)), label)
        });
        assert!(at(&centres, 0.5) < 0.1 && at(&centres, 0.98) < 0.3, "{centres:?}");
        assert!(at(&velocities, 0.5) < 0.1 && at(&velocities, 0.95) < 0.4, "{velocities:?}");
    }

    #[test]
    fn a_film_that_strays_is_followed() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let [centres, velocities] = errors(200, |world| {
            // before each block both balls jump by half a pixel and change their speed by a quarter of a pixel a frame
            let mut step = |size: f64| rng.random_range(-size..=size) / 64.0;
            let jumped: [f64; NUMBERS] =
                std::array::from_fn(|n| step(if n / 2 % 2 == 0 { 0.5 } else { 0.25 }));
            let from = numbers(world.state());
            world.state = world.state().at(&std::array::from_fn(|n| from[n] + jumped[n]));
            let label = world.next_label();
            (painted(&world.block(label)), label)
        });
        assert!(at(&centres, 0.5) < 0.15 && at(&centres, 0.95) < 0.5, "{centres:?}");
        assert!(at(&velocities, 0.5) < 0.15 && at(&velocities, 0.9) < 0.5, "{velocities:?}");
    }

    #[test]
    fn a_ball_that_is_not_seen_goes_on_by_the_rules() {
        let mut world = World::new(5);
        let mut tracker = Tracker::new(*world.state(), 1);
        for label in [1, 4] {
            let states = world.block(label);
            let mut blind = states;
            blind.iter_mut().for_each(|state| state.balls[1].radius = 0.0);
            assert!(
                tracker.expected(label).iter().zip(&states).all(|(one, other)| {
                    norm(sub(one.balls[1].centre, other.balls[1].centre)) * 64.0 < 0.5
                })
            );
            tracker.see(&painted(&blind), label);
        }
        assert!(norm(sub(tracker.state().balls[1].centre, world.state().balls[1].centre)) * 64.0 < 1.0);
    }
}
