//! `bench`: what a block costs on this machine, stage by stage, and how much of the machine that uses.

mod training;

use std::path::PathBuf;

use acdit_codec::vae::{self, Vae};
use acdit_model::diffusion::SolverKind;
use acdit_model::{Config, Preset};
use acdit_runtime::bench::{Bench as Measurement, Measured};
use acdit_runtime::{Settings, WindowMode, World};
use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::args::{Compute, SamplingArgs};
use crate::output::{self, Output};
use crate::world::{self, Loaded};

/// Labels of the paper's video models, those of UCF-101.
const LABELS: i64 = 101;
/// Blocks of context of the paper's video models.
const WINDOW: usize = 3;
/// Frames per block of `--sweep`.
const SWEEP: [i64; 4] = [1, 2, 4, 8];

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = "\
Weights are random unless --weights names some: the speed is the same. Times are medians over
--blocks blocks in the steady state, with a full window; frames/s counts all stages one after the
other. `make bench` compares with PyTorch.

Examples:
  acdit-world bench --preset b --resolution 128 --steps 10
  acdit-world bench --preset xl --device cuda --sessions 4 --json
  acdit-world bench --weights weights/gravity
  acdit-world bench --preset b --resolution 128 --sweep   # 1 to 8 frames per block
  acdit-world bench train --help                          # a step of training"
)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    /// A size of the paper [default: b]
    #[arg(long, value_enum, conflicts_with = "weights")]
    preset: Option<Size>,
    /// A weights folder instead of a preset
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Pixels a side
    #[arg(long, default_value_t = 256, conflicts_with = "weights")]
    resolution: i64,
    /// Frames per block
    #[arg(long, default_value_t = 4, conflicts_with = "weights")]
    frames_per_block: i64,
    /// Layers, instead of the preset's
    #[arg(long, conflicts_with = "weights")]
    layers: Option<i64>,
    /// Token width inside the network, instead of the preset's
    #[arg(long, conflicts_with = "weights")]
    hidden: Option<i64>,
    /// Attention heads, instead of the preset's
    #[arg(long, conflicts_with = "weights")]
    heads: Option<i64>,
    /// Side of a patch in latent pixels
    #[arg(long, default_value_t = 2, conflicts_with = "weights")]
    patch: i64,
    /// Streams in a batch
    #[arg(long, default_value_t = 1)]
    sessions: usize,
    /// Blocks that are timed
    #[arg(long, default_value_t = 3)]
    blocks: usize,
    /// Measure 1, 2, 4 and 8 frames per block: fewer see a control sooner, more cost less a frame
    #[arg(long, conflicts_with_all = ["weights", "frames_per_block"])]
    sweep: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Measure what a step of training costs instead
    Train(training::BenchTraining),
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Size {
    #[default]
    B,
    L,
    Xl,
    H,
}

/// One measurement and what was measured.
#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    /// The preset, or the weights folder's name.
    model: String,
    hidden: i64,
    layers: i64,
    heads: i64,
    patch: i64,
    /// Width and height, in pixels.
    resolution: [u32; 2],
    frames_per_block: i64,
    steps: usize,
    guidance: f64,
    solver: SolverKind,
    window: usize,
    window_mode: WindowMode,
    sessions: usize,
    blocks: usize,
    #[serde(flatten)]
    measured: Measured,
}

#[derive(Debug, Serialize)]
struct Sweep {
    sweep: Vec<Report>,
}

