//! Training of the network on a bank of latents.
//!
//! The objective is the paper's: every block of a clip gets its own timestep, the network predicts ε or v for all noised
//! blocks under SCAM, mean squared error. Added here: clips may be longer than the window, labels are dropped per block
//! (a label is an action), and the clean context carries a little noise so that the stream forgives its own errors.
//!
//! All randomness of a step follows from (seed, step), so a resumed run repeats the uninterrupted one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use acdit_codec::vae::Vae;
use acdit_codec::{color, still};
use acdit_model::diffusion::{Prediction, Schedule, SchedulerConfig};
use acdit_model::{Acdit, Config, Patcher, TrainingBatch};
use acdit_runtime::{Session, Settings, StepInput, World, WorldFolder, WorldMeta};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn};

use crate::bank::LatentBank;
use crate::checkpoint::{self, write_atomically};
use crate::log::Log;
use crate::optim::{AdamW, AdamWConfig, Ema, FlatParameters, Wsd};
use crate::{Error, Interrupt};

/// What decides the outcome of a run: two runs with equal recipes, data and build give equal weights. Stored in every
/// checkpoint, and a resumed run must agree with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The network.
    pub model: Config,
    /// What it predicts.
    pub prediction: Prediction,
    /// Blocks per training clip; more than the window, so that the steady state of a stream is met.
    pub blocks: usize,
    /// Clips per step.
    pub batch: usize,
    /// Steps of the whole schedule.
    pub steps: u64,
    /// Peak learning rate.
    pub rate: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Probability with which a block's label is replaced by the null label.
    pub label_dropout: f64,
    /// Largest standard deviation of the noise on the clean context; each clip draws its own.
    pub context_noise: f64,
    /// Decay of the weight average.
    pub ema: f64,
    /// Whether activations are bf16 (weights and optimizer stay f32).
    pub bf16: bool,
    /// Seed of everything random.
    pub seed: u64,
}

/// Where a run happens.
#[derive(Debug)]
pub struct Run<'a> {
    /// Folder of the run: `weights/`, `checkpoints/`, `log.jsonl`, `samples/`.
    pub out: &'a Path,
    /// The VAE that encoded the bank; copied into the weights.
    pub vae: &'a Path,
    /// Names and frame rate of what is learned.
    pub meta: &'a WorldMeta,
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
    /// Mean loss of the last [`LOG_EVERY`] steps.
    pub loss: f64,
}

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    ema_updates: u64,
    recipe: Recipe,
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
const SAMPLE_BLOCKS: usize = 16;
const DECAY: f64 = 0.15;

/// Trains until the schedule ends, `stop_at`, or an interrupt, and leaves averaged weights in `run.out/weights`.
///
/// # Errors
/// [`Error::Options`] for a recipe that contradicts the bank or the checkpoint; [`Error::Diverged`]; files.
pub fn train(recipe: &Recipe, bank: &LatentBank, run: &Run<'_>) -> Result<Summary, Error> {
    check(recipe, bank)?;
    let checkpoints = run.out.join("checkpoints");
    std::fs::create_dir_all(run.out).map_err(|e| Error::io(run.out, e))?;
    let vs = nn::VarStore::new(run.device);
    tch::manual_seed(recipe.seed as i64);
    let compute = if recipe.bf16 { Kind::BFloat16 } else { Kind::Float };
    let model = Acdit::new(&vs.root(), &recipe.model, compute)?;
    let mut optimizer = AdamW::new(FlatParameters::new(&vs)?, AdamWConfig::default())?;
    let mut ema = Ema::new(optimizer.parameters(), recipe.ema)?;
    let mut step = match checkpoint::latest(&checkpoints)? {
        Some(path) if run.resume => restore(&path, recipe, &mut optimizer, &mut ema)?,
        Some(path) => {
            let text = format!("{} holds a run already: resume it or choose another folder", path.display());
            return Err(Error::Options(text));
        }
        None => 0,
    };

    let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction))?;
    let noising = Noising::new(&schedule, recipe, run.device);
    let rates = Wsd { peak: recipe.rate, warmup: recipe.warmup, total: recipe.steps, decay: DECAY };
    let end = run.stop_at.unwrap_or(recipe.steps).min(recipe.steps);
    let mut log = Log::open(&run.out.join("log.jsonl"), step, recipe.steps)?;
    let (mut since, mut losses, mut mean) = (Instant::now(), Vec::new(), f64::NAN);
    while step < end && !run.interrupt.is_set() {
        let (latents, labels) = bank.batch(recipe.seed, step, recipe.batch, recipe.blocks)?;
        let (batch, target) = noising.batch(step, &latents, &labels);
        let prediction = model.training_forward(&batch)?;
        let loss = prediction.mse_loss(&target, tch::Reduction::Mean);
        let gradient_norm = optimizer.step(&loss, rates.rate(step))?;
        ema.update(optimizer.parameters())?;
        losses.push(f64::try_from(loss)?);
        step += 1;
        if step % LOG_EVERY == 0 || step == end {
            mean = losses.iter().sum::<f64>() / losses.len() as f64;
            let seconds_per_step = since.elapsed().as_secs_f64() / losses.len() as f64;
            log.record(&Record {
                step,
                loss: mean,
                gradient_norm,
                rate: rates.rate(step - 1),
                seconds_per_step,
            })?;
            log.progress(step, format!("loss {mean:.4}"));
            losses.clear();
            since = Instant::now();
        }
        if step % run.save_every == 0 && step < end {
            save(&checkpoints, step, recipe, &optimizer, &ema)?;
            export(recipe, run, &optimizer, &ema, step)?;
        }
    }
    save(&checkpoints, step, recipe, &optimizer, &ema)?;
    export(recipe, run, &optimizer, &ema, step)?;
    Ok(Summary { step, loss: mean })
}

