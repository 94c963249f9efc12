//! What a film of `maze` shows, measured: does the view turn where the label says, does it go on, and is it sharp?
//!
//! The judge sees pictures and labels, nothing of how they were made. How far the view turned between two frames is found
//! by trying angles: under a turn by θ, what was seen at an angle α from the middle is seen at α − θ.

use acdit_codec::{Frame, Size};
use serde::Serialize;

use super::{HALF_VIEW, LABELS, TURN};
use crate::evaluate::{self, share};

/// Angles tried to either side, and how many of them: half as much again as a label turns.
const GREATEST_TURN: f64 = 1.5 * TURN;
const TRIALS: i32 = 24;
/// Share of the label's angle from which on a view has turned.
const LEAST_ANGLE: f64 = 0.1;
/// Bands of rows whose colours are averaged before they are compared, and the share of the picture's height that they cover
/// around the horizon: farther from it a turn also moves the picture up and down.
const BANDS: usize = 8;
const BANDED: f64 = 0.5;
/// Mean difference, in levels of 255, below which a frame is the one before it.
const FROZEN: f64 = 1.0;

/// Measures of a stretch of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Frames seen.
    pub frames: u64,
    /// Blocks whose label is a turn.
    pub turns: u64,
    /// Those over which the view turned to the label's side.
    pub turned: u64,
    /// Sum over these blocks of the angle turned to the label's side, as a share of the angle that the label gives.
    pub angle: f64,
    /// Frames under labels that move the view.
    pub moving: u64,
    /// Those that show what the frame before showed.
    pub frozen: u64,
    /// Sum over all frames of [`sharpness`].
    pub sharpness: f64,
}

impl Tally {
    /// Share of the turns that went to the right side.
    pub fn turned_share(&self) -> Option<f64> {
        share(self.turned, self.turns)
    }

    /// Mean over turns of how far they went, as a share of the label's angle.
    pub fn mean_angle(&self) -> Option<f64> {
        (self.turns > 0).then(|| self.angle / self.turns as f64)
    }

    /// Share of the frames that should move and do not.
    pub fn frozen_share(&self) -> Option<f64> {
        share(self.frozen, self.moving)
    }

    /// Mean over frames of [`sharpness`].
    pub fn mean_sharpness(&self) -> Option<f64> {
        (self.frames > 0).then(|| self.sharpness / self.frames as f64)
    }
}

impl evaluate::Counts for Tally {
    fn frames(&self) -> u64 {
        self.frames
    }

    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.turns += other.turns;
        self.turned += other.turned;
        self.angle += other.angle;
        self.moving += other.moving;
        self.frozen += other.frozen;
        self.sharpness += other.sharpness;
    }
}

/// What a [`Judge`] saw.
pub type Report = evaluate::Report<Tally>;

/// Watches a film block by block.
#[derive(Debug, Default)]
pub struct Judge {
    report: Report,
    last: Option<Frame>,
}

impl Judge {
    /// Sees the next block, which was made under `label`. All frames have one size.
    ///
    /// # Panics
    /// When `label` is not an index into [`LABELS`].
    pub fn block(&mut self, frames: &[Frame], label: usize) {
        let label = &LABELS[label];
        let mut tally = Tally { frames: frames.len() as u64, ..Tally::default() };
        tally.sharpness = frames.iter().map(sharpness).sum();
        let before = self.last.iter().chain(frames);
        let steps: Vec<_> = before.zip(if self.last.is_some() { frames } else { &frames[1..] }).collect();
        if label.turn != 0.0 {
            let turned: f64 = steps.iter().map(|(before, after)| turn(before, after)).sum();
            tally.angle = turned / (label.turn * steps.len() as f64);
            tally.turns = 1;
            tally.turned = u64::from(tally.angle > LEAST_ANGLE);
        }
        if label.turn != 0.0 || label.pace != 0.0 {
            tally.moving = steps.len() as u64;
            tally.frozen =
                steps.iter().filter(|(before, after)| difference(before, after) < FROZEN).count() as u64;
        }
        self.report.push(&tally);
        self.last = frames.last().cloned();
    }

