//! Training of the network on a bank of latents.
//!
//! The objective is the paper's: every block of a clip gets its own timestep, the network predicts ε or v for all noised
//! blocks under SCAM, mean squared error. Added here: clips may be longer than the window, labels are dropped per block
//! (a label is an action), and the clean context carries a little noise so that the stream forgives its own errors.
//!
//! All randomness of a step follows from (seed, step), so a resumed run repeats the uninterrupted one.

mod bench;
mod diary;
mod keeping;
mod learner;
mod noising;
mod progress;
mod recipe;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use acdit_model::Rope;
use acdit_model::diffusion::{Schedule, SchedulerConfig};
use acdit_parallel::Group;
use acdit_runtime::WorldMeta;
use serde::Serialize;
use tch::Device;

pub use self::bench::{Measured, measure};
use self::diary::Diary;
use self::keeping::{own_context_from, restore, save};
use self::learner::Learner;
use self::noising::Noising;
use self::progress::Progress;
pub use self::recipe::Recipe;
use crate::bank::{Draws, LatentBank};
use crate::checkpoint;
use crate::description::Data;
use crate::optim::Wsd;
use crate::{Error, Interrupt, Loader, Start};

/// Where a run happens.
#[derive(Debug)]
pub struct Run<'a> {
    /// Folder of the run: `weights/`, `checkpoints/`, `log.jsonl`, `samples/`.
    pub out: &'a Path,
    /// The VAE that encoded the bank; copied into the weights.
    pub vae: &'a Path,
    /// Names and frame rate of what is learned.
    pub meta: &'a WorldMeta,
    /// How many clips' beginnings the weights come with, for streams to begin with.
    pub prompts: usize,
    /// Weights to go on from, of the recipe's network; random ones otherwise.
    pub start: Option<&'a Start>,
    /// Continue from the newest checkpoint.
    pub resume: bool,
    /// End after this step although the schedule goes on.
    pub stop_at: Option<u64>,
    /// Steps between checkpoints, weights and samples.
    pub save_every: u64,
    /// Newest checkpoints that stay on disk, beside the best one.
    pub keep: NonZeroUsize,
    /// What is done to save memory.
    pub memory: Memory,
    /// The processes that share each step's batch. The first of them alone writes.
    pub group: &'a Group,
    /// Where to compute.
    pub device: Device,
    /// Asks the loop to save and end; one process's is enough.
    pub interrupt: Interrupt,
}

/// How a step may do with less memory; the gradient is the same to rounding.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Backward passes of a step, each over an equal part of the batch.
    pub accumulate: NonZeroUsize,
    /// Whether the backward pass computes activations anew ([`acdit_model::Acdit::training_backward`]), which takes more time.
    pub recompute: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self { accumulate: NonZeroUsize::MIN, recompute: false }
    }
}

impl Memory {
    /// # Errors
    /// [`Error::Options`] if the batch cannot be divided so.
    pub(crate) fn check(self, recipe: &Recipe, group: &Group) -> Result<(), Error> {
        let (batch, parts, processes) = (recipe.batch, self.accumulate, group.world());
        if !batch.is_multiple_of(processes) {
            return Err(Error::Options(format!(
                "a batch of {batch} clips cannot be shared by {processes} processes"
            )));
        }
        let batch = batch / processes;
        if batch.is_multiple_of(parts.get()) {
            return Ok(());
        }
        Err(Error::Options(format!("a batch of {batch} clips cannot be accumulated in {parts} equal parts")))
    }
}

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Steps done.
    pub step: u64,
    /// Mean loss of the last [`LOG_EVERY`] steps; of those since the last line of the log if it ended between two.
    pub loss: Option<f64>,
}

/// Steps between log lines.
pub const LOG_EVERY: u64 = 20;

