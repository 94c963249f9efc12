//! `gravity`: a procedural world of two balls in a box, steered by the direction of gravity.
//!
//! It exists so that a clone can train, test and ship a steerable world without downloading anything. The rules
//! are chosen for what a small model can learn. The balls differ in colour *and* size and never overlap, so each keeps
//! its identity. Walls, contacts and drag lose energy and a label holds for a few blocks only, so motion is stationary:
//! it neither explodes nor dies, and lying still on a wall is as much a part of the data as flying. Clips start after
//! a burn-in, in that stationary state, because a model that only ever saw starts from rest could not stream for ever.
//!
//! Lengths are fractions of the box, times are frames, and everything follows from one `u64` seed.

pub mod judge;
pub mod tracker;

use acdit_codec::{Error, Frame, Size};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::procedural::FRAMES_PER_BLOCK;

/// No ball ever moves further than this between two frames, as a fraction of the box.
pub const MAX_SPEED: f64 = 0.07;

/// One steering command: its index in [`LABELS`] is the class the network is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// What a page writes on the button.
    pub name: &'static str,
    /// The `KeyboardEvent.key` that sends it.
    pub key: &'static str,
    /// Unit vector along which the balls accelerate; y grows downwards.
    pub direction: [f64; 2],
}

/// The directions of gravity, in class order.
pub const LABELS: [Label; 5] = [
    Label { name: "none", key: "n", direction: [0.0, 0.0] },
    Label { name: "down", key: "ArrowDown", direction: [0.0, 1.0] },
    Label { name: "up", key: "ArrowUp", direction: [0.0, -1.0] },
    Label { name: "left", key: "ArrowLeft", direction: [-1.0, 0.0] },
    Label { name: "right", key: "ArrowRight", direction: [1.0, 0.0] },
];

/// Radius (fraction of the box) and colour of each ball.
const BALLS: [(f64, [u8; 3]); 2] = [(0.150, [255, 146, 43]), (0.095, [64, 201, 255])];
const BACKGROUND: [u8; 3] = [22, 26, 46];
const WALL: [u8; 3] = [62, 70, 110];
/// Thickness of the painted wall and so the margin that the balls keep to the edge of the picture.
const WALL_WIDTH: f64 = 1.0 / 32.0;

/// Box lengths per frame, squared frame and frame; a fall through the whole box takes about five blocks.
const ACCELERATION: f64 = 0.005;
/// Quadratic drag, per box length: strong on fast balls, nearly nothing on slow ones, so drifting goes on for long.
const DRAG: f64 = 0.9;
const WALL_RESTITUTION: f64 = 0.7;
const BALL_RESTITUTION: f64 = 0.9;
/// Share of the sliding speed lost per substep of contact with a wall.
const WALL_FRICTION: f64 = 0.01;
/// At [`MAX_SPEED`] a substep moves a ball by a tenth of the smaller radius: contacts cannot be missed.
const SUBSTEPS: usize = 8;
/// Rounds of pushing apart and back into the box; each at least halves what is left of an overlap.
const SEPARATION_ROUNDS: usize = 24;
const BURN_IN_BLOCKS: usize = 48;

/// A ball at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ball {
    /// Centre in box lengths; (0, 0) is the top left corner of the picture.
    pub centre: [f64; 2],
    /// Box lengths per frame.
    pub velocity: [f64; 2],
    /// Radius in box lengths.
    pub radius: f64,
    /// sRGB.
    pub colour: [u8; 3],
}

/// What one frame shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State {
    /// The larger ball first.
    pub balls: [Ball; 2],
}

/// The simulator: a state, and the random numbers that place the balls and pick labels.
#[derive(Debug, Clone)]
pub struct World {
    state: State,
    rng: ChaCha8Rng,
    label: usize,
    blocks_left: usize,
}

impl World {
    /// A world in its stationary state, reached by running randomly labelled blocks from a random placement.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let state = State::random(&mut rng);
        let mut world = Self { state, rng, label: 0, blocks_left: 0 };
        for _ in 0..BURN_IN_BLOCKS {
            let label = world.next_label();
            world.block(label);
        }
        world
    }

    /// The state that the last frame showed.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Draws the label of the next block: each holds for 1 to 5 blocks, now and then long enough to come to rest.
    pub fn next_label(&mut self) -> usize {
        if self.blocks_left == 0 {
            self.label = self.rng.random_range(0..LABELS.len());
            let longest = if self.rng.random_bool(0.25) { 20 } else { 5 };
            self.blocks_left = self.rng.random_range(1..=longest);
        }
        self.blocks_left -= 1;
        self.label
    }

    /// Advances one block under `label` and returns the state at each of its frames.
    ///
    /// # Panics
    /// When `label` is not an index into [`LABELS`].
    pub fn block(&mut self, label: usize) -> [State; FRAMES_PER_BLOCK] {
        let states = self.state.block(label);
        [.., self.state] = states;
        states
    }

    /// Advances one frame under `label`; see [`World::block`].
    ///
    /// # Panics
    /// When `label` is not an index into [`LABELS`].
    pub fn step(&mut self, label: usize) -> State {
        self.state.step(label);
        self.state
    }
}