    /// What was seen.
    pub fn report(self) -> Report {
        self.report
    }
}

/// How much a picture changes from pixel to pixel: the mean absolute difference between neighbours, side by side and one
/// above the other, in levels of 255.
pub fn sharpness(frame: &Frame) -> f64 {
    let Size { width, height } = frame.size();
    let row = width as usize * 3;
    let rgb = frame.rgb();
    let difference = |(a, b): (&u8, &u8)| u64::from(a.abs_diff(*b));
    let aside: u64 = rgb.chunks_exact(row).flat_map(|row| row.iter().zip(&row[3..])).map(difference).sum();
    let below: u64 = rgb.iter().zip(&rgb[row..]).map(difference).sum();
    let pairs = u64::from(height) * (u64::from(width) - 1) + u64::from(width) * (u64::from(height) - 1);
    (aside + below) as f64 / (3 * pairs).max(1) as f64
}

/// Mean absolute difference of two frames, in levels of 255.
fn difference(a: &Frame, b: &Frame) -> f64 {
    let sum: u64 = a.rgb().iter().zip(b.rgb()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.rgb().len() as f64
}

/// By how much the view turned to the right between two frames, in radians.
fn turn(before: &Frame, after: &Frame) -> f64 {
    let (seen, now) = (columns(before), columns(after));
    let width = now.len() as f64;
    let miss = |angle: f64| {
        let (mut sum, mut compared) = (0.0, 0);
        for (x, column) in now.iter().enumerate() {
            let aside = ((x as f64 + 0.5) / width * 2.0 - 1.0) * HALF_VIEW;
            let was = (aside.atan() + angle).tan() / HALF_VIEW;
            let was = (was + 1.0) / 2.0 * width - 0.5;
            if was < 0.0 || was > width - 1.0 {
                continue;
            }
            let (left, share) = (was.floor() as usize, was.fract());
            let right = &seen[(left + 1).min(seen.len() - 1)];
            for ((now, left), right) in column.iter().zip(&seen[left]).zip(right) {
                sum += (now - left * (1.0 - share) - right * share).abs();
            }
            compared += 1;
        }
        sum / f64::from(compared.max(1))
    };
    let angles = (-TRIALS..=TRIALS).map(|trial| GREATEST_TURN * f64::from(trial) / f64::from(TRIALS));
    let (_, angle) = angles.fold((f64::INFINITY, 0.0), |best, angle| {
        let miss = miss(angle);
        if miss < best.0 { (miss, angle) } else { best }
    });
    angle
}

/// The colours of every column, band by band.
fn columns(frame: &Frame) -> Vec<[f64; BANDS * 3]> {
    let Size { width, height } = frame.size();
    let (width, height) = (width as usize, height as usize);
    let (first, rows) = ((1.0 - BANDED) / 2.0 * height as f64, BANDED * height as f64);
    let mut columns = vec![[0.0; BANDS * 3]; width];
    for band in 0..BANDS {
        let edge = |band: usize| (first + rows * band as f64 / BANDS as f64).round() as usize;
        let (top, bottom) = (edge(band), edge(band + 1).max(edge(band) + 1).min(height));
        for row in top..bottom {
            let pixels = frame.rgb()[row * width * 3..(row + 1) * width * 3].chunks_exact(3);
            for (column, pixel) in columns.iter_mut().zip(pixels) {
                for (sum, channel) in column[band * 3..].iter_mut().zip(pixel) {
                    *sum += f64::from(*channel) / (bottom - top) as f64;
                }
            }
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::super::{Pose, World, render};
    use super::*;

    const SIZE: Size = Size { width: 64, height: 64 };

    /// The judge's view of true frames, changed a block at a time.
    fn judged(size: Size, blocks: usize, change: impl Fn(Vec<Frame>) -> Vec<Frame>) -> Tally {
        let (mut world, mut judge) = (World::new(3), Judge::default());
        for _ in 0..blocks {
            let label = world.next_label();
            let poses = world.block(label);
            let frames = poses.iter().map(|&pose| render(world.maze(), pose, size).unwrap()).collect();
            judge.block(&change(frames), label);
        }
        judge.report().overall
    }

    /// Every pixel is the mean of the 5×5 around it, as far as they are in the picture.
    fn blurred(frame: &Frame) -> Frame {
        let side = SIZE.width as i64;
        let mean = |x: i64, y: i64, channel: i64| {
            let (rows, columns) = (y - 2..=y + 2, x - 2..=x + 2);
            let around = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
            let inside = around.filter(|(x, y)| (0..side).contains(x) && (0..side).contains(y));
            let values: Vec<u64> = inside
                .map(|(x, y)| u64::from(frame.rgb()[((y * side + x) * 3 + channel) as usize]))
                .collect();
            (values.iter().sum::<u64>() / values.len() as u64) as u8
        };
        let pixels = (0..side).flat_map(|y| (0..side).map(move |x| (x, y)));
        let rgb = pixels.flat_map(|(x, y)| [0, 1, 2].map(|channel| mean(x, y, channel))).collect();
        Frame::new(SIZE, rgb).unwrap()
    }

    #[test]
    fn truth_passes_at_any_size() {
        for size in [SIZE, Size { width: 128, height: 96 }] {
            let tally = judged(size, 400, |frames| frames);
            assert_eq!(tally.frames, 1600);
            assert!(tally.turns > 100 && tally.turned_share().unwrap() > 0.97, "{tally:?}");
            assert!((0.95..1.05).contains(&tally.mean_angle().unwrap()), "{tally:?}");
            assert!(tally.frozen_share().unwrap() < 0.1, "{tally:?}");
        }
    }

    #[test]
    fn angles_are_measured() {
        let (world, label) = (World::new(5), LABELS[3]);
        for share in [-1.0, 0.0, 0.25, 0.5, 1.0] {
            let see = |heading: f64| render(world.maze(), Pose { heading, ..world.pose() }, SIZE).unwrap();
            let angles = (0..32).map(|i| {
                let heading = f64::from(i) * std::f64::consts::TAU / 32.0;
                turn(&see(heading), &see(heading + share * label.turn)) / label.turn
            });
            let exact = angles.filter(|angle| (angle - share).abs() < 0.13).count();
            assert!(exact >= 31, "{share}: {exact} of 32");
        }
    }

    #[test]
    fn turns_backwards_are_no_turns() {
        let backwards = judged(SIZE, 400, |frames| frames.into_iter().rev().collect());
        assert!(backwards.turned_share().unwrap() < 0.03, "{backwards:?}");
    }

    #[test]
    fn frozen_frames_are_counted() {
        let world = World::new(3);
        let only = render(world.maze(), world.pose(), SIZE).unwrap();
        let still = judged(SIZE, 100, |frames| vec![only.clone(); frames.len()]);
        assert_eq!((still.frozen_share(), still.turned), (Some(1.0), 0));
        // what moves from block to block only
        let hopping = judged(SIZE, 200, |frames| vec![frames[0].clone(); frames.len()]);
        assert!((0.74..0.8).contains(&hopping.frozen_share().unwrap()), "{hopping:?}");
        assert!(hopping.mean_angle().unwrap() < 0.3, "{hopping:?}");
    }

    #[test]
    fn blur_is_seen_and_turns_are_seen_through_it() {
        let truth = judged(SIZE, 100, |frames| frames);
        let blurred = judged(SIZE, 100, |frames| frames.iter().map(blurred).collect());
        let share = blurred.mean_sharpness().unwrap() / truth.mean_sharpness().unwrap();
        assert!((0.1..0.6).contains(&share), "{share}");
        assert!(blurred.turned_share().unwrap() > 0.95, "{blurred:?}");
    }

    #[test]
    fn sharpness_of_stripes() {
        let size = Size { width: 4, height: 3 };
        let stripes = (0..12).flat_map(|pixel| [if pixel % 2 == 0 { 0 } else { 30 }; 3]).collect();
        // 9 pairs side by side differ by 30, 8 pairs one above the other not at all
        let got = sharpness(&Frame::new(size, stripes).unwrap());
        assert!((got - 30.0 * 9.0 / 17.0).abs() < 1e-9, "{got}");
    }
}
