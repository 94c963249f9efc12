//! `eval`: figures for a world whose truth is known.

use std::num::NonZeroU64;

use acdit_codec::{Frame, Size, color};
use acdit_model::{Acdit, weights};
use acdit_runtime::{Session, render};
use acdit_train::gravity::judge::{Judge, Report, Tally};
use acdit_train::gravity::{self, LABELS};
use acdit_train::procedural::FRAMES_PER_BLOCK;
use anyhow::bail;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::generate::stop_if_asked;
use crate::output::{self, Output};
use crate::signals;
use crate::world::{Loaded, WorldArgs};

/// Root mean square of the noise that breaks a network, as a share of that of each of its tensors.
const BREAKING_NOISE: f64 = 0.5;
/// Frames at either end between which the text compares.
const END_FRAMES: u64 = 1000;

#[derive(Debug, Args)]
#[command(after_help = "\
The same judge sees four films under the same labels: that of the weights; the simulator's own frames,
which bound every figure; those frames after the VAE, which bound what a network can reach; and that of
the weights with noise on every parameter, which shows that the judge can say no.

Examples:
  acdit-world eval --world gravity                                # the shipped world, 10,000 frames
  acdit-world eval --world gravity --of weights --frames 2000 --weights run/weights
  acdit-world eval --world gravity --json > figures.json          # with every 100 frames apart")]
pub(crate) struct Eval {
    /// The world whose rules are known
    #[arg(long, value_enum)]
    world: KnownWorld,
    /// Frames of each film
    #[arg(long, value_name = "N", default_value = "10000")]
    frames: NonZeroU64,
    /// Which films to judge
    #[arg(
        long,
        value_enum,
        value_name = "FILM[,FILM...]",
        value_delimiter = ',',
        default_values = ["weights", "truth", "vae", "broken"]
    )]
    of: Vec<Film>,
    /// Seed of the labels, of the simulator and of all noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    weights: WorldArgs,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum KnownWorld {
    Gravity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Film {
    /// What the weights generate
    Weights,
    /// What the simulator shows
    Truth,
    /// The same after encoding and decoding
    Vae,
    /// What the weights generate with noise on every parameter
    Broken,
}

#[derive(Debug, Serialize)]
struct Evaluation {
    world: KnownWorld,
    seed: u64,
    films: Vec<Judged>,
}

#[derive(Debug, Serialize)]
struct Judged {
    film: Film,
    #[serde(flatten)]
    figures: Figures,
    /// Every hundred frames.
    windows: Vec<Figures>,
}

/// A [`Tally`] as shares; `null` where there was nothing to measure.
#[derive(Debug, Serialize)]
struct Figures {
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

impl From<&Tally> for Figures {
    fn from(tally: &Tally) -> Self {
        Self {
            frames: tally.frames,
            two_balls: tally.two_balls_share(),
            obeyed: tally.obeyed_share(),
            measured: tally.measured,
            into_wall: tally.into_wall,
            still: tally.still_share(),
        }
    }
}

impl Eval {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let mut loaded = self.weights.load()?;
        let names: Vec<&str> = loaded.world.meta.labels.iter().map(|label| label.name.as_str()).collect();
        let expected = LABELS.map(|label| label.name);
        if names != expected {
            bail!("{}: labels {names:?}, gravity has {expected:?}", loaded.folder.display());
        }
        let frames = loaded.world.model.config().frames_per_block;
        if frames != FRAMES_PER_BLOCK as i64 {
            let folder = loaded.folder.display();
            bail!("{folder}: blocks of {frames} frames, gravity has blocks of {FRAMES_PER_BLOCK}");
        }
        let blocks = self.frames.get().div_ceil(FRAMES_PER_BLOCK as u64);
        // the broken network takes the other's place, so it comes last
        let wanted = [Film::Weights, Film::Truth, Film::Vae, Film::Broken];
        let wanted: Vec<Film> = wanted.into_iter().filter(|film| self.of.contains(film)).collect();
        let bar = output::progress(blocks * wanted.len() as u64, "blocks");
        let mut films = Vec::new();
        for film in wanted {
            let report = match film {
                Film::Weights => self.generated(&loaded, blocks, &bar)?,
                Film::Truth => self.simulated(&loaded, blocks, &bar, Ok)?,
                Film::Vae => {
                    self.simulated(&loaded, blocks, &bar, |frames| reconstructed(&loaded, &frames))?
                }
                Film::Broken => {
                    loaded.world.model = broken(&loaded, self.seed)?;
                    self.generated(&loaded, blocks, &bar)?
                }
            };
            films.push((film, report));
        }
        bar.finish_and_clear();
        let text = table(&films);
        let films = films
            .into_iter()
            .map(|(film, report)| Judged {
                film,
                figures: Figures::from(&report.overall),
                windows: report.windows.iter().map(Figures::from).collect(),
            })
            .collect();
        output.print(&Evaluation { world: self.world, seed: self.seed, films }, || text)
    }

