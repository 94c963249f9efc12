//! `train`: a world of one's own.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use acdit_codec::vae::{Config as VaeConfig, Vae};
use acdit_model::diffusion::Prediction;
use acdit_model::{Config, RopeKind};
use acdit_parallel::{Group, Place, TIMEOUT};
use acdit_runtime::WorldMeta;
use acdit_runtime::device::{self, DeviceChoice, Placement, Precision};
use acdit_train::Start;
use acdit_train::dagger::Dagger;
use acdit_train::dataset::{BankSize, Dataset, Skipped, Source};
use acdit_train::listing::Split;
use acdit_train::procedural::FRAMES_PER_BLOCK;
use acdit_train::shards::Shards;
use acdit_train::world_loop::{self, Memory, Recipe, Run};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use tch::Kind;

use crate::args::Threads;
use crate::data::LatentArgs;
use crate::output::{self, Output};
use crate::{config, signals};

/// Share of the clips that learn on their own context.
const OWN_CONTEXT: f64 = 0.35;
/// Of a procedural world, from whose clips nothing is chosen: a stream that begins with nothing has no balls to keep.
const PROMPTS: usize = 16;

/// Where a run is kept and how far it goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct Keeping {
    /// Folder of the run: weights/, checkpoints/, samples/ and log.jsonl
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Go on from the newest checkpoint in the folder, with the same flags; `train` takes another --steps early on
    #[arg(long)]
    pub(crate) resume: bool,
    /// End after this step, with the schedule as it is
    #[arg(long, value_name = "STEP")]
    pub(crate) stop_at: Option<u64>,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 400, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) save_every: u64,
    /// Newest checkpoints to keep; `train` keeps that of the lowest loss beside them, as best.safetensors
    #[arg(long, default_value = "2", value_name = "N")]
    pub(crate) keep: NonZeroUsize,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// auto, cpu, cuda or cuda:N; auto is the first GPU, else the CPU
    #[arg(long, default_value_t)]
    pub(crate) device: DeviceChoice,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

/// What may be done to need less memory.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct MemoryArgs {
    /// Parts that a step's batch is computed in, one after the other: less memory, the same gradient
    #[arg(long, default_value = "1", value_name = "PARTS")]
    accumulate: NonZeroUsize,
    /// Compute activations again in the backward pass instead of keeping them: less memory, a third more time
    #[arg(long)]
    recompute: bool,
}

