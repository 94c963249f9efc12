//! The command line: its verbs, the flags that several of them share, and how it is read.

use std::num::NonZeroU16;
use std::path::PathBuf;

use acdit_model::diffusion::SolverKind;
use acdit_runtime::bench::block_flops;
use acdit_runtime::device::{DeviceChoice, Placement, Precision, set_threads};
use acdit_runtime::{Sampling, Settings, Stamp, WindowMode, World};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::Layers;
use crate::failure::Refused;
use crate::output::LogFormat;
use crate::{
    bench, check, completions, continuation, convert, encode, eval, generate, loadtest, plot, publish,
    replay, serve, train, train_vae, verify, watch,
};

/// Learned worlds, streamed live: generate, steer and train ACDiT video models.
#[derive(Debug, Parser)]
#[command(name = "acdit-world", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,

    /// Print one JSON object on stdout, and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// How the log on stderr is written; what is in it, RUST_LOG says
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,

    /// A TOML file with flags' values [default: acdit-world.toml in the current folder, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Every flag can also be set in the environment or in the configuration file; the flag wins, then the
environment. For --port of `serve`, the first of these that is set counts:
  ACDIT_SERVE_PORT=9000     ACDIT_PORT=9000
  [serve] port = 9000       port = 9000         (without a table: for every verb that has the flag)
`acdit-world config check` prints what that comes to.

Exit status: 0 done; 1 ran and failed; 2 bad input or environment, said in one line.

Examples:
  acdit-world serve                                                  # the shipped world, live
  acdit-world generate --frames 240 --label left,right --out a.mp4   # a clip of it
  acdit-world doctor                                                 # what this machine has";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Stream a world to the browser: steer, pause, restart, continue a clip
    Serve(serve::Serve),
    /// Watch a stream without a browser, and measure how evenly it comes
    Watch(watch::Watch),
    /// Watch a stream many times over, and many sessions at once
    Loadtest(loadtest::Loadtest),
    /// Push a stream to RTMP, SRT, RTSP, an HLS folder or a file
    Publish(publish::Publish),
    /// Write a generated clip, or a picture, to a file
    Generate(generate::Generate),
    /// Write a clip's last frames and how the world goes on from them
    Continue(continuation::Continue),
    Replay(replay::Replay),
    /// Train a world
    Train(train::Train),
    /// Train the VAE under a world
    TrainVae(train_vae::TrainVae),
    /// Encode a dataset once, for any number of trainings
    Encode(encode::Encode),
    Convert(convert::Convert),
    Verify(verify::Verify),
    /// Say what this machine can compute on, and with which libraries
    Doctor,
    /// Measure what a block costs, stage by stage
    Bench(bench::Bench),
    /// Measure how well a world keeps the rules of the one it was learnt from
    Eval(eval::Eval),
    /// Draw the loss of training runs
    Plot(plot::Plot),
    /// Look at the configuration
    Config(check::Config),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Compute {
    /// auto, cpu, cuda or cuda:N; auto is the first GPU, else the CPU
    #[arg(long, default_value_t)]
    pub(crate) device: DeviceChoice,
    /// auto, f32 or bf16; auto is bf16 where the hardware multiplies it
    #[arg(long, default_value_t)]
    pub(crate) dtype: Precision,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

impl Compute {
    /// What is left open is as it was where something was computed before.
    pub(crate) fn or_as(self, stamp: &Stamp) -> Self {
        let device = match self.device {
            DeviceChoice::Auto if stamp.device == "cpu" => DeviceChoice::Cpu,
            other => other,
        };
        let dtype = match self.dtype {
            Precision::Auto => stamp.dtype.parse().unwrap_or_default(),
            other => other,
        };
        let threads = u16::try_from(stamp.threads).ok().and_then(NonZeroU16::new);
        Self { device, dtype, threads: Threads { threads: self.threads.threads.or(threads) } }
    }

    pub(crate) fn placement(self) -> acdit_runtime::Result<Placement> {
        Placement::select(self.device, self.dtype)
    }
}

/// How much of the CPU one tensor operation may take.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Threads {
    /// CPU threads of one tensor operation [default: one for a small world, up to all cores for a
    /// large one]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU16>,
}

