//! Films judged by the rules of the world that they were learnt from.

use acdit_codec::{Frame, Size};
use acdit_runtime::{Session, frame_size, render};
use acdit_train::evaluate::{Counts, Report};
use acdit_train::procedural::{FRAMES_PER_BLOCK, Procedural, Simulator};
use acdit_train::seeds;
use anyhow::bail;
use indicatif::ProgressBar;
use serde::Serialize;

use super::{Eval, Film, broken, reconstructed, table};
use crate::generate::stop_if_asked;
use crate::output::{self, Output};
use crate::signals;
use crate::world::Loaded;

const FRAMES: u64 = 10_000;
/// Size of the simulator's frames where no weights say.
const SIZE: Size = Size { width: 64, height: 64 };
/// Frames at either end between which the text compares.
const END_FRAMES: u64 = 1000;

/// A world whose rules are known: who judges it, and what the figures are called.
pub(super) trait Rules {
    type Judge: Default;
    type Tally: Counts;
    type Figures: Serialize;
    const WORLD: Procedural;
    /// Whether weights of it come with the program.
    const SHIPPED: bool;
    /// Heads of the columns of [`Rules::cells`].
    const HEADS: &[&str];

    fn block(judge: &mut Self::Judge, frames: &[Frame], label: usize);
    fn report(judge: Self::Judge) -> Report<Self::Tally>;
    /// Finds out what figures of films of this size are relative to, if they are.
    fn prepare(&mut self, _size: Size) -> anyhow::Result<()> {
        Ok(())
    }
    fn figures(&self, tally: &Self::Tally) -> Self::Figures;
    fn cells(figures: &Self::Figures) -> Vec<String>;
}

#[derive(Debug, Serialize)]
struct Evaluation<F> {
    world: String,
    seed: u64,
    films: Vec<Judged<F>>,
}

#[derive(Debug, Serialize)]
struct Judged<F> {
    film: Film,
    #[serde(flatten)]
    figures: F,
    /// Every hundred frames.
    windows: Vec<F>,
}

pub(super) fn judge<R: Rules>(args: &Eval, mut rules: R, output: Output) -> anyhow::Result<()> {
    let films = args.films(&[Film::Weights, Film::Truth, Film::Vae, Film::Broken]);
    let needed = films.iter().any(|&film| film != Film::Truth);
    if needed && !R::SHIPPED && !args.weights.are_named() {
        let world = R::WORLD.meta().name;
        bail!("--weights DIR is missing: none of {world} ship (--of truth needs none)");
    }
    let mut loaded = (needed || args.weights.are_named()).then(|| args.weights.load()).transpose()?;
    let size = match &loaded {
        Some(loaded) => {
            check::<R>(loaded)?;
            frame_size(&loaded.world, &loaded.vae)?
        }
        None => SIZE,
    };
    rules.prepare(size)?;
    let frames = args.frames.map_or(FRAMES, |frames| frames.get());
    let blocks = frames.div_ceil(FRAMES_PER_BLOCK as u64);
    let bar = output::progress(blocks * films.len() as u64, "blocks");
    let mut reports = Vec::new();
    for film in films {
        let report = match (film, &mut loaded) {
            (Film::Vae, Some(loaded)) => {
                let shown = |frames: Vec<Frame>| reconstructed(loaded, &frames);
                simulated::<R>(args.seed, size, blocks, &bar, shown)?
            }
            (Film::Weights, Some(loaded)) => generated::<R>(args, loaded, blocks, &bar)?,
            (Film::Broken, Some(loaded)) => {
                loaded.world.model = broken(loaded, args.seed)?;
                generated::<R>(args, loaded, blocks, &bar)?
            }
            _ => simulated::<R>(args.seed, size, blocks, &bar, Ok)?,
        };
        reports.push((film, report));
    }
    bar.finish_and_clear();
    let text = text(&rules, &reports);
    let films = (reports.iter())
        .map(|(film, report)| Judged {
            film: *film,
            figures: rules.figures(&report.overall),
            windows: report.windows.iter().map(|tally| rules.figures(tally)).collect(),
        })
        .collect();
    output.print(&Evaluation { world: R::WORLD.meta().name, seed: args.seed, films }, || text)
}

/// Whether the weights are of this world.
fn check<R: Rules>(loaded: &Loaded) -> anyhow::Result<()> {
    let (meta, folder) = (R::WORLD.meta(), loaded.folder.display());
    let (names, expected) = (loaded.world.meta.label_names(), meta.label_names());
    if names != expected {
        bail!("{folder}: labels {names:?}, {} has {expected:?}", meta.name);
    }
    let frames = loaded.world.model.config().frames_per_block;
    if frames != FRAMES_PER_BLOCK as i64 {
        bail!("{folder}: blocks of {frames} frames, {} has blocks of {FRAMES_PER_BLOCK}", meta.name);
    }
    Ok(())
}

/// By the path that serves.
fn generated<R: Rules>(
    args: &Eval,
    loaded: &Loaded,
    blocks: u64,
    bar: &ProgressBar,
) -> anyhow::Result<Report<R::Tally>> {
    let Loaded { world, vae, .. } = loaded;
    let mut session = Session::prompted(world, args.weights.sampling.settings(world, args.seed))?;
    let (mut simulator, mut judge) =
        (Simulator::new(R::WORLD, seeds::held_out(args.seed, 0)), R::Judge::default());
    let interrupt = signals::interrupt()?;
    let labels = (0..blocks).map(|_| simulator.next_label() as i64);
    for block in render(world, &vae.decoder, &mut session, labels) {
        let block = block?;
        R::block(&mut judge, &block.frames, block.block.label as usize);
        bar.inc(1);
        stop_if_asked(&interrupt)?;
    }
    Ok(R::report(judge))
}

/// The simulator's frames, shown as `shown` makes them.
fn simulated<R: Rules>(
    seed: u64,
    size: Size,
    blocks: u64,
    bar: &ProgressBar,
    shown: impl Fn(Vec<Frame>) -> anyhow::Result<Vec<Frame>>,
) -> anyhow::Result<Report<R::Tally>> {
    let (mut simulator, mut judge) =
        (Simulator::new(R::WORLD, seeds::held_out(seed, 0)), R::Judge::default());
    let interrupt = signals::interrupt()?;
    for _ in 0..blocks {
        let label = simulator.next_label();
        R::block(&mut judge, &shown(simulator.block(label, size)?)?, label);
        bar.inc(1);
        stop_if_asked(&interrupt)?;
    }
    Ok(R::report(judge))
}

/// One line a film, and how its ends compare.
fn text<R: Rules>(rules: &R, reports: &[(Film, Report<R::Tally>)]) -> String {
    let row = |name: &str, tally: &R::Tally| {
        let frames = tally.frames().to_string();
        [vec![name.to_owned(), frames], R::cells(&rules.figures(tally))].concat()
    };
    let mut rows = Vec::new();
    for (film, report) in reports {
        rows.push(row(film.name(), &report.overall));
        if *film == Film::Weights && report.overall.frames() >= 2 * END_FRAMES {
            rows.push(row("  first thousand", &report.first(END_FRAMES)));
            rows.push(row("  last thousand", &report.last(END_FRAMES)));
        }
    }
    table::lines(&[&["", "frames"], R::HEADS].concat(), &rows)
}