impl From<MemoryArgs> for Memory {
    fn from(MemoryArgs { accumulate, recompute }: MemoryArgs) -> Self {
        Self { accumulate, recompute }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-C saves before it ends, and --resume goes on as if nothing had happened. DIR/weights holds the
averaged weights of the newest checkpoint: `acdit-world generate --weights DIR/weights ...`.

Examples:
  acdit-world train --dataset gravity --out run                # a world like the shipped one
  acdit-world train --dataset gravity --out run --resume
  acdit-world train --dataset gravity --out run2 --from run/weights   # go on from what was learnt
  acdit-world train --preset ucf101-xl --data-dir UCF-101 --vae sd-vae --out run   # the paper's
  acdit-world train --preset ucf101-xl --latents ucf-latents --out run   # of what `encode` made: again and again")]
pub(crate) struct Train {
    /// Take all that is not said otherwise from a recipe: cli/presets/NAME.toml of the sources says what that is
    #[arg(long, value_name = "NAME", value_parser = config::preset_names())]
    preset: Option<String>,
    #[command(flatten)]
    data: LatentArgs,
    /// Instead of a dataset, the latents that `encode` has made of one
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Data",
        conflicts_with_all = ["dataset", "data_dir", "splits_dir", "fold", "resolution", "frame_interval", "flip", "clips", "vae"]
    )]
    latents: Option<PathBuf>,
    /// Weights to go on from: their VAE, and their network, so none of its flags; own context from the first step on
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Network",
        conflicts_with_all = ["hidden", "layers", "heads", "patch", "window", "prediction"]
    )]
    from: Option<PathBuf>,
    /// Learn from so many streams of those weights, too, each block beside what the rules make of what the stream has shown
    /// (DAgger): of gravity, whose frames tell where everything is
    #[arg(
        long,
        value_name = "STREAMS",
        help_heading = "Data",
        requires = "from",
        conflicts_with = "latents",
        value_parser = clap::value_parser!(u32).range(1..=1 << 19)
    )]
    dagger: Option<u32>,
    /// Token width inside the network
    #[arg(long, default_value_t = 256, help_heading = "Network")]
    hidden: i64,
    /// Transformer layers
    #[arg(long, default_value_t = 6, help_heading = "Network")]
    layers: i64,
    /// Attention heads
    #[arg(long, default_value_t = 8, help_heading = "Network")]
    heads: i64,
    /// Side of a patch in latent pixels
    #[arg(long, default_value_t = 4, help_heading = "Network")]
    patch: i64,
    /// Blocks that a block sees beside itself; 0 for all before it, as in the paper
    #[arg(long, default_value_t = 3, value_name = "BLOCKS", help_heading = "Network")]
    window: i64,
    /// What the network predicts: the clean latents, v, or the noise as in the paper
    #[arg(long, value_enum, default_value = "sample", help_heading = "Network")]
    prediction: PredictionArg,

    /// Clips per step, of each process where a launcher has started several
    #[arg(long, default_value_t = 16, help_heading = "Schedule")]
    batch: usize,
    /// Steps of the whole schedule
    #[arg(long, default_value_t = 6000, help_heading = "Schedule")]
    steps: u64,
    /// Peak learning rate
    #[arg(long, default_value_t = 8e-4, allow_negative_numbers = true, help_heading = "Schedule")]
    rate: f64,
    /// Steps over which the rate rises
    #[arg(long, default_value_t = 100, value_name = "STEPS", help_heading = "Schedule")]
    warmup: u64,
    /// Share of the steps over which the rate falls to 0 at the end
    #[arg(
        long,
        default_value_t = 0.15,
        value_name = "SHARE",
        allow_negative_numbers = true,
        help_heading = "Schedule"
    )]
    decay: f64,
    /// Probability with which a block loses its label, for guidance
    #[arg(
        long,
        default_value_t = 0.1,
        value_name = "P",
        allow_negative_numbers = true,
        help_heading = "Schedule"
    )]
    label_dropout: f64,
    /// Weight of a clip's first block in the loss: without context it cannot be foreseen, and is most of the noise
    #[arg(
        long,
        default_value_t = 0.1,
        value_name = "WEIGHT",
        allow_negative_numbers = true,
        help_heading = "Schedule"
    )]
    first_block_weight: f64,
    /// Most noise on the clean context, so that a stream forgives its own errors
    #[arg(
        long,
        default_value_t = 0.1,
        value_name = "SIGMA",
        help_heading = "Schedule",
        allow_negative_numbers = true
    )]
    context_noise: f64,
    /// Share of the clips whose context, over the last third of the steps or all with --from, is the network's own work
    /// [default: 0.35, but 0 where ε is predicted and with --dagger]
    #[arg(long, value_name = "SHARE", help_heading = "Schedule", allow_negative_numbers = true)]
    self_context: Option<f64>,
    /// Denoise at the noise levels of a sampler of so many steps alone: for a world that will be sampled so
    #[arg(long, value_name = "STEPS", help_heading = "Schedule")]
    sampler_steps: Option<NonZeroUsize>,
    /// Decay of the weights' average
    #[arg(
        long,
        default_value_t = 0.99,
        value_name = "DECAY",
        allow_negative_numbers = true,
        help_heading = "Schedule"
    )]
    ema: f64,
    /// f32, bf16 or auto: type of the activations, weights are f32 throughout
    #[arg(long, default_value_t, help_heading = "Schedule")]
    dtype: Precision,

    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    keeping: Keeping,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PredictionArg {
    V,
    Epsilon,
    Sample,
}