impl Bench {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        if let Some(What::Train(training)) = self.what {
            return training.run(output);
        }
        if !self.sweep {
            let report = self.measure(self.frames_per_block)?;
            return output.print(&report, || report.text());
        }
        let bar = output::progress(SWEEP.len() as u64, "block sizes");
        let measure = |frames| {
            let report = self.measure(frames);
            bar.inc(1);
            report
        };
        let sweep = SWEEP.into_iter().map(measure).collect::<anyhow::Result<_>>()?;
        bar.finish_and_clear();
        let sweep = Sweep { sweep };
        output.print(&sweep, || sweep.text())
    }

    fn measure(&self, frames_per_block: i64) -> anyhow::Result<Report> {
        let (model, Loaded { world, vae, .. }, settings) = match (&self.weights, self.preset) {
            (Some(folder), None) => {
                let loaded = world::load(folder.clone(), self.compute)?;
                let settings = self.sampling.settings(&loaded.world, 0);
                (folder.display().to_string(), loaded, settings)
            }
            // A preset on the command line wins over weights that the environment names.
            (_, preset) => self.random(preset.unwrap_or_default(), frames_per_block)?,
        };
        let size = acdit_runtime::frame_size(&world, &vae)?;
        let measurement = Measurement { settings, sessions: self.sessions, blocks: self.blocks };
        let measured = measurement.run(&world, &vae)?;
        let config = world.model.config();
        Ok(Report {
            program: concat!("acdit-world ", env!("CARGO_PKG_VERSION")),
            model,
            hidden: config.hidden_size,
            layers: config.num_layers,
            heads: config.num_attention_heads,
            patch: config.patch_size,
            resolution: [size.width, size.height],
            frames_per_block: config.frames_per_block,
            steps: settings.sampling.steps,
            guidance: settings.sampling.guidance,
            solver: settings.sampling.solver,
            window: settings.window,
            window_mode: settings.mode,
            sessions: self.sessions,
            blocks: self.blocks,
            measured,
        })
    }

    /// A world of the asked sizes with random weights, behind a random VAE of Stable Diffusion's size.
    fn random(&self, preset: Size, frames_per_block: i64) -> anyhow::Result<(String, Loaded, Settings)> {
        let multiple = 8 * self.patch.max(1);
        if self.resolution < multiple || self.resolution % multiple != 0 {
            bail!("--resolution {}: expected a multiple of {multiple}, 8 times --patch", self.resolution);
        }
        let placement = self.compute.placement()?;
        let window = self.sampling.window().unwrap_or(WINDOW);
        let config = self.config(preset, frames_per_block, window as i64);
        let world = World::random(&config, 0, placement.device, placement.kind)?;
        self.compute.threads.set_for(&world);
        let vae = vae::Config::AutoencoderKL(vae::kl::Config::stable_diffusion());
        let vae = Vae::random(&vae, placement.device, placement.kind)?;
        let settings = self.sampling.or_window(window).settings(&world, 0);
        let name = preset.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        Ok((name, Loaded { folder: PathBuf::new(), world, vae }, settings))
    }

    fn config(&self, preset: Size, frames_per_block: i64, window: i64) -> Config {
        let preset = match preset {
            Size::B => Preset::B,
            Size::L => Preset::L,
            Size::Xl => Preset::Xl,
            Size::H => Preset::H,
        };
        let config = Config::video(preset, self.resolution, LABELS);
        let hidden = self.hidden.unwrap_or(config.hidden_size);
        // Long enough that the window and the block behind it have positions.
        let frames = config.sample_frames.max((window + 1) * frames_per_block);
        let frames = frames - frames % frames_per_block.max(1);
        let side = config.sample_height / self.patch;
        Config {
            hidden_size: hidden,
            intermediate_size: 4 * hidden,
            num_layers: self.layers.unwrap_or(config.num_layers),
            num_attention_heads: self.heads.unwrap_or(config.num_attention_heads),
            patch_size: self.patch,
            frames_per_block,
            sample_frames: frames,
            axis_lengths: vec![frames, side, side],
            context_window: self.sampling.wants_windowed().then_some(window),
            ..config
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let Self { model, resolution: [width, height], measured: m, .. } = self;
        let peak = m.peak_memory_bytes.map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        let mode = match self.window_mode {
            WindowMode::Recompute => "recompute",
            WindowMode::Windowed => "windowed",
        };
        format!(
            "{model} ({} layers of {}) at {width}x{height}, {} frames per block, {} steps, window {} ({mode}), {} session(s), {} {}\n\
             seconds per block   {:.4}\n  denoise           {:.4}\n  context           {:.4}\n  \
             VAE decode        {:.4}\n  video encode      {:.4}\n\
             frames per second   {:.2}\nfirst frame         {:.3} s\npeak memory         {peak}\n\
             operations          {:.2} T per block, {:.0}% of a matrix product's {:.2} T per second",
            self.layers,
            self.hidden,
            self.frames_per_block,
            self.steps,
            self.window,
            self.sessions,
            m.device,
            m.dtype,
            m.seconds_per_block,
            m.denoise_seconds,
            m.context_seconds,
            m.decode_seconds,
            m.encode_seconds,
            m.frames_per_second,
            m.first_frame_seconds,
            m.flops_per_block / 1e12,
            m.share_of_ceiling * 100.0,
            m.matmul_flops_per_second / 1e12,
        )
    }
}

impl Sweep {
    /// Per frame, the network's cost falls with the block size; what a control waits for grows.
    fn text(&self) -> String {
        let line = |report: &Report| {
            let Report { frames_per_block, measured: m, .. } = report;
            let network = (m.denoise_seconds + m.context_seconds) / *frames_per_block as f64;
            format!(
                "\n{frames_per_block:16} {:17.4} {network:26.4} {:10.2}",
                m.seconds_per_block, m.frames_per_second
            )
        };
        let lines: String = self.sweep.iter().map(line).collect();
        format!("frames per block seconds per block network seconds per frame   frames/s{lines}")
    }
}
