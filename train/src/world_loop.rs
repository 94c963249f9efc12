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
    /// Weight of a clip's first block in the loss, relative to the others. It has no context, so most of what it shows
    /// cannot be foreseen and its gradient is mostly noise.
    pub first_block_weight: f64,
    /// Largest standard deviation of the noise on the clean context; each clip draws its own.
    pub context_noise: f64,
    /// Probability with which a clip's context is not the clip's but, for half of its blocks, what the network makes of
    /// them in one step: a stream's context is its own work, and its faults must not grow. Over the last third of the
    /// schedule, once there is something to learn from; costs a forward pass a step.
    #[serde(default)]
    pub self_context: f64,
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
    /// How many clips' beginnings the weights come with, for streams to begin with.
    pub openings: usize,
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

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    ema_updates: u64,
    recipe: Recipe,
    /// Mean loss when it was saved.
    #[serde(default)]
    loss: Option<f64>,
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
/// Share of the schedule after which [`Recipe::self_context`] holds.
const OWN_CONTEXT_FROM: f64 = 2.0 / 3.0;
/// Noise below which errors of a predicted x₀ weigh no more.
const LEAST_SIGMA: f64 = 0.3;

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
    let mut optimizer = AdamW::new(FlatParameters::new(&vs)?, AdamWConfig::default())?;
    let mut ema = Ema::new(optimizer.parameters(), recipe.ema)?;
    let mut done = match newest {
        Some(path) => restore(&path, recipe, &mut optimizer, &mut ema)?,
        None if run.interrupt.is_set() => return Err(Error::Interrupted),
        None => Summary { step: 0, loss: None },
    };

    let window = recipe.model.context_window.map_or(recipe.blocks, |window| window as usize);
    let openings = bank.openings(run.openings, window.min(recipe.blocks));
    let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction))?;
    let noising = Noising::new(&schedule, recipe, run.device);
    let rates = Wsd { peak: recipe.rate, warmup: recipe.warmup, total: recipe.steps, decay: DECAY };
    let end = run.stop_at.unwrap_or(recipe.steps).min(recipe.steps);
    std::fs::create_dir_all(run.out).map_err(|e| Error::io(run.out, e))?;
    let mut log = Log::open(&run.out.join("log.jsonl"), done.step, recipe.steps)?;
    let (mut since, mut losses) = (Instant::now(), Vec::new());
    while done.step < end && !run.interrupt.is_set() {
        let (latents, labels) = bank.batch(recipe.seed, done.step, recipe.batch, recipe.blocks)?;
        let Example { mut batch, target, weight } = noising.batch(done.step, &latents, &labels);
        if recipe.self_context > 0.0 && done.step as f64 >= recipe.steps as f64 * OWN_CONTEXT_FROM {
            batch.clean = tch::no_grad(|| noising.own_context(&model, &batch))?;
        }
        let prediction = model.training_forward(&batch)?;
        let loss = ((prediction - target).square() * weight).mean(Kind::Float);
        let rate = rates.rate(done.step);
        let gradient_norm = optimizer.step(&loss, rate)?;
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
            save(&done, recipe, run, &optimizer, &ema, openings.as_ref())?;
        }
    }
    save(&done, recipe, run, &optimizer, &ema, openings.as_ref())?;
    Ok(done)
}

/// What a step learns from.
struct Example {
    batch: TrainingBatch,
    /// (N, T, B, p²·C).
    target: Tensor,
    /// Weight of each block's squared error (N, T, 1, 1), 1 on average over a clip but for the noise's part in it.
    weight: Tensor,
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

    /// From latents (N, T, F, C, h, w) and labels (N, T).
    fn batch(&self, step: u64, latents: &Tensor, labels: &Tensor) -> Example {
        // odd multiplier: distinct steps get distinct seeds
        tch::manual_seed((self.recipe.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15)) as i64);
        let (latents, labels) = (latents.to_device(self.device), labels.to_device(self.device));
        let (n, t) = (latents.size()[0], latents.size()[1]);
        let tokens = self.patcher.tokens(&latents.flatten(0, 1)); // (N·T, B, p²·C)
        let clean = tokens.view([n, t, tokens.size()[1], tokens.size()[2]]);
        let timesteps = Tensor::randint(self.schedule.len() as i64, [n, t], (Kind::Int64, self.device));
        let (alpha, sigma) = (self.share(&self.alphas, &timesteps), self.share(&self.sigmas, &timesteps));
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
        let target = self.schedule.target(&clean, &noise, &alpha, &sigma);
        Example { batch, target, weight: self.weight(t, &sigma) }
    }

    /// The context of `batch`, partly replaced as [`Recipe::self_context`] says.
    fn own_context(&self, model: &Acdit, batch: &TrainingBatch) -> Result<Tensor, Error> {
        let TrainingBatch { clean, noised, timesteps, .. } = batch;
        let (n, t) = (clean.size()[0], clean.size()[1]);
        let (alpha, sigma) = (self.share(&self.alphas, timesteps), self.share(&self.sigmas, timesteps));
        let prediction = model.training_forward(batch)?;
        let own = self.schedule.clean_estimate_at(&alpha, &sigma, noised, &prediction);
        let random = |shape: [i64; 4]| Tensor::rand(shape, (Kind::Float, self.device));
        let chosen = random([n, 1, 1, 1]).lt(self.recipe.self_context);
        let chosen = chosen.logical_and(&random([n, t, 1, 1]).lt(0.5));
        Ok(own.where_self(&chosen, clean))
    }

    /// A schedule's table at each block's timestep: (N, T, 1, 1).
    fn share(&self, table: &Tensor, timesteps: &Tensor) -> Tensor {
        table.index_select(0, &timesteps.view(-1)).view_as(timesteps).unsqueeze(-1).unsqueeze(-1)
    }

    /// An error δ of x₀ is one of δ/σ in v: weighted so, predicting x₀ learns what predicting v would, down to the noise
    /// below which x₀ is plain to see and the weight would only grow.
    fn weight(&self, blocks: i64, sigma: &Tensor) -> Tensor {
        let first = self.recipe.first_block_weight;
        let others = (blocks - 1) as f64;
        let mut shares = vec![1.0; blocks as usize];
        shares[0] = first;
        let shares = Tensor::from_slice(&shares).to_kind(Kind::Float) * (blocks as f64 / (first + others));
        let shares = shares.view([1, blocks, 1, 1]).to_device(self.device);
        match self.schedule.prediction() {
            Prediction::Sample => shares / sigma.clamp_min(LEAST_SIGMA).square(),
            Prediction::Epsilon | Prediction::V => shares.expand_as(sigma),
        }
    }
}

