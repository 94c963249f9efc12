//! What a comparison comes to: its protocol, and figures with their spread over seeds.

use std::path::PathBuf;

use acdit_runtime::Sampling;
use acdit_train::evaluate::Similarity;
use serde::Serialize;

use super::clips::SplitArg;
use super::{Film, table};

/// All that one must know to compare with a figure.
#[derive(Debug, Serialize)]
pub(super) struct Protocol {
    pub(super) dataset: String,
    pub(super) split: SplitArg,
    /// Of each seed.
    pub(super) clips: usize,
    /// Whether each class has as many of them, to one.
    pub(super) balanced: bool,
    pub(super) window_frames: usize,
    pub(super) frame_interval: u32,
    /// Width and height, in pixels.
    pub(super) size: [u32; 2],
    /// Blocks, and their frames, of the real clip that each film goes on from.
    pub(super) context_blocks: usize,
    pub(super) context_frames: usize,
    pub(super) seeds: Vec<u64>,
    pub(super) weights: PathBuf,
    pub(super) sampling: Sampling,
    pub(super) window_blocks: usize,
    pub(super) kind: &'static str,
    pub(super) fvd: Option<FeatureNetwork>,
    pub(super) lpips: Option<Network>,
}

/// A TorchScript file.
#[derive(Debug, Serialize)]
pub(super) struct Network {
    pub(super) file: PathBuf,
    pub(super) sha256: String,
}

#[derive(Debug, Serialize)]
pub(super) struct FeatureNetwork {
    #[serde(flatten)]
    pub(super) network: Network,
    /// Of a clip.
    pub(super) features: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) protocol: Protocol,
    pub(super) films: Vec<Compared>,
    /// Clips that could not be used.
    pub(super) skipped: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) film: Film,
    pub(super) windows: Vec<Figures>,
}

/// One window's figures of one seed.
pub(super) struct Window {
    pub(super) similarity: Similarity,
    pub(super) fvd: Option<f64>,
}

/// One window's figures over all seeds; `null` where there was nothing to compare with.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// The window's first frame, from 0, after the context.
    pub(super) first_frame: u64,
    /// Frames in it.
    pub(super) frames: u64,
    /// Pairs of frames that were compared, over all clips and seeds.
    compared: u64,
    psnr: Option<Estimate>,
    ssim: Option<Estimate>,
    lpips: Option<Estimate>,
    fvd: Option<Estimate>,
}

/// One of the figures.
pub(super) struct Measure {
    /// With its unit.
    pub(super) name: &'static str,
    /// After the point.
    digits: usize,
    pub(super) of: fn(&Figures) -> Option<&Estimate>,
}

pub(super) const MEASURES: [Measure; 4] = [
    Measure { name: "PSNR (dB)", digits: 2, of: |figures| figures.psnr.as_ref() },
    Measure { name: "SSIM", digits: 4, of: |figures| figures.ssim.as_ref() },
    Measure { name: "LPIPS", digits: 4, of: |figures| figures.lpips.as_ref() },
    Measure { name: "FVD", digits: 2, of: |figures| figures.fvd.as_ref() },
];

/// A figure over seeds.
#[derive(Debug, Serialize)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    /// Standard deviation between seeds, over their number less one; `null` of one seed.
    pub(super) spread: Option<f64>,
    seeds: Vec<f64>,
}