/// Trains until the schedule ends, `stop_at`, or an interrupt, and leaves averaged weights in `run.out/weights`.
///
/// # Errors
/// As [`check`], and [`Error::Options`] for a bank that does not fit the network; [`Error::Checkpoint`] for one made by
/// another recipe; [`Error::Interrupted`] before the first step; [`Error::Diverged`]; [`Error::Parallel`] once another process
/// of the group has ended; files.
pub fn train(recipe: &Recipe, bank: &LatentBank, run: &Run<'_>) -> Result<Summary, Error> {
    let (group, newest) = (run.group, check(recipe, run)?);
    check_bank(recipe, bank)?;
    let data = Data::new(bank, run.vae)?;
    let mut learner = Learner::new(recipe, run.start, run.memory, group, run.device)?;
    let mut progress = match newest {
        Some(path) => restore(&path, recipe, &data, run, &mut learner)?,
        None if run.interrupt.is_set() => return Err(Error::Interrupted),
        None => Progress::default(),
    };
    check_agreement(recipe, &data, progress.step, run)?;

    let window = recipe.model.context_window.map_or(recipe.blocks, |window| window as usize);
    let prompts = bank.prompts(run.prompts, window.min(recipe.blocks));
    let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction))?;
    let noising = Noising::new(&schedule, recipe, group, run.device)?;
    let rates = Wsd { peak: recipe.rate, warmup: recipe.warmup, total: recipe.steps, decay: recipe.decay };
    let diverged = |error: Error| error.with_last_good(&run.out.join("checkpoints"));
    let end = run.stop_at.unwrap_or(recipe.steps).min(recipe.steps);
    let mut diary = Diary::open(recipe, progress.step, run)?;
    let asked_to_end = || if run.interrupt.is_set() { 1.0 } else { 0.0 };
    let [mut ending] = group.mean([asked_to_end()])?;
    let share = (group.rank(), group.world());
    let draws = Draws { seed: recipe.seed, batch: recipe.batch, blocks: recipe.blocks, share };
    let mut loader = Loader::new(bank, draws, progress.step)?;
    while progress.step < end && ending == 0.0 {
        let windows = loader.next_batch()?;
        let mut example = noising.batch(progress.step, &windows);
        if recipe.self_context > 0.0 && progress.step as f64 >= recipe.steps as f64 * own_context_from(run) {
            let clean = &example.batch.clean;
            example.batch.clean =
                tch::no_grad(|| noising.own_context(&learner.model, clean, &windows.labels))?;
        }
        let rate = rates.rate(progress.step);
        let (loss, gradient_norm) = learner.step(&example, rate).map_err(diverged)?;
        let [loss, asked] = group.mean([loss, asked_to_end()])?;
        ending = asked;
        progress.advance(loss);
        let step = progress.step;
        if step % LOG_EVERY == 0 || step == end {
            diary.line(&mut progress, gradient_norm, rate, loader.take_wait()).map_err(diverged)?;
        }
        if step % run.save_every == 0 && step < end && group.leads() {
            save(&mut progress, recipe, &data, run, &learner, prompts.as_ref())?;
        }
    }
    if group.leads() {
        save(&mut progress, recipe, &data, run, &learner, prompts.as_ref())?;
    }
    group.barrier()?; // nobody reports success before all is written
    Ok(Summary { step: progress.step, loss: progress.loss })
}

/// Processes started with other flags, or that found other checkpoints, would train something that no recipe describes.
fn check_agreement(recipe: &Recipe, data: &Data, step: u64, run: &Run<'_>) -> Result<(), Error> {
    let start = run.start.map(|start| &start.fingerprint);
    let own = serde_json::json!([recipe, data, step, start, run.stop_at, run.save_every]).to_string();
    if run.group.agree(blake3::hash(own.as_bytes()).as_bytes())? {
        return Ok(());
    }
    let (rank, world) = (run.group.rank(), run.group.world());
    Err(Error::Options(format!(
        "the {world} processes were not all started with the same flags, or found other data or checkpoints: {rank} is at step {step}"
    )))
}

/// Whether a run may begin, as far as that can be told before any clip is encoded; returns the checkpoint to resume.
///
/// # Errors
/// [`Error::Options`] for values out of range, a folder that holds a run already, or none to resume; [`Error::Model`] for
/// sizes that contradict one another.
pub fn check(recipe: &Recipe, run: &Run<'_>) -> Result<Option<PathBuf>, Error> {
    recipe.check()?;
    run.meta.check(&recipe.model).map_err(Error::Options)?;
    Rope::new(&recipe.model).positions(0, recipe.blocks as i64)?;
    let fail = |text: String| Err(Error::Options(text));
    let same = |start: &Start| {
        let (here, there) = (run.out.join("weights").canonicalize(), start.folder.canonicalize());
        here.is_ok_and(|here| there.is_ok_and(|there| here == there))
    };
    if run.start.is_some_and(same) {
        return fail(format!("{}: a run cannot go on from the weights that it writes", run.out.display()));
    }
    run.memory.check(recipe, run.group)?;
    let newest = checkpoint::latest(&run.out.join("checkpoints"))?;
    match (&newest, run.resume) {
        (Some(path), false) => {
            fail(format!("{} holds a run already: resume it or choose another folder", path.display()))
        }
        (None, true) => fail(format!("{} holds no checkpoint to resume", run.out.display())),
        _ => Ok(newest),
    }
}

fn check_bank(recipe: &Recipe, bank: &LatentBank) -> Result<(), Error> {
    let [_, c, h, w] = recipe.model.block_shape();
    match bank.latent_shape() {
        Some(shape) if shape != [c, h, w] => {
            let expected = [c, h, w];
            Err(Error::Options(format!("the data's latents are {shape:?}, the network expects {expected:?}")))
        }
        Some(_) => Ok(()),
        None => Err(Error::Options("there are no clips to train on".into())),
    }
}
