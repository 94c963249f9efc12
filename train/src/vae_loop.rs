//! Training of the tiny VAE, on single frames.
//!
//! What a diffusion model needs from its latents decides the objective. Their channels are pulled to zero mean and unit
//! variance and away from ±3, where the decoder's tanh would flatten them; the decoder sees them with a little noise, so
//! that neighbouring latents decode alike and the denoiser's errors stay small in the picture. Pixels that differ from
//! the average picture weigh more: in a world of small things on a large background they would otherwise hardly count.
//!
//! All randomness of a step follows from (seed, step), so a resumed run repeats the uninterrupted one. libtorch's generator
//! belongs to the process: a second training beside it would disturb both.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use acdit_codec::vae::tiny::{self, AutoencoderTiny};
use acdit_codec::vae::{Config, Vae};
use acdit_codec::{Frame, color, still};
use acdit_model::{weights, write_atomically};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn};

use crate::checkpoint;
use crate::log::Log;
use crate::optim::{AdamW, AdamWConfig, Ema, FlatParameters, Wsd};
use crate::{Error, Interrupt, metrics};

/// What decides the outcome of a run. Stored in every checkpoint, and a resumed run must agree with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaeRecipe {
    /// The network; `scaling_factor` and `shift_factor` are measured, whatever they say here.
    pub vae: tiny::Config,
    /// Frames per step.
    pub batch: usize,
    /// Steps of the whole schedule.
    pub steps: u64,
    /// Peak learning rate.
    pub rate: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Share of the steps, at the end, over which the rate falls.
    pub decay: f64,
    /// Standard deviation of the noise that the decoder must put up with.
    pub latent_noise: f64,
    /// Weight of the pull on the latents' mean, variance and range.
    pub latent_weight: f64,
    /// How much more a pixel counts that differs from the average picture.
    pub emphasis: f64,
    /// Decay of the weight average.
    pub ema: f64,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for VaeRecipe {
    /// Eight-fold downsampling to four channels, narrow enough to learn the `gravity` world in minutes on two cores: most
    /// of the cost is at full resolution, so there are no residual blocks there.
    fn default() -> Self {
        let vae = tiny::Config {
            encoder_block_out_channels: vec![24; 4],
            decoder_block_out_channels: vec![24; 4],
            num_encoder_blocks: vec![0, 1, 1, 1],
            num_decoder_blocks: vec![1, 1, 1, 0],
            ..tiny::Config::default()
        };
        Self {
            vae,
            batch: 16,
            steps: 3000,
            rate: 2e-3,
            warmup: 50,
            decay: 0.4,
            latent_noise: 0.1,
            latent_weight: 0.01,
            emphasis: 4.0,
            ema: 0.99,
            seed: 0,
        }
    }
}

/// The pictures to learn from.
#[derive(Debug)]
pub struct VaeFrames {
    /// Frames that batches are drawn from.
    pub training: Vec<Frame>,
    /// Frames that only PSNR, SSIM and the latents' scale are measured on.
    pub held_out: Vec<Frame>,
}

/// Where a run happens.
#[derive(Debug)]
pub struct VaeRun<'a> {
    /// Folder of the run: `weights/vae/`, `checkpoints/`, `log.jsonl`, `samples/`.
    pub out: &'a Path,
    /// Continue from the newest checkpoint.
    pub resume: bool,
    /// End after this step although the schedule goes on.
    pub stop_at: Option<u64>,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Newest checkpoints that stay on disk.
    pub keep: NonZeroUsize,
    /// Where to compute.
    pub device: Device,
    /// Asks the loop to save and end.
    pub interrupt: Interrupt,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct VaeSummary {
    /// Steps done.
    pub step: u64,
    /// Mean loss since the last record in the log.
    pub loss: f64,
    /// Over the held-out frames, by the weights as written, in dB.
    pub psnr: f64,
    /// Likewise, at most 1.
    pub ssim: f64,
}

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    recipe: VaeRecipe,
}

