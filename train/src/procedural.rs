//! Worlds that are computed, not filmed: no download, any length, and a label for every block.

use acdit_codec::{Error, Frame, Size};
use acdit_model::diffusion::SolverKind;
use acdit_runtime::{Label, Sampling, WorldMeta};

use crate::{gravity, maze};

/// Frames that share one label, in every such world: the block of the model that learns it.
pub const FRAMES_PER_BLOCK: usize = 4;

/// Playback rate at which their motion looks natural, in frames per second.
pub const FRAMES_PER_SECOND: f64 = 16.0;

/// Which world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Procedural {
    /// Two balls in a box; see [`gravity`].
    Gravity,
    /// A walk in a maze; see [`maze`].
    Maze,
}

impl Procedural {
    /// What `world.json` says of a world that learnt this one.
    pub fn meta(self) -> WorldMeta {
        let label = |name: &str, key: &str| Label { name: name.into(), key: Some(key.into()) };
        let (name, labels): (_, Vec<_>) = match self {
            Self::Gravity => ("gravity", gravity::LABELS.iter().map(|l| label(l.name, l.key)).collect()),
            Self::Maze => ("maze", maze::LABELS.iter().map(|l| label(l.name, l.key)).collect()),
        };
        // the cheapest that works; what more a trained network gains by guidance is for its own world.json to say
        let sampling =
            Sampling { steps: 4, guidance: 1.0, solver: SolverKind::DpmSolverPlusPlus, guided: 1.0 };
        WorldMeta { name: name.into(), labels, fps: FRAMES_PER_SECOND, sampling }
    }

    /// A clip of `blocks` blocks: its frames, and the label of every block.
    ///
    /// # Errors
    /// [`Error::Size`] for an empty picture.
    pub fn trajectory(self, seed: u64, blocks: usize, size: Size) -> Result<(Vec<Frame>, Vec<usize>), Error> {
        match self {
            Self::Gravity => gravity::trajectory(seed, blocks, size),
            Self::Maze => maze::trajectory(seed, blocks, size),
        }
    }

    /// One frame of the world of that seed.
    ///
    /// # Errors
    /// [`Error::Size`] for an empty picture.
    pub fn still(self, seed: u64, size: Size) -> Result<Frame, Error> {
        match self {
            Self::Gravity => gravity::render(gravity::World::new(seed).state(), size),
            Self::Maze => {
                let world = maze::World::new(seed);
                maze::render(world.maze(), world.pose(), size)
            }
        }
    }
}

/// A world that runs: it draws labels and shows what comes of them, for ever.
#[derive(Debug, Clone)]
pub enum Simulator {
    /// Two balls in a box.
    Gravity(gravity::World),
    /// A walk in a maze.
    Maze(maze::World),
}

impl Simulator {
    /// The world of that seed.
    pub fn new(world: Procedural, seed: u64) -> Self {
        match world {
            Procedural::Gravity => Self::Gravity(gravity::World::new(seed)),
            Procedural::Maze => Self::Maze(maze::World::new(seed)),
        }
    }

    /// Draws the label of the next block, as for clips to learn from.
    pub fn next_label(&mut self) -> usize {
        match self {
            Self::Gravity(world) => world.next_label(),
            Self::Maze(world) => world.next_label(),
        }
    }

    /// Advances one block under `label` and returns its frames.
    ///
    /// # Errors
    /// [`Error::Size`] for an empty picture.
    ///
    /// # Panics
    /// When `label` is not an index into the world's labels.
    pub fn block(&mut self, label: usize, size: Size) -> Result<Vec<Frame>, Error> {
        match self {
            Self::Gravity(world) => {
                world.block(label).iter().map(|state| gravity::render(state, size)).collect()
            }
            Self::Maze(world) => {
                let poses = world.block(label);
                poses.into_iter().map(|pose| maze::render(world.maze(), pose, size)).collect()
            }
        }
    }
}
