//! `maze`: a procedural world seen from inside, steered by walking and turning.
//!
//! A random maze of square cells is walked at eye height; walls are textured and coloured by their place, so that a
//! model has something to remember. The walker slides along walls and never enters one. What one sees is cast ray by
//! ray, and everything follows from one `u64` seed.
//!
//! Lengths are cells, angles radians, times frames.

pub mod judge;

use std::f64::consts::TAU;

use acdit_codec::{Error, Frame, Size};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::procedural::FRAMES_PER_BLOCK;

/// One steering command: its index in [`LABELS`] is the class the network is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// What a page writes on the button.
    pub name: &'static str,
    /// The `KeyboardEvent.key` that sends it.
    pub key: &'static str,
    /// Cells walked in a frame.
    pace: f64,
    /// Turn to the right in a frame.
    turn: f64,
}

/// A right angle takes four blocks.
const TURN: f64 = TAU / 64.0;
/// A cell takes three blocks and a little.
const PACE: f64 = 0.08;

/// What the walker can do, in class order.
pub const LABELS: [Label; 4] = [
    Label { name: "stay", key: "ArrowDown", pace: 0.0, turn: 0.0 },
    Label { name: "forward", key: "ArrowUp", pace: PACE, turn: 0.0 },
    Label { name: "left", key: "ArrowLeft", pace: 0.0, turn: -TURN },
    Label { name: "right", key: "ArrowRight", pace: 0.0, turn: TURN },
];
const STAY: usize = 0;
const FORWARD: usize = 1;
const TURNS: [usize; 2] = [2, 3];

/// Rooms along a side; between two rooms is a cell that is wall or passage.
const ROOMS: usize = 6;
const CELLS: usize = 2 * ROOMS + 1;
/// Share of the walls between rooms that are opened beyond what joins all rooms, so that there are ways round.
const LOOPS: f64 = 0.15;
/// Room that the walker keeps to every wall.
const WALKER: f64 = 0.25;
/// Half of the field of view's width at distance 1: 66 degrees.
const HALF_VIEW: f64 = 0.65;
/// Distance at which light has fallen to 1/e.
const FOG: f64 = 5.0;
const BURN_IN_BLOCKS: usize = 48;
/// Samples along a side of a pixel.
const SAMPLES: usize = 2;

const CEILING: [f64; 3] = [40.0, 46.0, 66.0];
const FLOOR: [[f64; 3]; 2] = [[96.0, 88.0, 80.0], [66.0, 60.0, 56.0]];
const MORTAR: [f64; 3] = [52.0, 48.0, 50.0];
/// Colours of walls; which one a cell has follows from its place.
const BRICKS: [[f64; 3]; 6] = [
    [206.0, 92.0, 70.0],
    [84.0, 156.0, 214.0],
    [222.0, 178.0, 74.0],
    [108.0, 184.0, 112.0],
    [172.0, 112.0, 196.0],
    [214.0, 214.0, 206.0],
];

/// Where the walker stands and looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// Position; x grows to the east and y to the south.
    pub position: [f64; 2],
    /// Direction of view, clockwise from east.
    pub heading: f64,
}

/// Which cells are wall, and of which colour.
#[derive(Debug, Clone, PartialEq)]
pub struct Maze {
    /// Row by row; `None` for a free cell, else the index of its bricks' colour.
    cells: Vec<Option<usize>>,
}

/// The simulator: a maze, a walker in it, and the random numbers that move it.
#[derive(Debug, Clone)]
pub struct World {
    maze: Maze,
    pose: Pose,
    rng: ChaCha8Rng,
    label: usize,
    blocks_left: usize,
    blocked: bool,
}