impl State {
    /// Both balls at random places of the box, apart, each moving in a random direction.
    pub fn random(rng: &mut impl Rng) -> Self {
        loop {
            let balls = BALLS.map(|(radius, colour)| {
                let margin = WALL_WIDTH + radius;
                let mut place = || rng.random_range(margin..=1.0 - margin);
                let centre = [place(), place()];
                let mut speed = || rng.random_range(-0.5..=0.5) * MAX_SPEED;
                Ball { centre, velocity: [speed(), speed()], radius, colour }
            });
            let state = Self { balls };
            if state.gap() >= 0.0 {
                return state;
            }
        }
    }

    /// Distance between the rims of the balls, negative where they overlap.
    pub fn gap(&self) -> f64 {
        let [a, b] = &self.balls;
        norm(sub(b.centre, a.centre)) - a.radius - b.radius
    }

    /// How the next block goes on from here under `label`.
    fn block(mut self, label: usize) -> [Self; FRAMES_PER_BLOCK] {
        std::array::from_fn(|_| {
            self.step(label);
            self
        })
    }

    fn step(&mut self, label: usize) {
        let direction = LABELS[label].direction;
        for _ in 0..SUBSTEPS {
            self.substep(direction);
        }
    }

    fn substep(&mut self, direction: [f64; 2]) {
        const DT: f64 = 1.0 / SUBSTEPS as f64;
        for ball in &mut self.balls {
            ball.accelerate(direction, DT);
            for axis in 0..2 {
                ball.centre[axis] += ball.velocity[axis] * DT;
            }
            ball.bounce_off_walls();
        }
        self.collide();
    }

    /// Exchanges momentum along the line of centres, masses being areas, and undoes any overlap.
    fn collide(&mut self) {
        if self.gap() >= 0.0 {
            return;
        }
        let [a, b] = &mut self.balls;
        let normal = direction(a.centre, b.centre);
        let [mass_a, mass_b] = [a.radius * a.radius, b.radius * b.radius];
        let approach = dot(sub(a.velocity, b.velocity), normal);
        if approach > 0.0 {
            let impulse = (1.0 + BALL_RESTITUTION) * approach / (1.0 / mass_a + 1.0 / mass_b);
            a.velocity = add_scaled(a.velocity, normal, -impulse / mass_a);
            b.velocity = add_scaled(b.velocity, normal, impulse / mass_b);
            a.limit_speed();
            b.limit_speed();
        }
        let share_a = mass_b / (mass_a + mass_b);
        for _ in 0..SEPARATION_ROUNDS {
            let overlap = -self.gap();
            if overlap <= 0.0 {
                break;
            }
            let [a, b] = &mut self.balls;
            let normal = direction(a.centre, b.centre);
            a.centre = add_scaled(a.centre, normal, -overlap * share_a);
            b.centre = add_scaled(b.centre, normal, overlap * (1.0 - share_a));
            a.keep_inside();
            b.keep_inside();
        }
    }
}

impl Ball {
    /// Drag, and gravity along `direction`, for `dt` frames.
    fn accelerate(&mut self, direction: [f64; 2], dt: f64) {
        let drag = 1.0 - DRAG * norm(self.velocity) * dt;
        for (axis, pull) in direction.iter().enumerate() {
            self.velocity[axis] = self.velocity[axis] * drag + pull * ACCELERATION * dt;
        }
        self.limit_speed();
    }

    fn limit_speed(&mut self) {
        let speed = norm(self.velocity);
        if speed > MAX_SPEED {
            self.velocity = self.velocity.map(|v| v * MAX_SPEED / speed);
        }
    }

    fn bounce_off_walls(&mut self) {
        let (low, high) = self.range();
        for axis in 0..2 {
            let towards_wall = (self.centre[axis] < low && self.velocity[axis] < 0.0)
                || (self.centre[axis] > high && self.velocity[axis] > 0.0);
            if towards_wall {
                self.velocity[axis] *= -WALL_RESTITUTION;
                self.velocity[1 - axis] *= 1.0 - WALL_FRICTION;
            }
        }
        self.keep_inside();
    }

