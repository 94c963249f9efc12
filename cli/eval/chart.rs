//! The figures of every window of a film as a picture: a panel for each measure, a line for each film.

use std::path::Path;

use anyhow::bail;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::figures::{Compared, Estimate, MEASURES, Measure};
use crate::picture::{self, Chart};
use crate::plot::COLOURS;

/// Of one panel.
const SIZE: (u32, u32) = (900, 260);

/// # Errors
/// Figures of which none is a finite number, or a file that cannot be written.
pub(super) fn write(out: &Path, films: &[Compared]) -> anyhow::Result<()> {
    let panels: Vec<Panel> = MEASURES.iter().filter_map(|measure| Panel::of(measure, films)).collect();
    if panels.is_empty() {
        bail!("no figure is a finite number");
    }
    let windows = films.iter().flat_map(|film| &film.windows);
    let end = windows.map(|window| window.first_frame + window.frames).max().unwrap_or_default() as f64;
    let size = (SIZE.0, SIZE.1 * panels.len() as u32);
    picture::write(out, size, &Panels { panels, films, end })
}

/// All measures, one under another.
struct Panels<'a> {
    panels: Vec<Panel<'a>>,
    films: &'a [Compared],
    /// Frames.
    end: f64,
}

impl Chart for Panels<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        for (panel, area) in self.panels.iter().zip(area.split_evenly((self.panels.len(), 1))) {
            panel.draw(&area, self.films, self.end)?;
        }
        Ok(())
    }
}

/// One measure over frames.
struct Panel<'a> {
    name: &'static str,
    /// Of each film, by window: the middle frame and the figure.
    films: Vec<Vec<(f64, &'a Estimate)>>,
}

impl<'a> Panel<'a> {
    /// `None` if no window of no film has this measure as a finite number.
    fn of(measure: &Measure, films: &'a [Compared]) -> Option<Self> {
        let films: Vec<Vec<_>> = (films.iter())
            .map(|film| {
                let estimates = film.windows.iter().filter_map(|window| {
                    let middle = window.first_frame as f64 + window.frames as f64 / 2.0;
                    Some((middle, (measure.of)(window).filter(|estimate| estimate.mean.is_finite())?))
                });
                estimates.collect()
            })
            .collect();
        films.iter().any(|film| !film.is_empty()).then_some(Self { name: measure.name, films })
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        films: &[Compared],
        end: f64,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let all = || self.films.iter().flatten();
        let edges = all().flat_map(|(_, estimate)| {
            let spread = estimate.spread.filter(|spread| spread.is_finite()).unwrap_or(0.0);
            [estimate.mean - spread, estimate.mean + spread]
        });
        let (low, high) = edges.fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
        let room = 0.1 * (high - low).max(1e-3 * high.abs()).max(1e-6);
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(24)
            .x_label_area_size(56)
            .y_label_area_size(96)
            .build_cartesian_2d(0.0..end, low - room..high + room)?;
        chart
            .configure_mesh()
            .x_desc("frame")
            .y_desc(self.name)
            .y_label_formatter(&picture::number)
            .light_line_style(WHITE)
            .draw()?;
        for ((points, film), &colour) in self.films.iter().zip(films).zip(COLOURS.iter().cycle()) {
            let means = points.iter().map(|(x, estimate)| (*x, estimate.mean));
            chart
                .draw_series(LineSeries::new(means.clone(), colour.stroke_width(2)))?
                .label(film.film.name())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(means.map(|point| Circle::new(point, 3, colour.filled())))?;
            let spreads =
                points.iter().filter_map(|(x, estimate)| Some((*x, estimate.mean, estimate.spread?)));
            chart.draw_series(spreads.map(|(x, mean, spread)| {
                PathElement::new([(x, mean - spread), (x, mean + spread)], colour.stroke_width(1))
            }))?;
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