impl Estimate {
    /// `None` unless every seed has a value.
    fn of(seeds: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let seeds: Vec<f64> = seeds.collect::<Option<_>>()?;
        let count = seeds.len() as f64;
        let mean = seeds.iter().sum::<f64>() / count;
        let squares: f64 = seeds.iter().map(|value| (value - mean).powi(2)).sum();
        let spread = (seeds.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        Some(Self { mean, spread, seeds })
    }

    fn text(&self, digits: usize) -> String {
        match self.spread {
            Some(spread) => format!("{:.digits$} ± {spread:.digits$}", self.mean),
            None => format!("{:.digits$}", self.mean),
        }
    }
}

impl Compared {
    /// `seeds` holds the windows of every seed.
    pub(super) fn over_seeds(film: Film, seeds: &[Vec<Window>], window_frames: u64) -> Self {
        let windows = (0..seeds.first().map_or(0, Vec::len)).map(|index| {
            let here = || seeds.iter().map(|windows| &windows[index]);
            let similar = |figure: fn(&Similarity) -> Option<f64>| {
                Estimate::of(here().map(|window| {
                    Some(&window.similarity).filter(|similarity| similarity.frames > 0).and_then(figure)
                }))
            };
            Figures {
                first_frame: index as u64 * window_frames,
                frames: window_frames,
                compared: here().map(|window| window.similarity.frames).sum(),
                psnr: similar(|similarity| Some(similarity.psnr)),
                ssim: similar(|similarity| Some(similarity.ssim)),
                lpips: similar(|similarity| similarity.lpips),
                fvd: Estimate::of(here().map(|window| window.fvd)),
            }
        });
        Self { film, windows: windows.collect() }
    }
}

impl Comparison {
    pub(super) fn text(&self) -> String {
        let windows = || self.films.iter().flat_map(|film| &film.windows);
        let taken: Vec<&Measure> = MEASURES
            .iter()
            .filter(|measure| windows().any(|window| (measure.of)(window).is_some()))
            .collect();
        let heads: Vec<&str> =
            ["", "frames"].into_iter().chain(taken.iter().map(|measure| measure.name)).collect();
        let row = |film: Film, window: &Figures| {
            let (first, last) = (window.first_frame + 1, window.first_frame + window.frames);
            let mut cells = vec![film.name().to_owned(), format!("{first}-{last}")];
            cells.extend(taken.iter().map(|measure| {
                (measure.of)(window).map_or("-".to_owned(), |estimate| estimate.text(measure.digits))
            }));
            cells
        };
        let rows: Vec<Vec<String>> = (self.films.iter())
            .flat_map(|film| film.windows.iter().map(|window| row(film.film, window)))
            .collect();
        [self.protocol.text(), table::lines(&heads, &rows)].join("\n")
    }
}

impl Protocol {
    fn text(&self) -> String {
        let Self { dataset, split, clips, window_frames, frame_interval, size, context_blocks, .. } = self;
        let split = match split {
            SplitArg::Train => "training",
            SplitArg::Test => "held-out",
        };
        let balanced = if self.balanced { ", classes balanced" } else { "" };
        let [width, height] = size;
        let every = match frame_interval {
            1 => "every frame".to_owned(),
            interval => format!("one frame in {interval}"),
        };
        let mut lines = vec![format!(
            "{clips} {split} clips of {dataset} for each seed{balanced}, {width}x{height}, {every}, \
             windows of {window_frames} frames"
        )];
        lines.push(match context_blocks {
            0 => "films from nothing, compared with windows at random places of the clips".to_owned(),
            blocks => format!("films go on from the first {blocks} blocks ({} frames)", self.context_frames),
        });
        let Sampling { steps, guidance, solver, .. } = self.sampling;
        let guided = self.sampling.guided_steps();
        let solver = serde_json::to_string(&solver).unwrap_or_default();
        let (folder, kind, window) = (self.weights.display(), self.kind, self.window_blocks);
        lines.push(format!(
            "{folder}: {steps} steps of {}, guidance {guidance} in {guided}, window of {window} blocks, {kind}",
            solver.trim_matches('"')
        ));
        if let Some(FeatureNetwork { network: Network { file, sha256 }, features }) = &self.fvd {
            let file = file.display();
            lines.push(format!("FVD: {features} features of {file}, SHA-256 {sha256}; covariances over N"));
        }
        if let Some(Network { file, sha256 }) = &self.lpips {
            lines.push(format!("LPIPS: {}, SHA-256 {sha256}", file.display()));
        }
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        lines.push(format!("mean ± standard deviation over seeds {}", seeds.join(", ")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_means_over_seeds_with_their_spread() {
        let window = |frames, psnr, fvd| Window {
            similarity: Similarity { frames, psnr, ssim: 0.5, lpips: None },
            fvd,
        };
        let seeds = [
            vec![window(4, 20.0, Some(100.0)), window(4, 18.0, Some(5.0))],
            vec![window(2, 24.0, Some(106.0)), window(0, 0.0, None)],
        ];
        let compared = Compared::over_seeds(Film::Weights, &seeds, 16);
        let [first, second] = &compared.windows[..] else { panic!("{compared:?}") };
        assert_eq!((first.first_frame, second.first_frame, first.compared, second.compared), (0, 16, 6, 4));
        let psnr = first.psnr.as_ref().unwrap();
        assert_eq!((psnr.mean, psnr.spread, psnr.text(2)), (22.0, Some(8f64.sqrt()), "22.00 ± 2.83".into()));
        assert_eq!(first.fvd.as_ref().unwrap().mean, 103.0);
        // a seed without a value leaves none
        assert!(second.psnr.is_none() && second.fvd.is_none() && first.lpips.is_none());
    }
}