impl World {
    /// A walker in a random maze who has been about for a while: near walls and in corners as often as later.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let maze = Maze::random(&mut rng);
        let mut room = || (2 * rng.random_range(0..ROOMS) + 1) as f64 + 0.5;
        let position = [room(), room()];
        let pose = Pose { position, heading: rng.random_range(0.0..TAU) };
        let mut world = Self { maze, pose, rng, label: STAY, blocks_left: 0, blocked: false };
        for _ in 0..BURN_IN_BLOCKS {
            let label = world.next_label();
            world.block(label);
        }
        world
    }

    /// Where the last frame was seen from.
    pub fn pose(&self) -> Pose {
        self.pose
    }

    /// The maze.
    pub fn maze(&self) -> &Maze {
        &self.maze
    }

    /// Draws the label of the next block: mostly walking, and turning where a wall stops it.
    pub fn next_label(&mut self) -> usize {
        let stuck = self.blocked && self.label == FORWARD && self.rng.random_bool(0.8);
        if self.blocks_left == 0 || stuck {
            let turn = *TURNS.choose(&mut self.rng).expect("there are two");
            let drawn: f64 = self.rng.random();
            (self.label, self.blocks_left) = match drawn {
                _ if stuck => (turn, self.rng.random_range(2..=6)),
                d if d < 0.55 => (FORWARD, self.rng.random_range(1..=8)),
                d if d < 0.9 => (turn, self.rng.random_range(1..=4)),
                _ => (STAY, self.rng.random_range(1..=3)),
            };
        }
        self.blocks_left -= 1;
        self.label
    }

    /// Advances one block under `label` and returns where each of its frames is seen from.
    ///
    /// # Panics
    /// When `label` is not an index into [`LABELS`].
    pub fn block(&mut self, label: usize) -> [Pose; FRAMES_PER_BLOCK] {
        let before = self.pose.position;
        let poses = std::array::from_fn(|_| {
            self.pose = self.maze.walked(self.pose, &LABELS[label]);
            self.pose
        });
        let moved = (self.pose.position[0] - before[0]).hypot(self.pose.position[1] - before[1]);
        self.blocked = moved < 0.5 * PACE * FRAMES_PER_BLOCK as f64;
        poses
    }
}

impl Maze {
    /// Rooms joined by a random spanning tree, and some walls between rooms opened on top.
    fn random(rng: &mut impl Rng) -> Self {
        let mut cells: Vec<Option<usize>> =
            (0..CELLS * CELLS).map(|_| Some(rng.random_range(0..BRICKS.len()))).collect();
        let at = |x: usize, y: usize| y * CELLS + x;
        let start: (usize, usize) = (1, 1);
        cells[at(1, 1)] = None;
        let mut path = vec![start];
        while let Some(&(x, y)) = path.last() {
            let around = [(x + 2, y), (x.wrapping_sub(2), y), (x, y + 2), (x, y.wrapping_sub(2))];
            let closed: Vec<_> = (around.into_iter())
                .filter(|&(x, y)| x < CELLS && y < CELLS && cells[at(x, y)].is_some())
                .collect();
            match closed.choose(rng) {
                Some(&(to_x, to_y)) => {
                    cells[at((x + to_x) / 2, (y + to_y) / 2)] = None;
                    cells[at(to_x, to_y)] = None;
                    path.push((to_x, to_y));
                }
                None => {
                    path.pop();
                }
            }
        }
        for y in 1..CELLS - 1 {
            for x in 1..CELLS - 1 {
                if (x + y) % 2 == 1 && rng.random_bool(LOOPS) {
                    cells[at(x, y)] = None;
                }
            }
        }
        Self { cells }
    }

    /// The colour of the wall at a point, `None` where it is free. Outside of the maze all is wall.
    fn wall(&self, x: f64, y: f64) -> Option<usize> {
        let inside = |c: f64| (0.0..CELLS as f64).contains(&c).then_some(c as usize);
        match (inside(x), inside(y)) {
            (Some(x), Some(y)) => self.cells[y * CELLS + x],
            _ => Some(0),
        }
    }

    /// Whether the walker fits at a point.
    fn fits(&self, [x, y]: [f64; 2]) -> bool {
        [(-WALKER, -WALKER), (WALKER, -WALKER), (-WALKER, WALKER), (WALKER, WALKER)]
            .iter()
            .all(|(dx, dy)| self.wall(x + dx, y + dy).is_none())
    }