impl Train {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let Keeping { out, resume, stop_at, save_every, keep, seed, device, threads } = &self.keeping;
        threads.set();
        if let Some(preset) = &self.preset {
            tracing::info!("preset {preset}");
        }
        let place = Place::from_env()?;
        let device = place.as_ref().map_or(*device, |place| device_of(place, *device));
        let placement = Placement::select(device, self.dtype)?;
        let blocks = self.data.blocks()?;
        let material = self.material(*seed)?;
        let vae = self.vae_of(&material)?;
        let mut meta = material.meta();
        let mut start = self.from.as_deref().map(Start::load).transpose()?;
        if let Some(sampling) = start.as_ref().and_then(Start::sampling) {
            meta.sampling = sampling;
        }
        let (model, prediction) = self.network(
            material.resolution(),
            &VaeConfig::load(&vae)?,
            &meta.label_names(),
            start.as_mut(),
        )?;
        if let (Some(start), Material::Shards(_)) = (&start, &material) {
            start.check_vae(&vae)?;
        }
        let placed = (placement.device, placement.kind);
        let dagger = match (self.dagger, &start, &material) {
            (Some(streams), Some(start), Material::Dataset(dataset)) => {
                let size = BankSize { clips: streams as usize, ..self.data.amount(dataset)? };
                Some((Dagger::load(start, &vae, dataset, size, placed).context("--dagger")?, size))
            }
            _ => None,
        };
        if start.as_ref().is_some_and(|start| !start.knows_labels()) {
            tracing::warn!("the labels are others: their table is learnt anew");
        }
        let own = prediction != Prediction::Epsilon && self.dagger.is_none();
        let usual = if own { OWN_CONTEXT } else { 0.0 };
        let group = match &place {
            Some(place) => Group::connect(place, TIMEOUT)?,
            None => Group::alone(),
        };
        let recipe = Recipe {
            model,
            prediction,
            blocks,
            batch: self.batch * group.world(),
            steps: self.steps,
            rate: self.rate,
            warmup: self.warmup,
            decay: self.decay,
            label_dropout: self.label_dropout,
            first_block_weight: self.first_block_weight,
            context_noise: self.context_noise,
            self_context: self.self_context.unwrap_or(usual),
            sampler_steps: self.sampler_steps,
            ema: self.ema,
            bf16: placement.kind == Kind::BFloat16,
            seed: *seed,
        };
        let interrupt = signals::interrupt()?;
        let run = Run {
            out,
            vae: &vae,
            meta: &meta,
            prompts: if material.is_procedural() { PROMPTS } else { 0 },
            start: start.as_ref(),
            resume: *resume,
            stop_at: *stop_at,
            save_every: *save_every,
            keep: *keep,
            memory: self.memory.into(),
            group: &group,
            device: placement.device,
            interrupt: interrupt.clone(),
        };
        world_loop::check(&recipe, &run)?;
        let bank = match material {
            Material::Shards(shards) => shards.bank,
            Material::Dataset(dataset) => {
                let encoder = Vae::load(&vae, placement.device, Kind::Float)?.encoder;
                let amount = self.data.amount(&dataset)?;
                let bar = output::progress(dataset.count(Split::Train, amount) as u64, "clips encoded");
                let (bank, skipped) =
                    dataset.bank(&encoder, amount, &interrupt, |done| bar.set_position(done as u64))?;
                bar.finish_and_clear();
                warn_of(&skipped);
                match dagger {
                    None => bank,
                    Some((dagger, size)) => {
                        let bar = output::progress((size.clips * size.blocks) as u64, "blocks streamed");
                        let bank = dagger.add_to(&bank, &interrupt, |done| bar.set_position(done as u64))?;
                        bar.finish_and_clear();
                        bank
                    }
                }
            }
        };
        let summary = world_loop::train(&recipe, &bank, &run)?;
        if !group.leads() {
            return Ok(());
        }
        output.print(&summary, || {
            let weights = out.join("weights");
            let loss = summary.loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
            format!("step {}{loss}: {}", summary.step, weights.display())
        })
    }

    fn material(&self, seed: u64) -> anyhow::Result<Material> {
        if let Some(folder) = &self.latents {
            let shards = Shards::open(folder)?;
            if shards.bank.description().split != Split::Train {
                bail!("--latents: {} holds the clips for tests", folder.display());
            }
            return Ok(Material::Shards(shards));
        }
        if !self.data.is_named() {
            bail!("what to learn from is missing: --dataset NAME, or --latents DIR of `encode`");
        }
        Ok(Material::Dataset(self.data.open(seed)?))
    }

    fn vae_of(&self, material: &Material) -> anyhow::Result<PathBuf> {
        match (material, &self.data.vae, &self.from) {
            (Material::Shards(shards), ..) => Ok(shards.vae.clone()),
            (_, Some(_), Some(from)) if from.join("vae").is_dir() => {
                bail!("--vae: {} has a VAE of its own, whose latents its network knows", from.display())
            }
            (_, Some(vae), _) => Ok(vae.clone()),
            (_, None, Some(from)) => Ok(from.join("vae")),
            (_, None, None) => self.data.shipped_vae(),
        }
    }

    /// The network to train and what it predicts: that of `start`, or what the flags say.
    fn network(
        &self,
        resolution: u32,
        vae: &VaeConfig,
        labels: &[String],
        start: Option<&mut Start>,
    ) -> anyhow::Result<(Config, Prediction)> {
        let (resolution, downsampling) = (i64::from(resolution), vae.downsampling());
        if let Some(start) = start {
            let sides = [start.model.sample_height, start.model.sample_width].map(|side| side * downsampling);
            if sides != [resolution; 2] || start.model.frames_per_block != FRAMES_PER_BLOCK as i64 {
                let (frames, [height, width]) = (start.model.frames_per_block, sides);
                let here = format!("--resolution {resolution} and blocks of {FRAMES_PER_BLOCK}");
                bail!("--from: a network for {width}x{height} in blocks of {frames} frames; here are {here}");
            }
            start.with_labels(labels);
            return Ok((start.model.clone(), start.prediction));
        }
        if self.patch < 1 || resolution == 0 || resolution % (downsampling * self.patch) != 0 {
            let multiple = downsampling * self.patch.max(1);
            bail!(
                "--resolution {resolution}: expected a multiple of {multiple}, the VAE's {downsampling} times --patch"
            );
        }
        let side = resolution / downsampling;
        // What one block can see, itself included, is what positions must tell apart.
        let in_sight = match self.window {
            0 => self.data.frames as i64,
            window => (window + 1) * FRAMES_PER_BLOCK as i64,
        };
        let config = Config {
            class_name: "AcditTransformer".to_owned(),
            hidden_size: self.hidden,
            num_layers: self.layers,
            num_attention_heads: self.heads,
            intermediate_size: 4 * self.hidden,
            num_classes: labels.len() as i64,
            in_channels: vae.latent_channels(),
            patch_size: self.patch,
            sample_height: side,
            sample_width: side,
            sample_frames: in_sight,
            frames_per_block: FRAMES_PER_BLOCK as i64,
            square_block: None,
            rope: RopeKind::Axial,
            nd_split: vec![2, 3, 3],
            axis_lengths: vec![in_sight, side / self.patch, side / self.patch],
            context_window: Some(self.window).filter(|&window| window != 0),
        };
        config.validate().context("--hidden, --layers, --heads, --patch, --window")?;
        let prediction = match self.prediction {
            PredictionArg::V => Prediction::V,
            PredictionArg::Epsilon => Prediction::Epsilon,
            PredictionArg::Sample => Prediction::Sample,
        };
        Ok((config, prediction))
    }
}