#[derive(Serialize)]
struct Record {
    step: u64,
    loss: f64,
    gradient_norm: f64,
    rate: f64,
    seconds_per_step: f64,
}

const LOG_EVERY: u64 = 20;
/// Frames that one forward of an evaluation takes: bounds memory.
const EVALUATION_BATCH: usize = 32;
/// Frames that the average picture is made of.
const AVERAGED_FRAMES: usize = 256;
/// A pixel is emphasised where a channel differs by more than this from the average picture.
const DIFFERENCE: f64 = 0.15;
/// Latents beyond this are pulled back.
const LATENT_RANGE: f64 = 2.5;
const PARAMETERS: &str = "parameters";

/// Trains until the schedule ends, `stop_at`, or an interrupt, and leaves averaged weights, bf16, in
/// `run.out/weights/vae`, and held-out frames beside their reconstructions in `run.out/samples`.
///
/// # Errors
/// [`Error::Options`] for a recipe that contradicts itself, the frames or the checkpoint; [`Error::Diverged`]; files.
pub fn train(recipe: &VaeRecipe, frames: &VaeFrames, run: &VaeRun<'_>) -> Result<VaeSummary, Error> {
    check(recipe, frames)?;
    let checkpoints = run.out.join("checkpoints");
    let found = checkpoint::latest(&checkpoints)?;
    if let (Some(path), false) = (&found, run.resume) {
        let text = format!("{} holds a run already: resume it or choose another folder", path.display());
        return Err(Error::Options(text));
    }
    std::fs::create_dir_all(run.out).map_err(|e| Error::io(run.out, e))?;
    tch::manual_seed(recipe.seed as i64);
    let vs = nn::VarStore::new(run.device);
    let network = AutoencoderTiny::new(&vs.root(), &recipe.vae);
    let mut optimizer = AdamW::new(FlatParameters::new(&vs)?, AdamWConfig::default())?;
    let mut ema = Ema::new(optimizer.parameters(), recipe.ema)?;
    let mut step = match found {
        Some(path) => restore(&path, recipe, &mut optimizer, &mut ema)?,
        None => 0,
    };

    let objective = Objective::new(recipe, frames, run.device)?;
    let rates = Wsd { peak: recipe.rate, warmup: recipe.warmup, total: recipe.steps, decay: recipe.decay };
    let end = run.stop_at.unwrap_or(recipe.steps).min(recipe.steps);
    let mut log = Log::open(&run.out.join("log.jsonl"), step, recipe.steps)?;
    let (mut since, mut losses, mut mean) = (Instant::now(), Vec::new(), f64::NAN);
    while step < end && !run.interrupt.is_set() {
        let loss = objective.loss(&network, step)?;
        optimizer.parameters().add_gradient(&loss)?;
        let gradient_norm =
            (optimizer.step(rates.rate(step))).map_err(|error| error.with_last_good(&checkpoints))?;
        ema.update(optimizer.parameters())?;
        losses.push(f64::try_from(loss)?);
        step += 1;
        if step.is_multiple_of(LOG_EVERY) || step == end {
            mean = losses.iter().sum::<f64>() / losses.len() as f64;
            let (rate, seconds) = (rates.rate(step - 1), since.elapsed().as_secs_f64());
            let seconds_per_step = seconds / losses.len() as f64;
            log.record(step, &Record { step, loss: mean, gradient_norm, rate, seconds_per_step })?;
            log.progress(step, format!("loss {mean:.4}"));
            losses.clear();
            since = Instant::now();
        }
        if step.is_multiple_of(run.save_every.max(1)) && step < end {
            save(&checkpoints, step, run.keep, recipe, &optimizer, &ema)?;
        }
    }
    save(&checkpoints, step, run.keep, recipe, &optimizer, &ema)?;
    let averaged = optimizer.parameters().named(ema.values());
    let (psnr, ssim) = export(recipe, &averaged, &frames.held_out, run)?;
    Ok(VaeSummary { step, loss: mean, psnr, ssim })
}