    /// By the path that serves.
    fn generated(&self, loaded: &Loaded, blocks: u64, bar: &ProgressBar) -> anyhow::Result<Report> {
        let Loaded { world, vae, .. } = loaded;
        let mut session = Session::prompted(world, self.weights.sampling.settings(world, self.seed))?;
        let (mut labels, mut judge) = (gravity::World::new(self.seed), Judge::default());
        let interrupt = signals::interrupt()?;
        let labels = (0..blocks).map(|_| labels.next_label() as i64);
        for block in render(world, &vae.decoder, &mut session, labels) {
            let block = block?;
            judge.block(&block.frames, block.block.label as usize);
            bar.inc(1);
            stop_if_asked(&interrupt)?;
        }
        Ok(judge.report())
    }

    /// The simulator's frames, shown as `show` makes them.
    fn simulated(
        &self,
        loaded: &Loaded,
        blocks: u64,
        bar: &ProgressBar,
        show: impl Fn(Vec<Frame>) -> anyhow::Result<Vec<Frame>>,
    ) -> anyhow::Result<Report> {
        let Size { width, height } = acdit_runtime::frame_size(&loaded.world, &loaded.vae)?;
        let (mut world, mut judge) = (gravity::World::new(self.seed), Judge::default());
        let interrupt = signals::interrupt()?;
        for _ in 0..blocks {
            let label = world.next_label();
            let frames = (world.block(label).iter())
                .map(|state| gravity::render(state, Size { width, height }))
                .collect::<Result<_, _>>()?;
            judge.block(&show(frames)?, label);
            bar.inc(1);
            stop_if_asked(&interrupt)?;
        }
        Ok(judge.report())
    }
}

fn reconstructed(loaded: &Loaded, frames: &[Frame]) -> anyhow::Result<Vec<Frame>> {
    let pixels = color::to_tensor(frames, Device::Cpu)?;
    let vae = &loaded.vae;
    Ok(tch::no_grad(|| color::to_frames(&vae.decoder.decode(&vae.encoder.encode(&pixels)?)?))?)
}

/// The network of `loaded` with noise on every parameter.
fn broken(loaded: &Loaded, seed: u64) -> anyhow::Result<Acdit> {
    let path = loaded.folder.join("transformer").join("diffusion_pytorch_model.safetensors");
    tch::manual_seed(seed as i64);
    let tensors = weights::read(&path)?.into_iter().map(|(name, tensor)| {
        let tensor = tensor.to_kind(Kind::Float);
        let noise: Tensor = tensor.randn_like() * tensor.square().mean(Kind::Float).sqrt() * BREAKING_NOISE;
        (name, tensor + noise)
    });
    let model = &loaded.world.model;
    Ok(Acdit::from_tensors(model.config(), &tensors.collect(), &path, model.device(), model.compute())?)
}

/// One line a film, and how its ends compare.
fn table(films: &[(Film, Report)]) -> String {
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.2}%", 100.0 * share));
    let line = |name: &str, tally: &Tally| {
        format!(
            "{name:<18}{:>8}{:>12}{:>10} of {:<6}{:>8.2}%{:>10}",
            tally.frames,
            percent(tally.two_balls_share()),
            percent(tally.obeyed_share()),
            tally.measured,
            100.0 * tally.into_wall.max(0.0),
            percent(tally.still_share()),
        )
    };
    let mut lines = vec![format!(
        "{:<18}{:>8}{:>12}{:>20}{:>9}{:>10}",
        "", "frames", "two balls", "obeyed", "in wall", "still"
    )];
    for (film, report) in films {
        let name = format!("{film:?}").to_lowercase();
        lines.push(line(&name, &report.overall));
        if *film == Film::Weights && report.overall.frames >= 2 * END_FRAMES {
            lines.push(line("  first thousand", &report.first(END_FRAMES)));
            lines.push(line("  last thousand", &report.last(END_FRAMES)));
        }
    }
    lines.join("\n")
}
