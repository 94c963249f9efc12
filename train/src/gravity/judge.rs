//! What a film of `gravity` shows, measured: are there two balls, and do they fall where the label says?
//!
//! The judge sees pictures and labels, nothing of how they were made: the same eyes measure the simulator's own frames,
//! those frames after a VAE, and a network's.

use acdit_codec::{Frame, Size};
use serde::Serialize;

use super::{BACKGROUND, BALLS, Ball, LABELS, norm, sub};
use crate::evaluate::{self, share};

/// A ball is of the right size if its area differs by less than this share.
const AREA_TOLERANCE: f64 = 1.0 / 3.0;
/// Share of a ball's area from which on a spot of its colour counts as another ball.
const SPOT: f64 = 0.1;
/// Least share of a ball's colour in a pixel that counts: the wall is as if 0.3 blue.
const LEAST_SHARE: f64 = 0.4;
/// Greatest distance in sRGB between a pixel and the nearest mixture of background and ball.
const COLOUR_TOLERANCE: f64 = 80.0;
/// Room in box lengths that a free ball has to every wall and to the other ball: more than one frame's error of a centre.
const FREE: f64 = 2.0 / 64.0;
/// A ball that moves less, in box lengths per frame, lies still.
const STILL: f64 = 0.002;

/// Measures of a stretch of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Frames seen.
    pub frames: u64,
    /// Frames that show exactly one ball of each colour, both of the right size.
    pub two_balls: u64,
    /// Balls whose change of velocity over a block could be measured: right in every frame, free of walls and contact.
    pub measured: u64,
    /// Those whose change is nearer to what the block's label gives than to what any other label would.
    pub obeyed: u64,
    /// Deepest that a ball's rim was seen in a wall, in box lengths.
    pub into_wall: f64,
    /// Frames in which both balls lie still.
    pub still: u64,
}

impl Tally {
    /// Share of frames with two balls.
    pub fn two_balls_share(&self) -> Option<f64> {
        share(self.two_balls, self.frames)
    }

    /// Share of measured balls that obeyed.
    pub fn obeyed_share(&self) -> Option<f64> {
        share(self.obeyed, self.measured)
    }

    /// Share of frames in which both balls lie still.
    pub fn still_share(&self) -> Option<f64> {
        share(self.still, self.frames)
    }
}

impl evaluate::Counts for Tally {
    fn frames(&self) -> u64 {
        self.frames
    }

    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.two_balls += other.two_balls;
        self.measured += other.measured;
        self.obeyed += other.obeyed;
        self.into_wall = self.into_wall.max(other.into_wall);
        self.still += other.still;
    }
}

/// What a [`Judge`] saw.
pub type Report = evaluate::Report<Tally>;

/// Where the two balls of a frame are, in box lengths; `None` for one that is not there or not right.
type Centres = [Option<[f64; 2]>; 2];

/// Watches a film block by block.
#[derive(Debug, Default)]
pub struct Judge {
    report: Report,
    /// Of the last two frames, or those there were.
    last: Vec<Centres>,
}

impl Judge {
    /// Sees the next block, which was made under `label`.
    ///
    /// # Panics
    /// When `label` is not an index into [`LABELS`].
    pub fn block(&mut self, frames: &[Frame], label: usize) {
        let before = self.last.len();
        let mut seen = std::mem::take(&mut self.last);
        seen.extend(frames.iter().map(|frame| [0, 1].map(|ball| find(frame, ball))));
        let mut tally = Tally { frames: frames.len() as u64, ..Tally::default() };
        for (index, balls) in seen.iter().enumerate().skip(before) {
            tally.two_balls += u64::from(balls.iter().all(Option::is_some));
            let still = index > 0 && lie_still(&seen[index - 1], balls);
            tally.still += u64::from(still);
            let depths = [0, 1].map(|ball| balls[ball].map_or(0.0, |centre| into_wall(ball, centre)));
            tally.into_wall = depths.into_iter().fold(tally.into_wall, f64::max);
        }
        for ball in [0, 1] {
            let path: Option<Vec<[f64; 2]>> = seen.iter().map(|balls| free(balls, ball)).collect();
            if let Some(path) = path.filter(|_| before == 2) {
                tally.measured += 1;
                tally.obeyed += u64::from(obeys(&path, label));
            }
        }
        self.report.push(&tally);
        self.last = seen.split_off(seen.len().saturating_sub(2));
    }

    /// What was seen.
    pub fn report(self) -> Report {
        self.report
    }
}