/// The training loss, and the frames that it is taken over.
struct Objective<'a> {
    recipe: &'a VaeRecipe,
    frames: &'a [Frame],
    /// (1, 3, H, W).
    average: Tensor,
    device: Device,
}

impl<'a> Objective<'a> {
    fn new(recipe: &'a VaeRecipe, frames: &'a VaeFrames, device: Device) -> Result<Self, Error> {
        let frames = &frames.training;
        let every = frames.len().div_ceil(AVERAGED_FRAMES);
        let some: Vec<Frame> = frames.iter().step_by(every).cloned().collect();
        let average = color::to_tensor(&some, device)?.mean_dim(0, true, Kind::Float);
        Ok(Self { recipe, frames, average, device })
    }

    fn loss(&self, network: &AutoencoderTiny, step: u64) -> Result<Tensor, Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.seed);
        rng.set_stream(step);
        let mut pick = || self.frames[rng.random_range(0..self.frames.len())].clone();
        let batch: Vec<Frame> = (0..self.recipe.batch).map(|_| pick()).collect();
        tch::manual_seed(rng.random());
        let pixels = color::to_tensor(&batch, self.device)?; // (N, 3, H, W)

        let latents = network.encoder.forward(&pixels); // (N, C, h, w)
        let noisy = &latents + latents.randn_like() * self.recipe.latent_noise;
        let error = network.decoder.forward(&noisy) - &pixels;
        let pixel_loss = error.square() * 2.0 + error.abs() * 0.5;
        let weighted = (pixel_loss * self.weights(&pixels)).mean(Kind::Float);
        Ok(weighted + latent_penalty(&latents) * self.recipe.latent_weight)
    }

    /// (N, 1, H, W), with a mean of 1.
    fn weights(&self, pixels: &Tensor) -> Tensor {
        let difference = (pixels - &self.average).abs().amax([1], true);
        let weights = difference.gt(DIFFERENCE).to_kind(Kind::Float) * self.recipe.emphasis + 1.0;
        &weights / weights.mean(Kind::Float)
    }
}

/// How far the channels are from zero mean, unit variance and the decoder's linear range.
fn latent_penalty(latents: &Tensor) -> Tensor {
    let all_but_channels = [0i64, 2, 3];
    let mean = latents.mean_dim(&all_but_channels[..], true, Kind::Float);
    let variance = (latents - &mean).square().mean_dim(&all_but_channels[..], true, Kind::Float);
    let beyond = (latents.abs() - LATENT_RANGE).relu().square().mean(Kind::Float);
    let spread = ((variance + 1e-6).sqrt() - 1.0).square();
    (mean.square() + spread).mean(Kind::Float) + beyond * 10.0
}

/// Writes the averaged weights with the measured latent scale, reads them back, and measures them.
fn export(
    recipe: &VaeRecipe,
    averaged: &BTreeMap<String, Tensor>,
    held_out: &[Frame],
    run: &VaeRun<'_>,
) -> Result<(f64, f64), Error> {
    let folder = run.out.join("weights").join("vae");
    let mut config = tiny::Config { scaling_factor: 1.0, shift_factor: Some(0.0), ..recipe.vae.clone() };
    let vs = nn::VarStore::new(run.device);
    let network = AutoencoderTiny::new(&vs.root(), &config);
    weights::assign(&vs, averaged, &folder)?;
    let (mut pixels, mut raw) = (Vec::new(), Vec::new());
    for chunk in held_out.chunks(EVALUATION_BATCH) {
        let chunk = color::to_tensor(chunk, run.device)?;
        raw.push(tch::no_grad(|| network.encoder.forward(&chunk)));
        pixels.push(chunk);
    }
    let raw = Tensor::cat(&raw, 0);
    config.shift_factor = Some(f64::try_from(raw.mean(Kind::Double))?);
    config.scaling_factor = f64::try_from(raw.std(false))?.recip();
    Vae::save(&folder, &Config::AutoencoderTiny(config), &vs, Kind::BFloat16)?;

    let vae = Vae::load(&folder, run.device, Kind::Float)?;
    let decode = |pixels: &Tensor| vae.decoder.decode(&vae.encoder.encode(pixels)?);
    let decoded = pixels.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let (pixels, decoded) = (Tensor::cat(&pixels, 0), Tensor::cat(&decoded, 0).clamp(-1.0, 1.0));
    let samples = run.out.join("samples");
    std::fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, e))?;
    write_atomically(&samples.join("reconstructions.png"), &still::png(&comparison(&pixels, &decoded)?)?)?;
    Ok((metrics::psnr(&decoded, &pixels)?, metrics::ssim(&decoded, &pixels)?))
}

