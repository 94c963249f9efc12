//! A learned world: one weights folder, loaded.

use std::collections::BTreeMap;
use std::path::Path;

use acdit_model::diffusion::{Prediction, Schedule, SchedulerConfig, SolverKind};
use acdit_model::{Acdit, Config, Error as ModelError, Patcher, weights};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{Error, Moments, WindowMode, kernels};

/// `world.json`: what people need to know about a world to use it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldMeta {
    /// The world's name.
    pub name: String,
    /// One entry per label of the network, in order.
    pub labels: Vec<Label>,
    /// Frames per second of the training clips.
    pub fps: f64,
    /// Sampling that suits these weights.
    #[serde(default)]
    pub sampling: Sampling,
}

/// A label, which is also an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// The key that selects it, as browsers name keys (`KeyboardEvent.key`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// How a block is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Denoising steps per block.
    pub steps: usize,
    /// Guidance scale s in ε_∅ + s (ε_y − ε_∅); 1 evaluates the labelled branch only.
    pub guidance: f64,
    /// The solver.
    pub solver: SolverKind,
}

impl Default for Sampling {
    /// The paper's choice for video.
    fn default() -> Self {
        Self { steps: 25, guidance: 2.5, solver: SolverKind::DpmSolverPlusPlus }
    }
}

impl WorldMeta {
    /// The description of weights that come with none: labels are named by their numbers.
    pub fn unnamed(config: &Config) -> Self {
        Self {
            name: "unnamed".into(),
            labels: (0..config.num_classes).map(|i| Label { name: i.to_string(), key: None }).collect(),
            fps: 8.0,
            sampling: Sampling::default(),
        }
    }

    /// The labels' names, in order.
    pub fn label_names(&self) -> Vec<String> {
        self.labels.iter().map(|label| label.name.clone()).collect()
    }

    /// Whether this describes a world of `config`.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn check(&self, config: &Config) -> Result<(), String> {
        let (named, classes) = (self.labels.len() as i64, config.num_classes);
        if named != classes {
            return Err(format!("{named} labels for a network of {classes}"));
        }
        if !(self.fps > 0.0 && self.fps <= MOST_FPS) {
            return Err(format!("{} frames per second, expected at most {MOST_FPS}", self.fps));
        }
        Ok(())
    }

    /// The index of the label called `name`.
    ///
    /// # Errors
    /// [`Error::UnknownLabel`], which lists what there is.
    pub fn label(&self, name: &str) -> Result<i64, Error> {
        let found = self.labels.iter().position(|label| label.name == name);
        found.map(|index| index as i64).ok_or_else(|| Error::UnknownLabel {
            got: name.into(),
            known: self.labels.iter().map(|label| label.name.clone()).collect(),
        })
    }
}

/// The network with all that sampling needs beside it. The VAE is apart ([`acdit_codec::vae::Vae`]): its halves live on
/// other threads.
#[derive(Debug)]
pub struct World {
    /// The network.
    pub model: Acdit,
    /// The diffusion process it was trained on.
    pub schedule: Schedule,
    /// Names, keys, frame rate.
    pub meta: WorldMeta,
    /// Clips that streams may begin with, as latents (clips, frames, C, h, w) f32; see [`crate::Session::prompted`].
    pub prompts: Option<Tensor>,
    pub(crate) patcher: Patcher,
}

impl World {
    /// Loads `transformer/`, `scheduler/`, `world.json` and `prompts.safetensors` of a weights folder. Without `world.json`,
    /// labels are numbers; without prompts, streams begin with nothing.
    ///
    /// # Errors
    /// [`Error::Model`] for files that are missing or do not fit, [`Error::WorldFile`] for a bad `world.json` or prompts.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self, Error> {
        let mut model = Acdit::load(&folder.join("transformer"), device, kind)?;
        model.set_norm(kernels::norm_modulate(device)?);
        let schedule =
            Schedule::new(&SchedulerConfig::load(&folder.join("scheduler").join("scheduler_config.json"))?)?;
        let path = folder.join("world.json");
        let meta = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|e| Error::WorldFile { path: path.clone(), detail: e.to_string() })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => WorldMeta::unnamed(model.config()),
            Err(e) => return Err(ModelError::io(path, e).into()),
        };
        let prompts = read_prompts(&folder.join(PROMPTS), model.config())?;
        let world = Self { prompts, ..Self::new(model, schedule, meta) };
        world.meta.check(world.model.config()).map_err(|detail| Error::WorldFile { path, detail })?;
        Ok(world)
    }

    /// A world from parts.
    pub fn new(model: Acdit, schedule: Schedule, meta: WorldMeta) -> Self {
        let patcher = Patcher::new(model.config());
        Self { model, schedule, meta, prompts: None, patcher }
    }

    /// A world of random weights: the speed of a trained one, none of the looks.
    ///
    /// # Errors
    /// [`Error::Model`] for an invalid config.
    pub fn random(config: &Config, seed: u64, device: Device, kind: Kind) -> Result<Self, Error> {
        let mut model = Acdit::random(config, seed, device, kind)?;
        model.set_norm(kernels::norm_modulate(device)?);
        let schedule = Schedule::new(&SchedulerConfig::paper(Prediction::Epsilon))?;
        Ok(Self::new(model, schedule, WorldMeta::unnamed(config)))
    }

    /// The clip (frames, C, h, w) that a stream of `seed` begins with, if the world has any.
    pub fn prompt(&self, seed: u64) -> Option<Tensor> {
        let prompts = self.prompts.as_ref()?;
        Some(prompts.get((seed % prompts.size()[0] as u64) as i64))
    }

    /// What blocks of real frames look like to [`Moments::of`], by the world's prompts, if it has any.
    pub fn reference(&self) -> Option<Moments> {
        let [frames, ..] = self.model.config().block_shape();
        let blocks = self.prompts.as_ref()?.flatten(0, 1).split(frames, 0);
        Moments::mean_of(blocks.iter().map(Moments::of))
    }

    /// The window this world streams with unless told otherwise: the trained one for windowed-mask weights, else one
    /// block less than a training clip, rebuilt at every slide.
    pub fn default_window(&self) -> (usize, WindowMode) {
        let config = self.model.config();
        match config.context_window {
            Some(blocks) => (blocks as usize, WindowMode::Windowed),
            None => ((config.training_blocks() - 1).max(1) as usize, WindowMode::Recompute),
        }
    }
}