/// Whether a ball that went along `path` changed its velocity over the last block as under `label`. The velocities compared
/// are those of the last step before the block and of the block's last.
fn obeys(path: &[[f64; 2]], label: usize) -> bool {
    let velocity = |end: usize| sub(path[end], path[end - 1]);
    let (first, last) = (velocity(1), velocity(path.len() - 1));
    let miss = |direction: [f64; 2]| {
        let mut expected = Ball { velocity: first, ..ball_at_rest(0) }; // gravity and drag are the same for both
        for _ in 2..path.len() {
            expected.accelerate(direction, 1.0);
        }
        norm(sub(last, expected.velocity))
    };
    let misses = LABELS.map(|label| miss(label.direction));
    misses.iter().all(|&other| misses[label] <= other)
}

/// The centre of ball `ball`, if both balls are right and it is clear of the walls and the other.
fn free(balls: &Centres, ball: usize) -> Option<[f64; 2]> {
    let (centre, other) = (balls[ball]?, balls[1 - ball]?);
    let apart = norm(sub(other, centre)) - BALLS[0].0 - BALLS[1].0;
    (apart > FREE && into_wall(ball, centre) < -FREE).then_some(centre)
}

fn lie_still(before: &Centres, now: &Centres) -> bool {
    let still = |(before, now): (&Option<_>, &Option<_>)| match (before, now) {
        (Some(before), Some(now)) => norm(sub(*now, *before)) < STILL,
        _ => false,
    };
    before.iter().zip(now).all(still)
}

/// How far the rim of ball `ball` at `centre` is beyond the nearest wall; negative inside the box.
fn into_wall(ball: usize, centre: [f64; 2]) -> f64 {
    let (low, high) = ball_at_rest(ball).range();
    centre.into_iter().flat_map(|c| [low - c, c - high]).fold(f64::MIN, f64::max)
}

fn ball_at_rest(ball: usize) -> Ball {
    let (radius, colour) = BALLS[ball];
    Ball { centre: [0.5; 2], velocity: [0.0; 2], radius, colour }
}

/// The centre of ball `ball` in the picture, if exactly one of its colour is there and has about its size.
pub(super) fn find(frame: &Frame, ball: usize) -> Option<[f64; 2]> {
    let Size { width, height } = frame.size();
    let (width, height) = (width as usize, height as usize);
    let side = width.min(height) as f64;
    let colour = BALLS[ball].1;
    let shares: Vec<f64> = frame.rgb().chunks_exact(3).map(|pixel| share_of(colour, pixel)).collect();

    let expected = std::f64::consts::PI * (BALLS[ball].0 * side).powi(2);
    let area: f64 = shares.iter().sum();
    if (area / expected - 1.0).abs() > AREA_TOLERANCE || spots(&shares, width, SPOT * expected) != 1 {
        return None;
    }
    let [left, top] = [(width as f64 - side) / 2.0, (height as f64 - side) / 2.0];
    let (mut x, mut y) = (0.0, 0.0);
    for (index, share) in shares.iter().enumerate() {
        x += share * ((index % width) as f64 + 0.5);
        y += share * ((index / width) as f64 + 0.5);
    }
    Some([(x / area - left) / side, (y / area - top) / side])
}

/// How much of `pixel` is `colour`, the rest being background; 0 for other mixtures and for little.
fn share_of(colour: [u8; 3], pixel: &[u8]) -> f64 {
    let from_background = |channel: usize, value: u8| f64::from(value) - f64::from(BACKGROUND[channel]);
    let ball: [f64; 3] = std::array::from_fn(|c| from_background(c, colour[c]));
    let here: [f64; 3] = std::array::from_fn(|c| from_background(c, pixel[c]));
    let product = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let share = (product(&here, &ball) / product(&ball, &ball)).clamp(0.0, 1.0);
    let rest: [f64; 3] = std::array::from_fn(|c| here[c] - share * ball[c]);
    if share < LEAST_SHARE || product(&rest, &rest).sqrt() > COLOUR_TOLERANCE { 0.0 } else { share }
}