/// A contact sheet: rows of held-out frames, each above the row of their reconstructions.
fn comparison(pixels: &Tensor, decoded: &Tensor) -> Result<Frame, Error> {
    const COLUMNS: usize = 8;
    const ROWS: usize = 4;
    let every = (pixels.size()[0] as usize).div_ceil(COLUMNS * ROWS).max(1);
    let pick = |frames: &Tensor| color::to_frames(&frames.slice(0, None, None, every as i64));
    let (pixels, decoded) = (pick(pixels)?, pick(decoded)?);
    let rows = pixels.chunks(COLUMNS).zip(decoded.chunks(COLUMNS));
    let cells: Vec<Frame> = rows.flat_map(|(above, below)| [above, below].concat()).collect();
    Ok(still::contact_sheet(&cells, COLUMNS.min(pixels.len()))?)
}

fn check(recipe: &VaeRecipe, frames: &VaeFrames) -> Result<(), Error> {
    recipe.vae.validate()?;
    let fail = |text: String| Err(Error::Options(text));
    let multiple = recipe.vae.downsampling() as u32;
    let Some(size) = frames.training.first().map(Frame::size) else {
        return fail("there are no frames to train on".into());
    };
    if frames.held_out.is_empty() {
        return fail("there are no held-out frames to measure".into());
    }
    if !size.width.is_multiple_of(multiple) || !size.height.is_multiple_of(multiple) {
        return fail(format!("frames of {size}: both sides must be multiples of {multiple}"));
    }
    let VaeRecipe { batch, steps, rate, ema, decay, .. } = recipe;
    if *batch == 0 || *steps == 0 {
        return fail(format!("batch {batch}, {steps} steps: each must be at least 1"));
    }
    let share = 0.0..=1.0;
    let positive = rate.is_finite() && *rate > 0.0;
    if !positive || !share.contains(ema) || !share.contains(decay) {
        return fail(format!("learning rate {rate}, EMA decay {ema}, falling share {decay}: out of range"));
    }
    Ok(())
}

fn save(
    folder: &Path,
    step: u64,
    keep: NonZeroUsize,
    recipe: &VaeRecipe,
    optimizer: &AdamW,
    ema: &Ema,
) -> Result<(), Error> {
    let mut tensors: BTreeMap<String, Tensor> = optimizer.state().into_iter().chain([ema.state()]).collect();
    tensors.insert(PARAMETERS.into(), optimizer.parameters().values().shallow_clone());
    checkpoint::save(folder, step, keep, &State { step, recipe: recipe.clone() }, &tensors)?;
    Ok(())
}

fn restore(path: &Path, recipe: &VaeRecipe, optimizer: &mut AdamW, ema: &mut Ema) -> Result<u64, Error> {
    let (state, tensors): (State, _) = checkpoint::load(path)?;
    let failed = |reason: String| Error::Checkpoint { path: path.into(), reason };
    if state.recipe != *recipe {
        let json = |recipe| serde_json::to_string(recipe).unwrap_or_default();
        let (there, here) = (json(&state.recipe), json(recipe));
        return Err(failed(format!("made with another recipe: {there} there, {here} here")));
    }
    optimizer.restore(state.step, &tensors)?;
    ema.restore(state.step, &tensors)?;
    let saved = tensors.get(PARAMETERS).ok_or_else(|| failed(format!("{PARAMETERS} is missing")))?;
    tch::no_grad(|| optimizer.parameters().values().shallow_clone().f_copy_(saved))?;
    Ok(state.step)
}
