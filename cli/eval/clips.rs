//! Films compared with real clips: FVD, and frame by frame with how a clip goes on, window by window.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use acdit_codec::{Frame, color};
use acdit_runtime::{Session, Settings, frame_size, render};
use acdit_train::Interrupt;
use acdit_train::dataset::{Dataset, Skipped, Source};
use acdit_train::evaluate::{
    ClipFeatures, FeatureSet, Needed, PerceptualDistance, RealClip, RealClips, Similarity, frechet_distance,
};
use acdit_train::listing::Split;
use acdit_train::procedural::FRAMES_PER_BLOCK;
use anyhow::bail;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;
use tch::{Device, Tensor};

use super::figures::{Compared, Comparison, FeatureNetwork, Network, Protocol, Window};
use super::{Eval, Film, broken, chart, reconstructed};
use crate::data::Clips;
use crate::generate::stop_if_asked;
use crate::output::{self, Output};
use crate::picture;
use crate::signals;
use crate::train::warn_of;
use crate::world::Loaded;

/// Clips of each draw: StyleGAN-V's number for FVD; without, each is the mean of many frames and fewer will do.
const FVD_CLIPS: usize = 2048;
const CLIPS: usize = 64;
/// Difference of playback rates, as a share, from which on a model is compared with what it was not trained on.
const RATE_TOLERANCE: f64 = 0.05;

#[derive(Debug, Args)]
#[command(next_help_heading = "Clips")]
pub(super) struct ClipArgs {
    #[command(flatten)]
    data: Clips,
    /// Which clips [default: those for training to compare films from nothing, else the held-out ones]
    #[arg(long, value_enum)]
    split: Option<SplitArg>,
    /// Compute FVD by this TorchScript file, StyleGAN-V's i3d_torchscript.pt for figures that compare
    #[arg(long, value_name = "FILE.pt")]
    fvd: Option<PathBuf>,
    /// Compute LPIPS by this TorchScript file: two (N, 3, H, W) in [-1, 1] to N distances
    #[arg(long, value_name = "FILE.pt")]
    lpips: Option<PathBuf>,
    /// Clips for each seed [default: 2048 with --fvd, else 64]
    #[arg(long, value_name = "N")]
    clips: Option<NonZeroUsize>,
    /// Blocks of a real clip that a film goes on from [default: 0 with --fvd, else the model's window]
    #[arg(long, value_name = "BLOCKS")]
    context: Option<usize>,
    /// Frames of a window, over which each figure is taken
    #[arg(long, value_name = "N", default_value = "16")]
    window_frames: NonZeroUsize,
    /// How many times all is done, with other clips and other noise
    #[arg(long, value_name = "N", default_value = "4")]
    seeds: NonZeroU64,
    /// Draw the figures of every window
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum SplitArg {
    /// Clips to learn from
    Train,
    /// Clips held out
    Test,
}

impl ClipArgs {
    /// A flag that only makes sense for a comparison with clips, if one was given.
    pub(super) fn wants(&self) -> Option<&'static str> {
        let given = [
            ("--dataset", self.data.is_named()),
            ("--fvd", self.fvd.is_some()),
            ("--lpips", self.lpips.is_some()),
            ("--clips", self.clips.is_some()),
            ("--context", self.context.is_some()),
            ("--plot", self.plot.is_some()),
        ];
        given.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    /// The list to draw from, for films that go on from `context` blocks.
    fn split(&self, source: &Source, context: usize) -> anyhow::Result<SplitArg> {
        Ok(match (source, self.split) {
            (Source::Clips(listing), Some(SplitArg::Test)) if listing.test.is_empty() => {
                bail!("--split test: {} has no list of held-out clips", listing.name)
            }
            (Source::Clips(listing), None) if context > 0 && !listing.test.is_empty() => SplitArg::Test,
            (Source::Clips(_), split) => split.unwrap_or(SplitArg::Train),
            (Source::Procedural(_), Some(SplitArg::Train)) => {
                bail!("--split train: clips of procedural worlds are made, and never those of training")
            }
            (Source::Procedural(_), _) => SplitArg::Test,
        })
    }
}

pub(super) fn compare(args: &Eval, output: Output) -> anyhow::Result<()> {
    let films = args.films(&[Film::Weights]);
    if films.contains(&Film::Truth) {
        bail!("--of truth: with --dataset the real clips are what films are compared with");
    }
    if let Some(plot) = &args.clips.plot {
        picture::check(plot)?;
    }
    if !args.clips.data.is_named() {
        bail!("--dataset is missing: which clips are films to be compared with?");
    }
    let mut loaded = args.weights.load()?;
    let mut comparing = Comparing::new(args, &loaded)?;
    let per_film = comparing.seeds.len() * comparing.clips;
    let bar = output::progress((films.len() * per_film) as u64, "clips");
    let mut compared = Vec::new();
    for film in films {
        if film == Film::Broken {
            loaded.world.model = broken(&loaded, args.seed)?;
        }
        let mut seeds = Vec::new();
        for seed in 0..comparing.seeds.len() {
            seeds.push(comparing.film(film, &loaded, seed, &bar)?);
        }
        compared.push(Compared::over_seeds(film, &seeds, comparing.window_frames as u64));
    }
    bar.finish_and_clear();
    comparing.skipped.sort_by(|a, b| a.path.cmp(&b.path));
    comparing.skipped.dedup();
    warn_of(&comparing.skipped);
    let protocol = comparing.protocol(args, &loaded);
    if let Some(features) =
        protocol.fvd.as_ref().map(|fvd| fvd.features).filter(|&f| f > protocol.clips as i64)
    {
        let clips = protocol.clips;
        tracing::warn!("FVD of {clips} clips by {features} features is far too large: compare with nothing");
    }
    let comparison = Comparison { protocol, films: compared, skipped: comparing.skipped.len() };
    if let Some(plot) = &args.clips.plot {
        chart::write(plot, &comparison.films)?;
    }
    output.print(&comparison, || comparison.text())
}

/// What all films are compared by.
struct Comparing {
    dataset: Dataset,
    split: SplitArg,
    settings: Settings,
    seeds: Vec<u64>,
    clips: usize,
    /// Blocks that a film goes on from.
    context: usize,
    per_block: usize,
    frames: usize,
    window_frames: usize,
    fvd: Option<ClipFeatures>,
    lpips: Option<PerceptualDistance>,
    /// Features of the real clips, for each seed that was drawn.
    real: Vec<Option<Tensor>>,
    skipped: Vec<Skipped>,
    interrupt: Interrupt,
}

/// What one film's clips come to, window by window.
type Windows<'a> = Vec<(Similarity, Option<FeatureSet<'a>>)>;