    fn keep_inside(&mut self) {
        let (low, high) = self.range();
        self.centre = self.centre.map(|c| c.clamp(low, high));
    }

    /// Where the centre may be, the same on both axes.
    fn range(&self) -> (f64, f64) {
        let margin = WALL_WIDTH + self.radius;
        (margin, 1.0 - margin)
    }
}

/// Paints `state` with smooth rims. The box is the largest centred square of the picture; the rest is wall.
///
/// # Errors
/// [`Error::Size`] for an empty picture.
pub fn render(state: &State, size: Size) -> Result<Frame, Error> {
    let (width, height) = (size.width as usize, size.height as usize);
    let side = width.min(height) as f64;
    let [left, top] = [(width as f64 - side) / 2.0, (height as f64 - side) / 2.0];
    let mut rgb = vec![0; width * height * 3];

    let inner = |origin: f64| (origin + WALL_WIDTH * side, origin + (1.0 - WALL_WIDTH) * side);
    let columns: Vec<f64> = (0..width).map(|x| covered(x, inner(left))).collect();
    for (y, row) in rgb.chunks_exact_mut(width.max(1) * 3).enumerate() {
        let inside_row = covered(y, inner(top));
        for (pixel, column) in row.chunks_exact_mut(3).zip(&columns) {
            pixel.copy_from_slice(&blend(WALL, BACKGROUND, inside_row * column));
        }
    }
    for ball in &state.balls {
        let (cx, cy) = (left + ball.centre[0] * side, top + ball.centre[1] * side);
        let radius = ball.radius * side;
        let span = |centre: f64, limit: usize| {
            let first = (centre - radius - 1.0).max(0.0) as usize;
            first..((centre + radius + 2.0).max(0.0) as usize).min(limit)
        };
        for y in span(cy, height) {
            for x in span(cx, width) {
                let distance = (x as f64 + 0.5 - cx).hypot(y as f64 + 0.5 - cy);
                let alpha = (radius - distance + 0.5).clamp(0.0, 1.0);
                if alpha > 0.0 {
                    let pixel = &mut rgb[(y * width + x) * 3..][..3];
                    let under = [pixel[0], pixel[1], pixel[2]];
                    pixel.copy_from_slice(&blend(under, ball.colour, alpha));
                }
            }
        }
    }
    Frame::new(size, rgb)
}

/// A clip of `blocks` blocks from the stationary state: its frames, and the label of every block.
///
/// # Errors
/// [`Error::Size`] for an empty picture.
pub fn trajectory(seed: u64, blocks: usize, size: Size) -> Result<(Vec<Frame>, Vec<usize>), Error> {
    let mut world = World::new(seed);
    let labels: Vec<usize> = (0..blocks).map(|_| world.next_label()).collect();
    let states = labels.iter().flat_map(|&label| world.block(label));
    let frames = states.map(|state| render(&state, size)).collect::<Result<_, _>>()?;
    Ok((frames, labels))
}

/// How much of pixel `index`, which spans `index..index + 1`, lies in `low..high`.
fn covered(index: usize, (low, high): (f64, f64)) -> f64 {
    let start = index as f64;
    ((start + 1.0).min(high) - start.max(low)).clamp(0.0, 1.0)
}

fn blend(under: [u8; 3], over: [u8; 3], alpha: f64) -> [u8; 3] {
    std::array::from_fn(|i| (f64::from(under[i]) * (1.0 - alpha) + f64::from(over[i]) * alpha).round() as u8)
}

/// Unit vector from `a` to `b`; an arbitrary one where they coincide.
fn direction(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    let between = sub(b, a);
    let length = norm(between);
    if length > 1e-9 { between.map(|d| d / length) } else { [1.0, 0.0] }
}

fn sub(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] - b[0], a[1] - b[1]]
}

fn dot(a: [f64; 2], b: [f64; 2]) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}

fn norm(a: [f64; 2]) -> f64 {
    dot(a, a).sqrt()
}