/// Draws noise, timesteps and dropped labels, and mixes them into a batch.
struct Noising<'a> {
    schedule: &'a Schedule,
    recipe: &'a Recipe,
    patcher: Patcher,
    /// α and σ of every timestep: (timesteps) f32.
    alphas: Tensor,
    sigmas: Tensor,
    device: Device,
}

impl<'a> Noising<'a> {
    fn new(schedule: &'a Schedule, recipe: &'a Recipe, device: Device) -> Self {
        let levels: Vec<_> = (0..schedule.len() as i64).map(|t| schedule.level(t)).collect();
        let table = |pick: fn(&acdit_model::diffusion::NoiseLevel) -> f64| {
            let values: Vec<f32> = levels.iter().map(|level| pick(level) as f32).collect();
            Tensor::from_slice(&values).to_device(device)
        };
        let (alphas, sigmas) = (table(|level| level.alpha), table(|level| level.sigma));
        Self { schedule, recipe, patcher: Patcher::new(&recipe.model), alphas, sigmas, device }
    }

    /// From latents (N, T, F, C, h, w) and labels (N, T), the network's input and its target (N, T, B, p²·C).
    fn batch(&self, step: u64, latents: &Tensor, labels: &Tensor) -> (TrainingBatch, Tensor) {
        // odd multiplier: distinct steps get distinct seeds
        tch::manual_seed((self.recipe.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15)) as i64);
        let (latents, labels) = (latents.to_device(self.device), labels.to_device(self.device));
        let (n, t) = (latents.size()[0], latents.size()[1]);
        let tokens = self.patcher.tokens(&latents.flatten(0, 1)); // (N·T, B, p²·C)
        let clean = tokens.view([n, t, tokens.size()[1], tokens.size()[2]]);
        let timesteps = Tensor::randint(self.schedule.len() as i64, [n, t], (Kind::Int64, self.device));
        let share = |table: &Tensor| table.index_select(0, &timesteps.view(-1)).view([n, t, 1, 1]);
        let (alpha, sigma) = (share(&self.alphas), share(&self.sigmas));
        let noise = clean.randn_like();
        let context =
            clean.rand_like().narrow(1, 0, 1).narrow(2, 0, 1).narrow(3, 0, 1) * self.recipe.context_noise;
        let dropped = Tensor::rand([n, t], (Kind::Float, self.device)).lt(self.recipe.label_dropout);
        let batch = TrainingBatch {
            noised: &clean * &alpha + &noise * &sigma,
            labels: labels.masked_fill(&dropped, self.recipe.model.num_classes),
            clean: &clean + clean.randn_like() * context,
            timesteps,
        };
        (batch, self.schedule.target(&clean, &noise, &alpha, &sigma))
    }
}