    /// One frame's step: a turn, and a walk that slides along what stands in its way.
    fn walked(&self, pose: Pose, label: &Label) -> Pose {
        let heading = (pose.heading + label.turn).rem_euclid(TAU);
        let mut position = pose.position;
        for (axis, share) in [heading.cos(), heading.sin()].into_iter().enumerate() {
            let mut tried = position;
            tried[axis] += share * label.pace;
            if self.fits(tried) {
                position = tried;
            }
        }
        Pose { position, heading }
    }

    /// The first wall along a ray from `position`: its distance in lengths of `ray`, its colour, where along its side the
    /// ray meets it (0 to 1), and whether that side faces east or west.
    fn cast(&self, position: [f64; 2], ray: [f64; 2]) -> Hit {
        let mut cell = position.map(f64::floor);
        // per axis: distance between two grid lines, and to the next
        let between = ray.map(|r| if r == 0.0 { f64::INFINITY } else { 1.0 / r.abs() });
        let mut next: [f64; 2] = std::array::from_fn(|axis| {
            let ahead =
                if ray[axis] > 0.0 { cell[axis] + 1.0 - position[axis] } else { position[axis] - cell[axis] };
            if ray[axis] == 0.0 { f64::INFINITY } else { ahead * between[axis] }
        });
        loop {
            let axis = usize::from(next[1] < next[0]);
            let distance = next[axis];
            cell[axis] += ray[axis].signum();
            next[axis] += between[axis];
            if let Some(bricks) = self.wall(cell[0] + 0.5, cell[1] + 0.5) {
                let along = position[1 - axis] + distance * ray[1 - axis];
                return Hit { distance, bricks, along: along.rem_euclid(1.0), faces_x: axis == 0 };
            }
        }
    }
}

struct Hit {
    distance: f64,
    bricks: usize,
    along: f64,
    faces_x: bool,
}

/// What is seen from `pose`.
///
/// # Errors
/// [`Error::Size`] for an empty picture.
pub fn render(maze: &Maze, pose: Pose, size: Size) -> Result<Frame, Error> {
    let (width, height) = (size.width as usize, size.height as usize);
    let (forward, right) =
        ([pose.heading.cos(), pose.heading.sin()], [-pose.heading.sin(), pose.heading.cos()]);
    let fine = (width * SAMPLES) as f64;
    // pixels, finer by SAMPLES, that a unit length covers at distance 1
    let scale = fine / (2.0 * HALF_VIEW);
    let middle = (height * SAMPLES) as f64 / 2.0;
    let mut sums = vec![[0.0; 3]; width * height];
    for column in 0..width * SAMPLES {
        let aside = ((column as f64 + 0.5) / fine * 2.0 - 1.0) * HALF_VIEW;
        let ray = [forward[0] + aside * right[0], forward[1] + aside * right[1]];
        let hit = maze.cast(pose.position, ray);
        for row in 0..height * SAMPLES {
            let below = row as f64 + 0.5 - middle;
            let up = 0.5 - below * hit.distance / scale; // height of the wall's point seen here, 0 to 1
            let colour = if (0.0..1.0).contains(&up) {
                lit(bricks(&hit, up), hit.distance)
            } else {
                let distance = 0.5 * scale / below.abs();
                let tile =
                    [0, 1].map(|axis| (2.0 * (pose.position[axis] + distance * ray[axis])).floor() as i64);
                let ground = FLOOR[(tile[0] + tile[1]).rem_euclid(2) as usize];
                lit(if below > 0.0 { ground } else { CEILING }, distance)
            };
            let sum = &mut sums[row / SAMPLES * width + column / SAMPLES];
            for (sum, channel) in sum.iter_mut().zip(colour) {
                *sum += channel;
            }
        }
    }
    let samples = (SAMPLES * SAMPLES) as f64;
    Frame::new(size, sums.iter().flatten().map(|sum| (sum / samples).round() as u8).collect())
}

