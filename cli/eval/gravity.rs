//! The rules of `gravity`: two balls that fall where the label says.

use acdit_codec::Frame;
use acdit_train::evaluate::Report;
use acdit_train::gravity::judge::{Judge, Tally};
use acdit_train::procedural::Procedural;
use serde::Serialize;

use super::rules::Rules;
use super::table::percent;

pub(super) struct Gravity;

/// A [`Tally`] as shares; `null` where there was nothing to measure.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    frames: u64,
    /// Share of frames with exactly one ball of each colour, both of the right size.
    two_balls: Option<f64>,
    /// Share of the balls free of contact whose velocity changed as the label says.
    obeyed: Option<f64>,
    /// Balls that this is a share of, each over one block.
    measured: u64,
    /// Deepest rim in a wall, in box lengths.
    into_wall: f64,
    /// Share of frames in which both balls lie still.
    still: Option<f64>,
}

impl Rules for Gravity {
    type Judge = Judge;
    type Tally = Tally;
    type Figures = Figures;
    const WORLD: Procedural = Procedural::Gravity;
    const SHIPPED: bool = true;
    const HEADS: &[&str] = &["two balls", "obeyed", "measured", "in wall", "still"];

    fn block(judge: &mut Judge, frames: &[Frame], label: usize) {
        judge.block(frames, label);
    }

    fn report(judge: Judge) -> Report<Tally> {
        judge.report()
    }

    fn figures(&self, tally: &Tally) -> Figures {
        Figures {
            frames: tally.frames,
            two_balls: tally.two_balls_share(),
            obeyed: tally.obeyed_share(),
            measured: tally.measured,
            into_wall: tally.into_wall,
            still: tally.still_share(),
        }
    }

    fn cells(figures: &Figures) -> Vec<String> {
        vec![
            percent(figures.two_balls),
            percent(figures.obeyed),
            figures.measured.to_string(),
            percent(Some(figures.into_wall.max(0.0))),
            percent(figures.still),
        ]
    }
}