/// Processes of one machine take its GPUs in turn; where the launcher shows each its own, that is the only one.
fn device_of(place: &Place, wish: DeviceChoice) -> DeviceChoice {
    match (wish, device::cuda()) {
        (DeviceChoice::Auto, Ok(cuda)) => DeviceChoice::Cuda(place.local_rank % cuda.devices.len()),
        _ => wish,
    }
}

/// What a run learns from.
enum Material {
    /// Clips, encoded before the first step.
    Dataset(Dataset),
    /// Clips that are encoded.
    Shards(Shards),
}

impl Material {
    fn meta(&self) -> WorldMeta {
        match self {
            Self::Dataset(dataset) => dataset.meta(),
            Self::Shards(shards) => shards.meta.clone(),
        }
    }

    /// Pixels a side.
    fn resolution(&self) -> u32 {
        match self {
            Self::Dataset(dataset) => dataset.size.width,
            Self::Shards(shards) => shards.bank.description().width,
        }
    }

    fn is_procedural(&self) -> bool {
        match self {
            Self::Dataset(dataset) => matches!(dataset.source, Source::Procedural(_)),
            Self::Shards(shards) => shards.bank.description().seed.is_some(),
        }
    }
}

/// Says which files were left out; the run goes on without them.
pub(crate) fn warn_of(skipped: &[Skipped]) {
    if let Some(first) = skipped.first() {
        tracing::warn!("{} clips are left out, the first: {first}", skipped.len());
    }
}