/// Operations of one forward that are worth a thread: with less, threads wait for one another longer than they save, above
/// all on a machine that has other work.
const FORWARD_PER_THREAD: f64 = 4e9;

impl Threads {
    /// Sets what was asked for, if anything.
    pub(crate) fn set(self) {
        if let Some(threads) = self.threads {
            set_threads(threads);
        }
    }

    /// Sets what was asked for, or what suits the denoising of a block.
    pub(crate) fn set_for(self, world: &World) {
        let one = Sampling { steps: 1, guidance: 1.0, ..world.meta.sampling };
        let (window, mode) = (0, WindowMode::Recompute);
        let forward = block_flops(world.model.config(), &Settings { sampling: one, window, mode, seed: 0 });
        let worth = (forward / FORWARD_PER_THREAD).ceil() as usize;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let suits = NonZeroU16::new(u16::try_from(worth.min(cores)).unwrap_or(u16::MAX));
        if let Some(threads) = self.threads.or(suits) {
            set_threads(threads);
        }
    }
}

/// How blocks are sampled. What is left out is as the world's own `world.json` has it.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Denoising steps per block [default: the world's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale; 1 is none, and twice as fast [default: the world's]
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// Share of the steps, from the first on, that are guided [default: the world's]
    #[arg(long, value_name = "SHARE")]
    guided: Option<f64>,
    /// dpm++ or ddim [default: the world's]
    #[arg(long)]
    solver: Option<SolverKind>,
    /// Blocks of context [default: the world's]
    #[arg(long, value_name = "BLOCKS")]
    window: Option<usize>,
    /// How the window moves on; auto is `windowed` where the weights were trained for it
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    window_mode: WindowChoice,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
enum WindowChoice {
    #[default]
    Auto,
    Recompute,
    Windowed,
}

impl SamplingArgs {
    /// With this window, unless another one was asked for.
    pub(crate) fn or_window(self, blocks: usize) -> Self {
        Self { window: self.window.or(Some(blocks)), ..self }
    }

    /// Blocks of context, if any number was asked for.
    pub(crate) fn window(self) -> Option<usize> {
        self.window
    }

    /// Whether the windowed mode was asked for by name.
    pub(crate) fn wants_windowed(self) -> bool {
        self.window_mode == WindowChoice::Windowed
    }

    /// A session's settings: the world's own where nothing else was asked for.
    pub(crate) fn settings(self, world: &World, seed: u64) -> Settings {
        let own = Settings::of(world, seed);
        let window = self.window.unwrap_or(own.window);
        let mode = match self.window_mode {
            WindowChoice::Recompute => WindowMode::Recompute,
            WindowChoice::Windowed => WindowMode::Windowed,
            WindowChoice::Auto if window == own.window => own.mode,
            WindowChoice::Auto => WindowMode::Recompute,
        };
        let sampling = Sampling {
            steps: self.steps.unwrap_or(own.sampling.steps),
            guidance: self.guidance.unwrap_or(own.sampling.guidance),
            guided: self.guided.unwrap_or(own.sampling.guided),
            solver: self.solver.unwrap_or(own.sampling.solver),
        };
        Settings { sampling, window, mode, seed }
    }
}

/// Reads the command line over the environment over the configuration file.
pub(crate) fn parse() -> Result<(Cli, Layers), Refused> {
    let words: Vec<_> = std::env::args_os().collect();
    let file = Layers::named_by(Cli::command(), &words);
    let layers = Layers::read(file, std::env::vars_os())?.with_preset(&words);
    let command = layers.command();
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let verb =
        words.iter().filter_map(|word| word.to_str()).find(|word| verbs.iter().any(|verb| verb == word));
    let parsed = command.try_get_matches_from(&words).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok((cli, layers)),
        Err(error) => Err(layers.blame(error, verb.unwrap_or_default(), &words)),
    }
}

/// Whether a flag takes no value.
pub(crate) fn is_switch(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}