/// Whether a run may begin, as far as that can be told before any clip is encoded; returns the checkpoint to resume.
///
/// # Errors
/// [`Error::Options`] for values out of range, a folder that holds a run already, or none to resume; [`Error::Model`] for
/// sizes that contradict one another.
pub fn check(recipe: &Recipe, run: &Run<'_>) -> Result<Option<PathBuf>, Error> {
    recipe.model.validate()?;
    let fail = |text: String| Err(Error::Options(text));
    let Recipe {
        batch,
        blocks,
        steps,
        rate,
        label_dropout,
        ema,
        context_noise,
        first_block_weight,
        self_context,
        ..
    } = *recipe;
    if batch == 0 || blocks == 0 || steps == 0 {
        return fail(format!("batch {batch}, {blocks} blocks, {steps} steps: each must be at least 1"));
    }
    for (name, value, range) in [
        ("learning rate", rate, f64::MIN_POSITIVE..f64::INFINITY),
        ("label dropout", label_dropout, 0.0..1.0),
        ("first block's weight", first_block_weight, f64::MIN_POSITIVE..f64::INFINITY),
        ("share of own context", self_context, 0.0..1.0 + f64::EPSILON),
        ("context noise", context_noise, 0.0..10.0),
        ("EMA decay", ema, 0.0..1.0),
    ] {
        if !range.contains(&value) {
            return fail(format!(
                "{name} {value}: expected {:?} to {:?}, the latter excluded",
                range.start, range.end
            ));
        }
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

/// Writes a checkpoint, and what the averaged weights are and look like at that step.
fn save(
    done: &Summary,
    recipe: &Recipe,
    run: &Run<'_>,
    optimizer: &AdamW,
    ema: &Ema,
    openings: Option<&Tensor>,
) -> Result<(), Error> {
    let mut tensors: BTreeMap<String, Tensor> = optimizer.state().into_iter().chain([ema.state()]).collect();
    tensors.insert(PARAMETERS.into(), optimizer.parameters().values().shallow_clone());
    let state = State { step: done.step, ema_updates: done.step, recipe: recipe.clone(), loss: done.loss };
    checkpoint::save(&run.out.join("checkpoints"), done.step, &state, &tensors)?;
    let tensors = optimizer.parameters().named(ema.values());
    export(recipe, run, &tensors, openings, done.step)
}

const PARAMETERS: &str = "parameters";

/// Whether `recipe` goes on from `state` as if it had been followed from the start: it is the same, or differs in the number
/// of steps alone while neither schedule has come to its own context or to the fall of its rate.
fn goes_on(state: &State, recipe: &Recipe) -> bool {
    let constant = if recipe.self_context > 0.0 { OWN_CONTEXT_FROM } else { 1.0 - DECAY };
    let unchanged = |steps: u64| (state.step as f64) <= steps as f64 * constant;
    let other_steps = Recipe { steps: recipe.steps, ..state.recipe.clone() };
    state.recipe == *recipe
        || (other_steps == *recipe && unchanged(recipe.steps) && unchanged(state.recipe.steps))
}

fn restore(path: &Path, recipe: &Recipe, optimizer: &mut AdamW, ema: &mut Ema) -> Result<Summary, Error> {
    let (state, tensors): (State, _) = checkpoint::load(path)?;
    if !goes_on(&state, recipe) {
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
    Ok(Summary { step: state.step, loss: state.loss })
}

/// Writes the averaged weights as a weights folder, and a contact sheet of what they generate.
fn export(
    recipe: &Recipe,
    run: &Run<'_>,
    tensors: &BTreeMap<String, Tensor>,
    openings: Option<&Tensor>,
    step: u64,
) -> Result<(), Error> {
    let folder = run.out.join("weights");
    let scheduler = SchedulerConfig::paper(recipe.prediction);
    WorldFolder {
        config: &recipe.model,
        tensors,
        kind: Kind::BFloat16,
        scheduler: &scheduler,
        meta: run.meta,
        vae: Some(run.vae),
        openings,
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
    let mut session = Session::open(&world, Settings::of(&world, 0))?;
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