fn add_scaled(a: [f64; 2], b: [f64; 2], scale: f64) -> [f64; 2] {
    [a[0] + b[0] * scale, a[1] + b[1] * scale]
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: usize = 1;

    #[test]
    fn a_seed_fixes_the_clip() {
        let size = Size { width: 32, height: 32 };
        let (frames, labels) = trajectory(3, 5, size).unwrap();
        assert_eq!((frames.len(), labels.len()), (5 * FRAMES_PER_BLOCK, 5));
        assert_eq!(trajectory(3, 5, size).unwrap(), (frames.clone(), labels));
        assert_ne!(trajectory(4, 5, size).unwrap().0, frames);
    }

    #[test]
    fn balls_stay_apart_inside_and_slow_for_100_000_frames() {
        let mut world = World::new(1);
        let mut before = *world.state();
        let (mut deepest, mut still, mut moved) = (0.0f64, 0, 0.0);
        for _ in 0..25_000 {
            let label = world.next_label();
            for state in world.block(label) {
                deepest = deepest.max(-state.gap());
                let mut shift = 0.0f64;
                for (ball, old) in state.balls.iter().zip(&before.balls) {
                    let (low, high) = ball.range();
                    assert!(ball.centre.iter().all(|c| (low..=high).contains(c)), "{ball:?}");
                    assert!(norm(ball.velocity) <= MAX_SPEED * (1.0 + 1e-9), "{ball:?}");
                    shift = shift.max(norm(sub(ball.centre, old.centre)));
                }
                still += usize::from(shift < 0.002);
                moved += shift;
                before = state;
            }
        }
        assert!(deepest < 1e-3, "overlap of {deepest} box lengths");
        let (still, moved) = (still as f64 / 1e5, moved / 1e5);
        assert!((0.03..0.3).contains(&still), "share of frames at rest: {still}");
        assert!((0.01..MAX_SPEED).contains(&moved), "mean motion per frame: {moved}");
    }

    #[test]
    fn both_balls_come_to_rest_where_the_label_says() {
        for (label, Label { direction, .. }) in LABELS.iter().enumerate().skip(1) {
            let mut world = World::new(7);
            for _ in 0..100 {
                world.block(label);
            }
            for ball in &world.state().balls {
                let (low, high) = ball.range();
                for (centre, pull) in ball.centre.into_iter().zip(*direction) {
                    let wall = if pull > 0.0 { high } else { low };
                    assert!(pull == 0.0 || (centre - wall).abs() < 1e-3, "{label}: {ball:?}");
                }
                assert!(norm(ball.velocity) < 0.002, "{label}: {ball:?}");
            }
        }
    }

    #[test]
    fn without_gravity_energy_only_falls_and_slowly() {
        let energy = |state: &State| -> f64 {
            state.balls.iter().map(|b| b.radius * b.radius * dot(b.velocity, b.velocity)).sum()
        };
        let mut world = World::new(11);
        world.block(DOWN);
        let start = energy(world.state());
        let mut last = start;
        for _ in 0..20 {
            let now = energy(&world.step(0));
            assert!(now <= last, "energy rose from {last} to {now}");
            last = now;
        }
        assert!(last > 0.2 * start, "{last} of {start} left after 20 frames");
    }

    #[test]
    fn a_falling_ball_follows_newton() {
        let mut world = World::new(0);
        let place = |centre, (radius, colour)| Ball { centre, velocity: [0.0; 2], radius, colour };
        world.state.balls = [place([0.25, 0.2], BALLS[0]), place([0.75, 0.2], BALLS[1])];
        for _ in 0..5 {
            world.step(DOWN);
        }
        for ball in &world.state.balls {
            let fallen = ball.centre[1] - 0.2;
            assert!((fallen - 0.5 * ACCELERATION * 25.0).abs() < 0.1 * fallen, "{fallen}");
            assert_eq!(ball.velocity[0], 0.0);
        }
    }

    #[test]
    fn centres_show_the_balls_colours_at_any_size() {
        for size in [Size { width: 64, height: 64 }, Size { width: 160, height: 90 }] {
            let state = *World::new(5).state();
            let frame = render(&state, size).unwrap();
            let side = f64::from(size.width.min(size.height));
            let pixel = |x: f64, y: f64| {
                let left = (f64::from(size.width) - side) / 2.0;
                let index = ((y * side) as usize * size.width as usize + (left + x * side) as usize) * 3;
                frame.rgb()[index..index + 3].to_vec()
            };
            for ball in &state.balls {
                assert_eq!(pixel(ball.centre[0], ball.centre[1]), ball.colour);
            }
            assert_eq!(frame.rgb()[..3], WALL);
        }
        assert!(matches!(render(World::new(5).state(), Size { width: 0, height: 9 }), Err(Error::Size(_))));
    }

    #[test]
    fn a_rim_pixel_is_mixed_by_coverage() {
        assert_eq!(blend([0, 100, 200], [100, 0, 200], 0.25), [25, 75, 200]);
        assert_eq!([1, 2, 3].map(|x| covered(x, (1.5, 3.0))), [0.5, 1.0, 0.0]);
    }
}