/// All that a weights folder holds.
#[derive(Debug)]
pub struct WorldFolder<'a> {
    /// The network's sizes.
    pub config: &'a Config,
    /// The network's parameters, by their published names.
    pub tensors: &'a BTreeMap<String, Tensor>,
    /// Type in which they are stored.
    pub kind: Kind,
    /// The diffusion process.
    pub scheduler: &'a SchedulerConfig,
    /// Names, keys, frame rate.
    pub meta: &'a WorldMeta,
    /// A VAE folder to copy in, if there is one.
    pub vae: Option<&'a Path>,
    /// See [`World::prompts`].
    pub prompts: Option<&'a Tensor>,
}

impl WorldFolder<'_> {
    /// Writes the folder in Hugging Face layout. Files appear whole; `model_index.json` comes last, so a folder that has
    /// it is complete.
    ///
    /// # Errors
    /// [`Error::Model`] for files that cannot be written or copied.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let transformer = folder.join("transformer");
        create_dir(&transformer)?;
        weights::write(&transformer.join("diffusion_pytorch_model.safetensors"), self.tensors, self.kind)?;
        write_json(&transformer.join("config.json"), self.config)?;
        let scheduler = folder.join("scheduler");
        create_dir(&scheduler)?;
        write_json(&scheduler.join("scheduler_config.json"), self.scheduler)?;
        write_json(&folder.join("world.json"), self.meta)?;
        let path = folder.join(PROMPTS);
        match self.prompts {
            Some(prompts) => weights::write(&path, [(&LATENTS.to_owned(), prompts)], self.kind)?,
            // those of weights that were here before
            None if path.exists() => std::fs::remove_file(&path).map_err(|e| ModelError::io(path, e))?,
            None => {}
        }
        let mut index = serde_json::json!({
            "_class_name": "AcditPipeline",
            "transformer": ["acdit_world", "AcditTransformer"],
            "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        });
        if let Some(vae) = self.vae {
            let target = folder.join("vae");
            create_dir(&target)?;
            for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
                copy(&vae.join(name), &target.join(name))?;
            }
            let class = acdit_codec::vae::Config::load(&target)?.class_name();
            index["vae"] = serde_json::json!(["diffusers", class]);
        }
        write_json(&folder.join("model_index.json"), &index)
    }
}

/// Playback rates beyond are surely mistakes.
const MOST_FPS: f64 = 240.0;
const PROMPTS: &str = "prompts.safetensors";
/// The tensor in [`PROMPTS`].
const LATENTS: &str = "latents";

fn read_prompts(path: &Path, config: &Config) -> Result<Option<Tensor>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let refuse = |detail| Err(Error::WorldFile { path: path.into(), detail });
    let Some(latents) = weights::read(path)?.remove(LATENTS) else {
        return refuse(format!("no tensor {LATENTS:?}"));
    };
    let [frames, c, h, w] = config.block_shape();
    let fits = matches!(*latents.size(), [clips, length, gc, gh, gw]
        if clips > 0 && length >= frames && length % frames == 0 && [gc, gh, gw] == [c, h, w]);
    if !fits {
        let expected = format!("[clips, a multiple of {frames}, {c}, {h}, {w}]");
        return refuse(format!("latents {:?}, expected {expected}", latents.size()));
    }
    let latents = latents.to_kind(Kind::Float);
    if latents.isfinite().all().int64_value(&[]) == 0 {
        return refuse("latents that are not finite numbers".into());
    }
    Ok(Some(latents))
}

fn create_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|e| ModelError::io(path, e).into())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::WorldFile { path: path.into(), detail: e.to_string() })?;
    let partial = path.with_extension("partial");
    let written = std::fs::write(&partial, text + "\n").and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|e| ModelError::io(path, e).into())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if from.canonicalize().ok() == to.canonicalize().ok() && to.exists() {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    let copied = std::fs::copy(from, &partial).and_then(|_| std::fs::rename(&partial, to));
    copied.map_err(|e| ModelError::io(from, e).into())
}
