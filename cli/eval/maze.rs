//! The rules of `maze`: turns that turn, frames that go on, and pictures as sharp as real ones.

use acdit_codec::{Frame, Size};
use acdit_train::evaluate::Report;
use acdit_train::maze::judge::{Judge, Tally, sharpness};
use acdit_train::procedural::Procedural;
use serde::Serialize;

use super::rules::Rules;
use super::table::percent;

/// Real frames of as many mazes, whose sharpness a film's is compared with.
const REAL_FRAMES: u64 = 512;
/// Where those mazes' seeds begin, far from any film's.
const REAL_SEED: u64 = 1 << 50;

#[derive(Default)]
pub(super) struct Maze {
    /// Mean sharpness of real frames.
    real: f64,
}

/// A [`Tally`] as shares; `null` where there was nothing to measure.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    frames: u64,
    /// Share of the blocks under a turning label over which the view turned to that side.
    turned: Option<f64>,
    /// Blocks that this is a share of.
    turns: u64,
    /// How far they turned on average, as a share of what the label gives.
    angle: Option<f64>,
    /// Share of the frames under labels that move the view which show what the one before showed.
    frozen: Option<f64>,
    /// Mean sharpness as a share of that of real frames.
    sharpness: Option<f64>,
}

impl Rules for Maze {
    type Judge = Judge;
    type Tally = Tally;
    type Figures = Figures;
    const WORLD: Procedural = Procedural::Maze;
    const SHIPPED: bool = false;
    const HEADS: &[&str] = &["turned", "turns", "angle", "frozen", "sharpness"];

    fn block(judge: &mut Judge, frames: &[Frame], label: usize) {
        judge.block(frames, label);
    }

    fn report(judge: Judge) -> Report<Tally> {
        judge.report()
    }

    fn prepare(&mut self, size: Size) -> anyhow::Result<()> {
        for seed in REAL_SEED..REAL_SEED + REAL_FRAMES {
            self.real += sharpness(&Procedural::Maze.still(seed, size)?) / REAL_FRAMES as f64;
        }
        Ok(())
    }

    fn figures(&self, tally: &Tally) -> Figures {
        Figures {
            frames: tally.frames,
            turned: tally.turned_share(),
            turns: tally.turns,
            angle: tally.mean_angle(),
            frozen: tally.frozen_share(),
            sharpness: tally.mean_sharpness().map(|sharpness| sharpness / self.real),
        }
    }

    fn cells(figures: &Figures) -> Vec<String> {
        let Figures { turned, turns, angle, frozen, sharpness, .. } = *figures;
        vec![percent(turned), turns.to_string(), percent(angle), percent(frozen), percent(sharpness)]
    }
}
