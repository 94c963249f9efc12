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
use acdit_model::{Acdit, Config, Patcher, Rope, TrainingBatch};
use acdit_runtime::{Session, Settings, StepInput, World, WorldFolder, WorldMeta};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn};

use crate::bank::LatentBank;
use crate::checkpoint::{self, write_atomically};
use crate::log::Log;
use crate::optim::{AdamW, AdamWConfig, Ema, FlatParameters, Wsd};
use crate::{Error, Interrupt, Start};

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
    /// Share of the schedule over which the rate falls to 0 at its end; 0.15 in the paper.
    pub decay: f64,
    /// Probability with which a block's label is replaced by the null label.
    pub label_dropout: f64,
    /// Weight of a clip's first block in the loss, relative to the others. It has no context, so most of what it shows
    /// cannot be foreseen and its gradient is mostly noise.
    pub first_block_weight: f64,
    /// Largest standard deviation of the noise on the clean context; each clip draws its own.
    pub context_noise: f64,
    /// Share of the clips whose context is not the clip's but, for a random share of its blocks, what the network
    /// makes of them as a stream does: from noise, then from its own guess noised again, the second time after its own
    /// guesses at the blocks before. A stream's context is its own work, and its faults must not grow. Over the last third
    /// of the schedule, once there is something to learn from, or all of one that goes on from weights; costs two forward
    /// passes a step.
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

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    ema_updates: u64,
    recipe: Recipe,
    /// [`Start::fingerprint`], if the run went on from weights.
    start: Option<String>,
    /// Names of the labels.
    labels: Vec<String>,
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
            save(&done, recipe, run, &optimizer, &ema, prompts.as_ref())?;
        }
    }
    save(&done, recipe, run, &optimizer, &ema, prompts.as_ref())?;
    Ok(done)
}