fn check(recipe: &Recipe, bank: &LatentBank) -> Result<(), Error> {
    recipe.model.validate()?;
    let [_, c, h, w] = recipe.model.block_shape();
    let fail = |text: String| Err(Error::Options(text));
    match bank.latent_shape() {
        Some(shape) if shape != [c, h, w] => {
            return fail(format!("the data's latents are {shape:?}, the network expects {:?}", [c, h, w]));
        }
        None => return fail("there are no clips to train on".into()),
        _ => {}
    }
    if recipe.batch == 0 || recipe.blocks == 0 || recipe.steps == 0 {
        let Recipe { batch, blocks, steps, .. } = recipe;
        return fail(format!("batch {batch}, {blocks} blocks, {steps} steps: each must be at least 1"));
    }
    if !(0.0..1.0).contains(&recipe.label_dropout)
        || !(0.0..1.0).contains(&recipe.ema)
        || recipe.rate.is_nan()
        || recipe.rate <= 0.0
    {
        let Recipe { label_dropout, ema, rate, .. } = recipe;
        return fail(format!(
            "label dropout {label_dropout}, EMA decay {ema}, learning rate {rate} out of range"
        ));
    }
    Ok(())
}

fn save(folder: &Path, step: u64, recipe: &Recipe, optimizer: &AdamW, ema: &Ema) -> Result<PathBuf, Error> {
    let mut tensors: BTreeMap<String, Tensor> = optimizer.state().into_iter().chain([ema.state()]).collect();
    tensors.insert(PARAMETERS.into(), optimizer.parameters().values().shallow_clone());
    let state = State { step, ema_updates: step, recipe: recipe.clone() };
    checkpoint::save(folder, step, &state, &tensors)
}

const PARAMETERS: &str = "parameters";

fn restore(path: &Path, recipe: &Recipe, optimizer: &mut AdamW, ema: &mut Ema) -> Result<u64, Error> {
    let (state, tensors): (State, _) = checkpoint::load(path)?;
    if state.recipe != *recipe {
        let json = |recipe: &Recipe| serde_json::to_string(recipe).unwrap_or_default();
        let reason =
            format!("made with another recipe: {} there, {} here", json(&state.recipe), json(recipe));
        return Err(Error::Checkpoint { path: path.into(), reason });
    }
    optimizer.restore(state.step, &tensors)?;
    ema.restore(state.ema_updates, &tensors)?;
    let reason = format!("{PARAMETERS} is missing");
    let saved = tensors.get(PARAMETERS).ok_or(Error::Checkpoint { path: path.into(), reason })?;
    tch::no_grad(|| optimizer.parameters().values().shallow_clone().f_copy_(saved))?;
    Ok(state.step)
}

/// Writes the averaged weights as a weights folder, and a contact sheet of what they generate.
fn export(recipe: &Recipe, run: &Run<'_>, optimizer: &AdamW, ema: &Ema, step: u64) -> Result<(), Error> {
    let folder = run.out.join("weights");
    let tensors = optimizer.parameters().named(ema.values());
    let scheduler = SchedulerConfig::paper(recipe.prediction);
    WorldFolder {
        config: &recipe.model,
        tensors: &tensors,
        kind: Kind::BFloat16,
        scheduler: &scheduler,
        meta: run.meta,
        vae: Some(run.vae),
    }
    .write(&folder)?;
    let sheet = sample(&folder, run.device)?;
    let samples = run.out.join("samples");
    std::fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, e))?;
    write_atomically(&samples.join(format!("step-{step:08}.png")), &still::png(&sheet)?)
}

/// Two blocks a row, the labels taken in turn, from the very path that serves.
fn sample(folder: &Path, device: Device) -> Result<acdit_codec::Frame, Error> {
    let world = World::load(folder, device, Kind::Float)?;
    let decoder = Vae::load(&folder.join("vae"), device, Kind::Float)?.decoder;
    let mut session = Session::new(&world, Settings::of(&world, 0))?;
    let labels = world.meta.labels.len();
    let mut frames = Vec::new();
    for block in 0..SAMPLE_BLOCKS {
        let input = StepInput { label: (block / 3 % labels) as i64, inject: None };
        let latents = session.step(&world, &input)?.latents;
        frames.extend(color::to_frames(&decoder.decode(&latents.to_device(device))?)?);
    }
    let columns = 2 * world.model.config().frames_per_block as usize;
    Ok(still::contact_sheet(&frames, columns)?)
}
