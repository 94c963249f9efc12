//! `plot`: the loss of training runs as a picture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use plotters::coord::Shift;
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::output::Output;
use crate::picture::{self, Chart};

const SIZE: (u32, u32) = (900, 540);
/// Distinct for the common kinds of colour blindness (Okabe and Ito).
pub(crate) const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

#[derive(Debug, Args)]
#[command(after_help = "\
Losses are comparable between runs that predict the same with the same weights of the loss.

Examples:
  acdit-world plot run --out loss.svg
  acdit-world plot run run2 --out both.png     # over one another")]
pub(crate) struct Plot {
    /// Folders of `train` or `train-vae`
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The picture to write: .svg or .png
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What a line of a run's log is read for.
#[derive(Deserialize)]
struct Record {
    step: u64,
    loss: f64,
}

#[derive(Debug, Serialize)]
struct Plotted {
    out: PathBuf,
    runs: Vec<Curve>,
}

#[derive(Debug, Serialize)]
struct Curve {
    run: PathBuf,
    points: usize,
    last_step: u64,
    last_loss: f64,
    #[serde(skip)]
    losses: BTreeMap<u64, f64>,
}

impl Plot {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let Self { runs, out } = self;
        picture::check(&out)?;
        let runs = runs.into_iter().map(Curve::read).collect::<anyhow::Result<Vec<_>>>()?;
        picture::write(&out, SIZE, &Losses(&runs))?;
        let line = |curve: &Curve| {
            let Curve { run, points, last_step, last_loss, .. } = curve;
            format!("{}: {points} points, loss {last_loss:.4} at step {last_step}", run.display())
        };
        let text = runs.iter().map(line).collect::<Vec<_>>().join("\n");
        output.print(&Plotted { out, runs }, || text)
    }
}

impl Curve {
    /// Of a step that a killed run did twice, the later record counts.
    fn read(run: PathBuf) -> anyhow::Result<Self> {
        let path = run.join("log.jsonl");
        let shown = path.display();
        let text = std::fs::read_to_string(&path).with_context(|| format!("{shown}"))?;
        let mut losses = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let record: Record =
                serde_json::from_str(line).with_context(|| format!("{shown}: line {}", index + 1))?;
            if !(record.loss > 0.0 && record.loss.is_finite()) {
                bail!("{shown}: line {}: a loss of {}", index + 1, record.loss);
            }
            losses.insert(record.step, record.loss);
        }
        let Some((&last_step, &last_loss)) = losses.last_key_value() else {
            bail!("{shown}: nothing has been logged yet")
        };
        Ok(Self { run, points: losses.len(), last_step, last_loss, losses })
    }
}

/// Loss over steps, on a logarithmic scale.
struct Losses<'a>(&'a [Curve]);

impl Chart for Losses<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let Self(runs) = self;
        let all = || runs.iter().flat_map(|run| run.losses.values().copied());
        let (low, high) = (all().fold(f64::MAX, f64::min) * 0.9, all().fold(f64::MIN, f64::max) * 1.1);
        let end = runs.iter().map(|run| run.last_step).max().unwrap_or(1).max(1);
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(56)
            .y_label_area_size(96)
            .build_cartesian_2d(0..end, (low..high).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc("loss")
            .y_label_formatter(&picture::number)
            .light_line_style(WHITE)
            .draw()?;
        for (run, &colour) in runs.iter().zip(COLOURS.iter().cycle()) {
            let points = run.losses.iter().map(|(&step, &loss)| (step, loss));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(name(&run.run))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .label_font(("sans-serif", picture::LEGEND))
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        Ok(())
    }
}

fn name(run: &Path) -> String {
    run.file_name().unwrap_or(run.as_os_str()).to_string_lossy().into_owned()
}
