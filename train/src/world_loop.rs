//! Training of the network on a bank of latents.
//!
//! The objective is the paper's: every block of a clip gets its own timestep, the network predicts ε or v for all noised
//! blocks under SCAM, mean squared error. Added here: clips may be longer than the window, labels are dropped per block
//! (a label is an action), and the clean context carries a little noise so that the stream forgives its own errors.
//!
//! All randomness of a step follows from (seed, step), so a resumed run repeats the uninterrupted one.

mod keeping;
mod noising;
mod recipe;

use std::path::{Path, PathBuf};
use std::time::Instant;

use acdit_model::diffusion::{Schedule, SchedulerConfig};
use acdit_model::{Acdit, Rope};
use acdit_runtime::WorldMeta;
use serde::Serialize;
use tch::{Device, Kind, nn};

use self::keeping::{own_context_from, restore, save};
use self::noising::{Example, Noising};
pub use self::recipe::Recipe;
use crate::bank::LatentBank;
use crate::checkpoint;
use crate::log::Log;
use crate::optim::{AdamW, AdamWConfig, Ema, FlatParameters, Wsd};
use crate::{Error, Interrupt, Start};

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
    /// Where to compute.
    pub device: Device,
    /// Asks the loop to save and end.
    pub interrupt: Interrupt,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Steps done.
    pub step: u64,
    /// Mean loss of the last [`LOG_EVERY`] steps; of those since the last line of the log if it ended between two.
    pub loss: Option<f64>,
}

#[derive(Serialize)]
struct Record {
    step: u64,
    loss: f64,
    gradient_norm: f64,
    rate: f64,
    seconds_per_step: f64,
}

/// Steps between log lines.
pub const LOG_EVERY: u64 = 20;

/// Trains until the schedule ends, `stop_at`, or an interrupt, and leaves averaged weights in `run.out/weights`.
///
/// # Errors
/// As [`check`], and [`Error::Options`] for a bank that does not fit the network; [`Error::Checkpoint`] for one made by
/// another recipe; [`Error::Interrupted`] before the first step; [`Error::Diverged`]; files.
pub fn train(recipe: &Recipe, bank: &LatentBank, run: &Run<'_>) -> Result<Summary, Error> {
    let newest = check(recipe, run)?;
    check_bank(recipe, bank)?;
    let vs = nn::VarStore::new(run.device);
    tch::manual_seed(recipe.seed as i64);
    let compute = if recipe.bf16 { Kind::BFloat16 } else { Kind::Float };
    let model = Acdit::new(&vs.root(), &recipe.model, compute)?;
    if let Some(start) = run.start {
        start.copy_to(&vs)?;
    }
    let mut optimizer = AdamW::new(FlatParameters::new(&vs)?, AdamWConfig::default())?;
    let mut ema = Ema::new(optimizer.parameters(), recipe.ema)?;
    let mut done = match newest {
        Some(path) => restore(&path, recipe, run, &mut optimizer, &mut ema)?,
        None if run.interrupt.is_set() => return Err(Error::Interrupted),
        None => Summary { step: 0, loss: None },
    };

    let window = recipe.model.context_window.map_or(recipe.blocks, |window| window as usize);
    let prompts = bank.prompts(run.prompts, window.min(recipe.blocks));
    let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction))?;
    let noising = Noising::new(&schedule, recipe, run.device);
    let rates = Wsd { peak: recipe.rate, warmup: recipe.warmup, total: recipe.steps, decay: recipe.decay };
    let end = run.stop_at.unwrap_or(recipe.steps).min(recipe.steps);
    std::fs::create_dir_all(run.out).map_err(|e| Error::io(run.out, e))?;
    let mut log = Log::open(&run.out.join("log.jsonl"), done.step, recipe.steps)?;
    let (mut since, mut losses) = (Instant::now(), Vec::new());
    while done.step < end && !run.interrupt.is_set() {
        let (latents, labels) = bank.batch(recipe.seed, done.step, recipe.batch, recipe.blocks)?;
        let Example { mut batch, target, weight } = noising.batch(done.step, &latents, &labels);
        if recipe.self_context > 0.0 && done.step as f64 >= recipe.steps as f64 * own_context_from(run) {
            batch.clean = tch::no_grad(|| noising.own_context(&model, &batch.clean, &labels))?;
        }
        let prediction = model.training_forward(&batch)?;
        let loss = ((prediction - target).square() * weight).mean(Kind::Float);
        let rate = rates.rate(done.step);
        optimizer.parameters().add_gradient(&loss)?;
        let gradient_norm = optimizer.step(rate)?;
        ema.update(optimizer.parameters())?;
        losses.push(f64::try_from(loss)?);
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        done = Summary { step: done.step + 1, loss: Some(mean) };
        let Summary { step, .. } = done;
        if step % LOG_EVERY == 0 || step == end {
            let seconds_per_step = since.elapsed().as_secs_f64() / losses.len() as f64;
            log.record(&Record { step, loss: mean, gradient_norm, rate, seconds_per_step })?;
            log.progress(step, format!("loss {mean:.4}"));
            losses.clear();
            since = Instant::now();
        }
        if step % run.save_every == 0 && step < end {
            save(&done, recipe, run, &optimizer, &ema, prompts.as_ref())?;
        }
    }
    save(&done, recipe, run, &optimizer, &ema, prompts.as_ref())?;
    Ok(done)
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