/// Connected regions of a picture `width` wide in which a ball prevails, each of at least `least` pixels.
fn spots(shares: &[f64], width: usize, least: f64) -> usize {
    let mut open: Vec<bool> = shares.iter().map(|&share| share > 0.5).collect();
    let mut found = 0;
    for start in 0..open.len() {
        let (mut pending, mut pixels) = (vec![start], 0.0);
        while let Some(pixel) = pending.pop() {
            if !std::mem::replace(&mut open[pixel], false) {
                continue;
            }
            pixels += 1.0;
            let column = pixel % width;
            pending.extend((column > 0).then(|| pixel - 1));
            pending.extend((column + 1 < width).then_some(pixel + 1));
            pending.extend(pixel.checked_sub(width));
            pending.extend(Some(pixel + width).filter(|&below| below < open.len()));
        }
        found += usize::from(pixels >= least);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{FRAMES_PER_BLOCK, State, WALL_WIDTH, World, render};
    use super::*;

    const SIZE: Size = Size { width: 64, height: 64 };

    /// The judge's view of `blocks` true blocks, painted after `change`, under labels after `told`.
    fn judged(blocks: usize, change: impl Fn(usize, &mut State), told: impl Fn(usize) -> usize) -> Report {
        let (mut world, mut judge) = (World::new(3), Judge::default());
        for block in 0..blocks {
            let label = world.next_label();
            let mut states = world.block(label);
            let frames: Vec<_> = (states.iter_mut().enumerate())
                .map(|(frame, state)| {
                    change(block * FRAMES_PER_BLOCK + frame, state);
                    render(state, SIZE).unwrap()
                })
                .collect();
            judge.block(&frames, told(label));
        }
        judge.report()
    }

    #[test]
    fn truth_passes() {
        let Report { overall, windows } = judged(500, |_, _| (), |label| label);
        assert_eq!((overall.frames, overall.two_balls, windows.len()), (2000, 2000, 20));
        assert!(overall.measured > 150 && overall.obeyed_share().unwrap() > 0.995, "{overall:?}");
        assert!(overall.into_wall < 0.1 / 64.0, "{overall:?}");
        assert!((0.01..0.3).contains(&overall.still_share().unwrap()), "{overall:?}");
        assert_eq!(windows.iter().map(|window| window.measured).sum::<u64>(), overall.measured);
    }

    #[test]
    fn wrong_labels_are_not_obeyed() {
        let overall = judged(500, |_, _| (), |label| (label + 1) % LABELS.len()).overall;
        assert!(overall.measured > 150 && overall.obeyed_share().unwrap() < 0.005, "{overall:?}");
    }

    #[test]
    fn balls_that_are_not_there_or_not_right_are_missed() {
        let frames = |change: fn(usize, &mut State)| judged(25, change, |label| label).overall.two_balls;
        assert_eq!(frames(|_, _| ()), 100);
        // gone in every fourth frame
        assert_eq!(frames(|frame, state| state.balls[1].radius *= f64::from(u8::from(frame % 4 != 0))), 75);
        assert_eq!(frames(|_, state| state.balls[1].radius *= 0.75), 0);
        assert_eq!(frames(|_, state| state.balls[0].radius *= 1.25), 0);
        assert_eq!(frames(|_, state| state.balls[1].colour = [200, 80, 200]), 0);
    }

    #[test]
    fn a_second_ball_of_a_colour_is_one_too_many() {
        let state = *World::new(4).state();
        let mut twin = state;
        // a blue ball in the far corner, painted into a frame whose own blue ball is kept
        twin.balls[0].radius = 0.0;
        twin.balls[1].centre = state.balls[1].centre.map(|c| if c < 0.5 { 0.85 } else { 0.15 });
        let (one, other) = (render(&state, SIZE).unwrap(), render(&twin, SIZE).unwrap());
        let blended: Vec<u8> = one.rgb().iter().zip(other.rgb()).map(|(&a, &b)| a.max(b)).collect();
        let both = Frame::new(SIZE, blended).unwrap();
        assert!(find(&one, 1).is_some() && find(&both, 1).is_none());
    }

    #[test]
    fn centres_are_found_to_a_tenth_of_a_pixel_at_any_size() {
        for size in [SIZE, Size { width: 160, height: 90 }] {
            for seed in 0..20 {
                let state = *World::new(seed).state();
                let frame = render(&state, size).unwrap();
                for (index, ball) in state.balls.iter().enumerate() {
                    let off = norm(sub(find(&frame, index).unwrap(), ball.centre));
                    assert!(off * 64.0 < 0.1, "{off}");
                }
            }
        }
    }

    #[test]
    fn a_ball_in_the_wall_is_seen() {
        let sunk = |_: usize, state: &mut State| {
            state.balls[0].centre = [0.15, 0.5];
            state.balls[1].centre = [0.7, 0.5];
        };
        let depth = judged(1, sunk, |label| label).overall.into_wall;
        assert!((depth - WALL_WIDTH).abs() < 0.1 / 64.0, "{depth}");
    }
}