impl Comparing {
    fn new(args: &Eval, loaded: &Loaded) -> anyhow::Result<Self> {
        let Loaded { folder, world, vae } = loaded;
        let flags = &args.clips;
        let dataset = flags.data.open(frame_size(world, vae)?, args.seed)?;
        let per_block = world.model.config().frames_per_block as usize;
        check_labels(&dataset, loaded)?;
        let settings = args.weights.sampling.settings(world, args.seed);
        let context = flags.context.unwrap_or(if flags.fvd.is_some() { 0 } else { settings.window });
        if context == 0 && flags.fvd.is_none() {
            bail!("--context 0: films from nothing have nothing to be compared with but by --fvd FILE.pt");
        }
        let window_frames = flags.window_frames.get();
        let frames = args.frames.map_or(window_frames as u64, NonZeroU64::get) as usize;
        if !frames.is_multiple_of(window_frames) {
            bail!("--frames {frames}: expected a multiple of --window-frames {window_frames}");
        }
        let split = flags.split(&dataset.source, context)?;
        let clips =
            flags.clips.map_or(if flags.fvd.is_some() { FVD_CLIPS } else { CLIPS }, NonZeroUsize::get);
        if clips == 1 && flags.fvd.is_some() {
            bail!("--clips 1: FVD needs at least 2");
        }
        let device = world.model.device();
        let seeds: Vec<u64> = (0..flags.seeds.get()).map(|index| args.seed.wrapping_add(index)).collect();
        let comparing = Self {
            dataset,
            split,
            settings,
            clips,
            context,
            per_block,
            frames,
            window_frames,
            fvd: flags.fvd.as_deref().map(|path| ClipFeatures::load(path, device)).transpose()?,
            lpips: flags.lpips.as_deref().map(|path| PerceptualDistance::load(path, device)).transpose()?,
            real: seeds.iter().map(|_| None).collect(),
            seeds,
            skipped: Vec::new(),
            interrupt: signals::interrupt()?,
        };
        if let Some(left) = comparing.draw(0)?.left().filter(|&left| left < clips) {
            let name = comparing.dataset.meta().name;
            bail!(
                "--clips {clips}: {name} lists {left} (every clip counts once); {left} or fewer are expected"
            );
        }
        if let (Source::Procedural(_), true) = (&comparing.dataset.source, per_block != FRAMES_PER_BLOCK) {
            let folder = folder.display();
            bail!(
                "{folder}: blocks of {per_block} frames, procedural worlds have blocks of {FRAMES_PER_BLOCK}"
            );
        }
        let (here, learnt) = (comparing.dataset.meta().fps, world.meta.fps);
        if (here / learnt - 1.0).abs() > RATE_TOLERANCE {
            tracing::warn!(
                "the weights learnt {learnt:.2} frames a second, clips are taken at {here:.2}: see --frame-interval"
            );
        }
        Ok(comparing)
    }