/// What a step learns from.
struct Example {
    batch: TrainingBatch,
    /// (N, T, B, p²·C).
    target: Tensor,
    /// See [`Noising::weight`].
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
    /// Weight of a clip's blocks by their place, 1 on average: (1, T, 1, 1) f32.
    places: Tensor,
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
        let mut places = vec![1.0; recipe.blocks];
        places[0] = recipe.first_block_weight;
        let mean = places.iter().sum::<f64>() / recipe.blocks as f64;
        let places = (Tensor::from_slice(&places) / mean).to_kind(Kind::Float).to_device(device);
        let places = places.view([1, recipe.blocks as i64, 1, 1]);
        Self { schedule, recipe, patcher: Patcher::new(&recipe.model), alphas, sigmas, places, device }
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
        Example { batch, target, weight: self.weight(&sigma) }
    }

    /// The context `clean` (N, T, B, p²·C) of blocks labelled `labels`, partly replaced as [`Recipe::self_context`] says.
    fn own_context(&self, model: &Acdit, clean: &Tensor, labels: &Tensor) -> Result<Tensor, Error> {
        let (n, t) = (clean.size()[0], clean.size()[1]);
        // clips come in random order: the first are as good as any; the share holds on average
        let chance = f64::try_from(Tensor::rand([1], (Kind::Double, self.device)))?;
        let chosen = ((self.recipe.self_context * n as f64 + chance).floor() as i64).min(n);
        if chosen == 0 {
            return Ok(clean.shallow_clone());
        }
        let labels = labels.narrow(0, 0, chosen).to_device(self.device);
        let mut context = clean.narrow(0, 0, chosen);
        let mut estimate = context.zeros_like();
        let random = |shape: [i64; 4]| Tensor::rand(shape, (Kind::Float, self.device));
        let share = random([chosen, 1, 1, 1]);
        let end = self.schedule.len() as i64;
        for (lowest, above) in [(end - 1, end), (end / 10, end * 9 / 10)] {
            let timesteps = Tensor::randint_low(lowest, above, [chosen, t], (Kind::Int64, self.device));
            let (alpha, sigma) = (self.share(&self.alphas, &timesteps), self.share(&self.sigmas, &timesteps));
            let noised = estimate * &alpha + context.randn_like() * &sigma;
            let labels = labels.shallow_clone();
            let batch = TrainingBatch { noised, labels, clean: context.shallow_clone(), timesteps };
            let prediction = model.training_forward(&batch)?;
            estimate = self.schedule.clean_estimate_at(&alpha, &sigma, &batch.noised, &prediction);
            let replaced = random([chosen, t, 1, 1]).lt_tensor(&share);
            let _ = replaced.narrow(1, 0, 1).fill_(0); // nothing foretells a clip's first block
            context = estimate.where_self(&replaced, &context);
        }
        Ok(Tensor::cat(&[context, clean.narrow(0, chosen, n - chosen)], 0))
    }

    /// A schedule's table at each block's timestep: (N, T, 1, 1).
    fn share(&self, table: &Tensor, timesteps: &Tensor) -> Tensor {
        table.index_select(0, &timesteps.view(-1)).view_as(timesteps).unsqueeze(-1).unsqueeze(-1)
    }

    /// Weight of each block's squared error, (N, T, 1, 1) or broadcastable to it. An error δ of x₀ is one of δ/σ in v:
    /// weighted so, predicting x₀ learns what predicting v would, down to the noise below which x₀ is plain to see and
    /// the weight would only grow.
    fn weight(&self, sigma: &Tensor) -> Tensor {
        match self.schedule.prediction() {
            Prediction::Sample => &self.places / sigma.clamp_min(LEAST_SIGMA).square(),
            Prediction::Epsilon | Prediction::V => self.places.shallow_clone(),
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
    let Recipe { batch, blocks, steps, .. } = *recipe;
    if batch == 0 || blocks == 0 || steps == 0 {
        return fail(format!("batch {batch}, {blocks} blocks, {steps} steps: each must be at least 1"));
    }
    let within = |name, value: f64, fits: bool, expected| match fits {
        true => Ok(()),
        false => Err(Error::Options(format!("{name} {value}: expected {expected}"))),
    };
    within("decay", recipe.decay, (0.0..=1.0).contains(&recipe.decay), "0 to 1")?;
    let Recipe { rate, first_block_weight, label_dropout, ema, self_context, context_noise, .. } = *recipe;
    let positive = |value: f64| value > 0.0 && value.is_finite();
    within("learning rate", rate, positive(rate), "a number above 0")?;
    let name = "first block's weight";
    within(name, first_block_weight, positive(first_block_weight), "a number above 0")?;
    within("label dropout", label_dropout, (0.0..1.0).contains(&label_dropout), "0 to below 1")?;
    within("EMA decay", ema, (0.0..1.0).contains(&ema), "0 to below 1")?;
    within("share of own context", self_context, (0.0..=1.0).contains(&self_context), "0 to 1")?;
    within("context noise", context_noise, (0.0..10.0).contains(&context_noise), "0 to below 10")?;
    if self_context > 0.0 && recipe.prediction == Prediction::Epsilon {
        // x₀ = (x − σε)/α, and α is 0.006 where sampling begins
        let why = "from ε, nothing can be told of x₀ in pure noise";
        return fail(format!(
            "own context needs a network that predicts x₀ or v: {why}; its share must be 0"
        ));
    }
    run.meta.check(&recipe.model).map_err(Error::Options)?;
    Rope::new(&recipe.model).positions(0, blocks as i64)?;
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

/// Writes a checkpoint, and what the averaged weights are and look like at that step.
fn save(
    done: &Summary,
    recipe: &Recipe,
    run: &Run<'_>,
    optimizer: &AdamW,
    ema: &Ema,
    prompts: Option<&Tensor>,
) -> Result<(), Error> {
    let mut tensors: BTreeMap<String, Tensor> = optimizer.state().into_iter().chain([ema.state()]).collect();
    tensors.insert(PARAMETERS.into(), optimizer.parameters().values().shallow_clone());
    let start = run.start.map(|start| start.fingerprint.clone());
    let (step, recipe, loss) = (done.step, recipe.clone(), done.loss);
    let state = State { step, ema_updates: step, recipe, start, labels: run.meta.label_names(), loss };
    checkpoint::save(&run.out.join("checkpoints"), done.step, &state, &tensors)?;
    let tensors = optimizer.parameters().named(ema.values());
    export(&state.recipe, run, &tensors, prompts, step)
}

const PARAMETERS: &str = "parameters";

/// Share of the schedule after which [`Recipe::self_context`] holds.
fn own_context_from(run: &Run<'_>) -> f64 {
    if run.start.is_some() { 0.0 } else { 2.0 / 3.0 }
}

/// Whether `recipe` goes on from `state` as if it had been followed from the start: it is the same, or differs in the
/// number of steps alone while neither schedule has come to its own context or to the fall of its rate.
fn goes_on(state: &State, recipe: &Recipe, run: &Run<'_>) -> bool {
    let own_context = own_context_from(run);
    let constant = if recipe.self_context > 0.0 && own_context > 0.0 {
        own_context.min(1.0 - recipe.decay)
    } else {
        1.0 - recipe.decay
    };
    let unchanged = |steps: u64| (state.step as f64) <= steps as f64 * constant;
    let other_steps = Recipe { steps: recipe.steps, ..state.recipe.clone() };
    state.recipe == *recipe
        || (other_steps == *recipe && unchanged(recipe.steps) && unchanged(state.recipe.steps))
}

fn restore(
    path: &Path,
    recipe: &Recipe,
    run: &Run<'_>,
    optimizer: &mut AdamW,
    ema: &mut Ema,
) -> Result<Summary, Error> {
    let (state, tensors): (State, _) = checkpoint::load(path)?;
    let refuse = |reason| Err(Error::Checkpoint { path: path.into(), reason });
    match (&state.start, run.start) {
        (Some(_), None) => return refuse("that run went on from weights: name them again".to_owned()),
        (None, Some(_)) => return refuse("that run did not go on from weights".to_owned()),
        (Some(there), Some(here)) if *there != here.fingerprint => {
            return refuse("that run went on from other weights".to_owned());
        }
        _ => {}
    }
    if state.labels != run.meta.label_names() {
        return refuse(format!("that run learnt the labels {:?}", state.labels));
    }
    if !goes_on(&state, recipe, run) {
        let json = |recipe: &Recipe| serde_json::to_string(recipe).unwrap_or_default();
        let (there, here) = (json(&state.recipe), json(recipe));
        return refuse(format!("made with another recipe: {there} there, {here} here"));
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
    prompts: Option<&Tensor>,
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
        prompts,
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
    let mut session = Session::prompted(&world, Settings::of(&world, 0))?;
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

#[cfg(test)]
mod tests {
    use acdit_model::Preset;

    use super::*;

    #[test]
    fn own_context_replaces_blocks_of_the_first_clips_and_no_first_block() {
        let model = Config {
            hidden_size: 32,
            num_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 64,
            axis_lengths: vec![16, 2, 2],
            nd_split: vec![2, 1, 1],
            context_window: Some(2),
            ..Config::video(Preset::B, 32, 5)
        };
        let recipe = Recipe {
            model,
            prediction: Prediction::Sample,
            blocks: 6,
            batch: 8,
            steps: 1,
            rate: 1e-3,
            warmup: 1,
            decay: 0.0,
            label_dropout: 0.0,
            first_block_weight: 1.0,
            context_noise: 0.0,
            self_context: 0.5,
            ema: 0.0,
            bf16: false,
            seed: 0,
        };
        let vs = nn::VarStore::new(Device::Cpu);
        let network = Acdit::new(&vs.root(), &recipe.model, Kind::Float).unwrap();
        let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction)).unwrap();
        let noising = Noising::new(&schedule, &recipe, Device::Cpu);
        let tokens = recipe.model.block_tokens();
        let clean = Tensor::ones([8, 6, tokens, recipe.model.token_width()], (Kind::Float, Device::Cpu));
        let labels = Tensor::zeros([8, 6], (Kind::Int64, Device::Cpu));
        let own = tch::no_grad(|| noising.own_context(&network, &clean, &labels)).unwrap();
        assert_eq!(own.size(), clean.size());
        // a network fresh from its initialisation predicts 0
        let replaced: Vec<Vec<bool>> = Vec::try_from(own.eq(0.0).flatten(2, 3).all_dim(2, false)).unwrap();
        let kept: Vec<Vec<bool>> = Vec::try_from(own.eq(1.0).flatten(2, 3).all_dim(2, false)).unwrap();
        for (clip, (replaced, kept)) in replaced.iter().zip(&kept).enumerate() {
            assert!(replaced.iter().zip(kept).all(|(replaced, kept)| replaced != kept), "clip {clip}");
            assert!(kept[0] && (clip < 4 || kept.iter().all(|&kept| kept)), "clip {clip}: {kept:?}");
        }
        let count = replaced.iter().flatten().filter(|&&replaced| replaced).count();
        assert!((1..=20).contains(&count), "{count} of the first four clips' blocks replaced");
        let none = Recipe { self_context: 0.0, ..recipe };
        let none =
            Noising::new(&schedule, &none, Device::Cpu).own_context(&network, &clean, &labels).unwrap();
        assert_eq!(none, clean);
    }
}