/// Four courses of two bricks to a cell, every other course shifted by half a brick.
fn bricks(hit: &Hit, up: f64) -> [f64; 3] {
    let course = (up * 4.0).floor();
    let along = hit.along * 2.0 + 0.5 * course.rem_euclid(2.0);
    let mortar = (up * 4.0).fract() < 0.12 || along.fract() < 0.06;
    let shade = if hit.faces_x { 1.0 } else { 0.75 };
    if mortar { MORTAR } else { BRICKS[hit.bricks] }.map(|channel| channel * shade)
}

fn lit(colour: [f64; 3], distance: f64) -> [f64; 3] {
    colour.map(|channel| channel * (-distance / FOG).exp())
}

/// A clip of `blocks` blocks: its frames, and the label of every block.
///
/// # Errors
/// [`Error::Size`] for an empty picture.
pub fn trajectory(seed: u64, blocks: usize, size: Size) -> Result<(Vec<Frame>, Vec<usize>), Error> {
    let mut world = World::new(seed);
    let (mut frames, mut labels) =
        (Vec::with_capacity(blocks * FRAMES_PER_BLOCK), Vec::with_capacity(blocks));
    for _ in 0..blocks {
        let label = world.next_label();
        labels.push(label);
        for pose in world.block(label) {
            frames.push(render(&world.maze, pose, size)?);
        }
    }
    Ok((frames, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 64, height: 64 };

    /// A maze of one straight corridor from west to east, one cell wide.
    fn corridor() -> Maze {
        let free = |x: usize, y: usize| y == 5 && (1..CELLS - 1).contains(&x);
        Maze { cells: (0..CELLS * CELLS).map(|i| (!free(i % CELLS, i / CELLS)).then_some(0)).collect() }
    }

    #[test]
    fn a_seed_fixes_the_clip() {
        let size = Size { width: 32, height: 24 };
        let clip = trajectory(3, 6, size).unwrap();
        assert_eq!((clip.0.len(), clip.1.len()), (24, 6));
        assert_eq!(trajectory(3, 6, size).unwrap(), clip);
        assert_ne!(trajectory(4, 6, size).unwrap().0, clip.0);
    }

    #[test]
    fn all_rooms_are_joined_and_the_rim_is_closed() {
        for seed in 0..20 {
            let maze = World::new(seed).maze;
            let free = |cell: usize| maze.cells[cell].is_none();
            let mut reached = [false; CELLS * CELLS];
            let mut pending = vec![CELLS + 1];
            while let Some(cell) = pending.pop() {
                if free(cell) && !std::mem::replace(&mut reached[cell], true) {
                    pending.extend([cell - 1, cell + 1, cell - CELLS, cell + CELLS]);
                }
            }
            for (cell, reached) in reached.into_iter().enumerate() {
                let (x, y) = (cell % CELLS, cell / CELLS);
                assert_eq!(reached, free(cell), "{x}, {y} cannot be reached");
                assert!(free(cell) || x % 2 == 0 || y % 2 == 0, "{x}, {y} is a room");
                assert!(!free(cell) || (1..CELLS - 1).contains(&x) && (1..CELLS - 1).contains(&y));
            }
        }
    }

    #[test]
    fn the_walker_gets_about_and_never_into_a_wall() {
        let mut world = World::new(1);
        let (mut counts, mut rooms, mut moved) = ([0; LABELS.len()], std::collections::BTreeSet::new(), 0);
        for _ in 0..10_000 {
            let label = world.next_label();
            counts[label] += 1;
            let before = world.pose().position;
            world.block(label);
            let [x, y] = world.pose().position;
            assert!(world.maze.fits([x, y]), "{x}, {y}");
            rooms.insert((x as usize, y as usize));
            moved += usize::from(before != [x, y]);
        }
        assert!(counts.iter().all(|&count| count > 300), "{counts:?}");
        assert!(rooms.len() > 40 && moved > 2_500, "{} rooms, {moved} blocks walked", rooms.len());
    }

    #[test]
    fn sixteen_frames_turn_by_a_right_angle_and_back() {
        let maze = corridor();
        let start = Pose { position: [4.5, 5.5], heading: 0.0 };
        let turned = (0..16).fold(start, |pose, _| maze.walked(pose, &LABELS[3]));
        assert!((turned.heading - TAU / 4.0).abs() < 1e-9 && turned.position == start.position);
        let back = (0..16).fold(turned, |pose, _| maze.walked(pose, &LABELS[2]));
        assert!(back.heading.min(TAU - back.heading) < 1e-9);
        assert_eq!(maze.walked(start, &LABELS[STAY]), start);
    }

    #[test]
    fn walking_stops_at_a_wall_and_slides_along_it() {
        let maze = corridor();
        let walk = |heading| {
            (0..400).fold(Pose { position: [4.5, 5.5], heading }, |p, _| maze.walked(p, &LABELS[FORWARD]))
        };
        let ahead = walk(0.0).position;
        assert!((CELLS as f64 - 1.0 - WALKER - ahead[0]).abs() < PACE && ahead[1] == 5.5, "{ahead:?}");
        let aslant = walk(0.5).position;
        assert!((6.0 - WALKER - aslant[1]).abs() < PACE && aslant[0] > 11.0, "{aslant:?}");
    }

    #[test]
    fn rays_meet_walls_where_geometry_says() {
        let maze = corridor();
        let hit = maze.cast([4.5, 5.5], [1.0, 0.0]);
        assert!((hit.distance - 7.5).abs() < 1e-9 && hit.faces_x && (hit.along - 0.5).abs() < 1e-9);
        let diagonal = maze.cast([4.5, 5.5], [1.0, 1.0]);
        assert!(
            (diagonal.distance - 0.5).abs() < 1e-9
                && !diagonal.faces_x
                && diagonal.along.min(1.0 - diagonal.along) < 1e-9
        );
        let back = maze.cast([4.5, 5.5], [-1.0, 0.0]);
        assert!((back.distance - 3.5).abs() < 1e-9);
    }

    #[test]
    fn a_near_wall_fills_the_picture_and_a_far_one_does_not() {
        let maze = corridor();
        let wall_rows = |x: f64| {
            let frame = render(&maze, Pose { position: [x, 5.5], heading: 0.0 }, SIZE).unwrap();
            let column = 36; // not along the mortar between two bricks
            // walls of colour 0 are the only things that are red
            (0..64)
                .filter(|row| {
                    frame.rgb()[(row * 64 + column) * 3] > 2 * frame.rgb()[(row * 64 + column) * 3 + 2]
                })
                .count()
        };
        // a wall 1 high at distance d covers 64 / (2 · 0.65 · d) rows, mortar aside
        let (near, far) = (wall_rows(11.3), wall_rows(8.0));
        assert!((50..=64).contains(&near) && (7..=13).contains(&far), "{near}, {far}");
    }

    #[test]
    fn turning_right_moves_the_picture_left() {
        let maze = World::new(5).maze;
        let middle_row = |heading: f64| -> Vec<f64> {
            let frame = render(&maze, Pose { position: [1.5, 1.5], heading }, SIZE).unwrap();
            frame.rgb()[32 * 64 * 3..33 * 64 * 3].iter().map(|&channel| f64::from(channel)).collect()
        };
        let shift = |heading: f64| {
            let (before, after) = (middle_row(heading), middle_row(heading + TURN));
            let miss = |shift: i32| -> f64 {
                let pairs = (16..48).flat_map(|x: i32| (0..3).map(move |c| (x * 3 + c, (x + shift) * 3 + c)));
                pairs.map(|(now, then)| (after[now as usize] - before[then as usize]).abs()).sum()
            };
            (-10..=10).min_by(|&a, &b| miss(a).total_cmp(&miss(b))).unwrap()
        };
        // at the centre a turn of 2π/64 is 64 · tan(2π/64) / (2 · 0.65) = 4.8 pixels
        let shifts: Vec<i32> = (0..16).map(|i| shift(f64::from(i) * TAU / 16.0)).collect();
        let right = shifts.iter().filter(|shift| (3..=7).contains(*shift)).count();
        assert!(right >= 13, "{shifts:?}");
    }
}