    fn draw(&self, seed: usize) -> anyhow::Result<RealClips<'_>> {
        let split = match self.split {
            SplitArg::Train => Split::Train,
            SplitArg::Test => Split::Test,
        };
        let opening = self.context * self.per_block;
        let needed = Needed {
            fewest: opening + self.window_frames,
            most: opening + self.frames.next_multiple_of(self.per_block),
            window: self.window_frames,
        };
        Ok(RealClips::new(&self.dataset, split, needed, self.seeds[seed])?)
    }

    /// All clips of one seed.
    fn film(
        &mut self,
        film: Film,
        loaded: &Loaded,
        seed: usize,
        bar: &ProgressBar,
    ) -> anyhow::Result<Vec<Window>> {
        let new_set = || self.fvd.as_ref().map(FeatureSet::new);
        let mut windows: Windows =
            (0..self.frames / self.window_frames).map(|_| (Similarity::default(), new_set())).collect();
        let mut real = if self.real[seed].is_none() { new_set() } else { None };
        let mut drawn = self.draw(seed)?;
        for index in 0..self.clips {
            let Some(clip) = drawn.draw()? else {
                let (wanted, name) = (self.clips, self.dataset.meta().name);
                let first = drawn.skipped().first().map(|first| format!("; the first that cannot: {first}"));
                bail!("--clips {wanted}: only {index} of {name} can be used{}", first.unwrap_or_default());
            };
            if let Some(real) = &mut real {
                real.push(clip.frames[clip.window.clone()].to_vec())?;
            }
            match film {
                Film::Vae => self.reconstruct(loaded, &clip, &mut windows)?,
                _ => self.generate(loaded, &clip, (self.seeds[seed] << 32) | index as u64, &mut windows)?,
            }
            bar.inc(1);
            stop_if_asked(&self.interrupt)?;
        }
        let skipped = drawn.skipped().to_vec();
        if let Some(real) = real {
            self.real[seed] = real.finish()?;
        }
        let real = self.real[seed].as_ref();
        let windows = (windows.into_iter())
            .map(|(similarity, set)| {
                let features = set.map(FeatureSet::finish).transpose()?.flatten();
                // a window that not all clips reach is of other clips than those it would be compared with
                let whole = features.filter(|features| features.size()[0] == self.clips as i64);
                let fvd =
                    whole.zip(real).map(|(features, real)| frechet_distance(&features, real)).transpose()?;
                Ok(Window { similarity, fvd })
            })
            .collect::<anyhow::Result<_>>()?;
        self.skipped.extend(skipped);
        Ok(windows)
    }

    /// By the path that serves, after the clip's first blocks if there is a context.
    fn generate(
        &self,
        loaded: &Loaded,
        clip: &RealClip,
        seed: u64,
        windows: &mut Windows,
    ) -> anyhow::Result<()> {
        let Loaded { world, vae, .. } = loaded;
        let settings = Settings { seed, ..self.settings };
        let opening = self.context * self.per_block;
        let mut session = if self.context == 0 {
            Session::prompted(world, settings)?
        } else {
            let mut session = Session::new(world, settings)?;
            let pixels = color::to_tensor(&clip.frames[..opening], Device::Cpu)?;
            let latents = tch::no_grad(|| vae.encoder.encode(&pixels))?;
            session.prime(world, &latents, clip.label(0))?;
            session
        };
        let blocks = self.frames.div_ceil(self.per_block);
        let labels = (self.context..self.context + blocks).map(|block| clip.label(block));
        let (mut frames, mut window) = (Vec::new(), 0);
        for block in render(world, &vae.decoder, &mut session, labels) {
            frames.extend(block?.frames);
            stop_if_asked(&self.interrupt)?;
            while frames.len() >= self.window_frames && window < windows.len() {
                let rest = frames.split_off(self.window_frames);
                let first = opening + window * self.window_frames;
                let real = if self.context > 0 { clip.frames.get(first..).unwrap_or_default() } else { &[] };
                self.take(&mut windows[window], std::mem::replace(&mut frames, rest), real)?;
                window += 1;
            }
        }
        Ok(())
    }

    /// What the VAE leaves of the frames that a film would be compared with.
    fn reconstruct(&self, loaded: &Loaded, clip: &RealClip, windows: &mut Windows) -> anyhow::Result<()> {
        let first = if self.context > 0 { self.context * self.per_block } else { clip.window.start };
        let whole = clip.frames[first..].chunks_exact(self.window_frames);
        for (window, real) in windows.iter_mut().zip(whole) {
            self.take(window, reconstructed(loaded, real)?, real)?;
        }
        Ok(())
    }

    /// Measures a window of frames against those of the clip that are left.
    fn take(
        &self,
        (similarity, features): &mut (Similarity, Option<FeatureSet>),
        frames: Vec<Frame>,
        real: &[Frame],
    ) -> anyhow::Result<()> {
        let both = frames.len().min(real.len());
        if both > 0 {
            similarity.add(&Similarity::between(&frames[..both], &real[..both], self.lpips.as_ref())?);
        }
        if let Some(features) = features {
            features.push(frames)?;
        }
        Ok(())
    }

    fn protocol(&self, args: &Eval, loaded: &Loaded) -> Protocol {
        let network = |path: &Option<PathBuf>, sha256: Option<&str>| {
            let (file, sha256) = (path.clone()?, sha256?.to_owned());
            Some(Network { file, sha256 })
        };
        let fvd = network(&args.clips.fvd, self.fvd.as_ref().map(ClipFeatures::sha256));
        let features = self.real.iter().flatten().next().map_or(0, |features| features.size()[1]);
        Protocol {
            dataset: self.dataset.meta().name,
            split: self.split,
            clips: self.clips,
            balanced: matches!(self.dataset.source, Source::Clips(_)),
            window_frames: self.window_frames,
            frame_interval: self.dataset.frame_interval,
            size: [self.dataset.size.width, self.dataset.size.height],
            context_blocks: self.context,
            context_frames: self.context * self.per_block,
            seeds: self.seeds.clone(),
            weights: loaded.folder.clone(),
            sampling: self.settings.sampling,
            window_blocks: self.settings.window,
            kind: if loaded.world.model.compute() == tch::Kind::BFloat16 { "bf16" } else { "f32" },
            fvd: fvd.map(|network| FeatureNetwork { network, features }),
            lpips: network(&args.clips.lpips, self.lpips.as_ref().map(PerceptualDistance::sha256)),
        }
    }
}

/// Whether the weights know the labels of the clips.
fn check_labels(dataset: &Dataset, loaded: &Loaded) -> anyhow::Result<()> {
    let (real, learnt, folder) = (dataset.meta(), &loaded.world.meta, loaded.folder.display());
    let (names, known) = (real.label_names(), learnt.label_names());
    let numbered = known.iter().enumerate().all(|(index, name)| *name == index.to_string());
    if names.len() != known.len() {
        bail!("{folder}: {} labels, {} has {}", known.len(), real.name, names.len());
    }
    // published weights come without names
    if let (Some((name, other)), false) = (names.iter().zip(&known).find(|(a, b)| a != b), numbered) {
        bail!("{folder}: a label {other:?} where {} has {name:?}", real.name);
    }
    Ok(())
}
