//! Weights that a run goes on from, instead of from random ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use acdit_model::diffusion::{Prediction, SchedulerConfig};
use acdit_model::{Config, weights};
use acdit_runtime::{Sampling, WorldMeta};
use tch::{Tensor, nn};

use crate::Error;
use crate::description::fingerprint;

/// The one table whose size and meaning depend on the labels.
const LABEL_TABLE: &str = "y_embedder.embedding_table.weight";

/// A network read from a weights folder.
#[derive(Debug)]
pub struct Start {
    /// Its sizes.
    pub model: Config,
    /// What it predicts.
    pub prediction: Prediction,
    /// BLAKE3 of its parameters' file, hexadecimal: a resumed run must have gone on from the same.
    pub fingerprint: String,
    pub(crate) folder: PathBuf,
    /// Its `world.json`; `None` where there is none or it only numbers the labels.
    meta: Option<WorldMeta>,
    tensors: BTreeMap<String, Tensor>,
    new_labels: bool,
}

impl Start {
    /// Reads `transformer/`, `scheduler/` and, if it is there, `world.json` of a weights folder.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Io`] for files that are missing or damaged; [`Error::Options`] for another diffusion process
    /// than the paper's, the only one that is trained.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let model = Config::load(&folder.join("transformer").join("config.json"))?;
        let scheduler = SchedulerConfig::load(&folder.join("scheduler").join("scheduler_config.json"))?;
        let prediction = scheduler.prediction_type;
        if scheduler != SchedulerConfig::paper(prediction) {
            let expected = SchedulerConfig::paper(prediction);
            let text = format!("{}: {scheduler:?}, expected {expected:?}", folder.display());
            return Err(Error::Options(text));
        }
        let path = parameters(folder);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let fingerprint = blake3::hash(&bytes).to_hex().to_string();
        drop(bytes);
        let meta = named(&folder.join("world.json"), &model)?;
        let tensors = weights::read(&path)?;
        Ok(Self { model, prediction, fingerprint, folder: folder.into(), meta, tensors, new_labels: false })
    }

    /// For a dataset whose labels have these names. Where they are others than before, their table is learnt anew and the
    /// rest goes on.
    pub fn with_labels(&mut self, names: &[String]) {
        let same = self.model.num_classes == names.len() as i64
            && self.meta.as_ref().is_none_or(|meta| meta.label_names() == names);
        self.model.num_classes = names.len() as i64;
        self.new_labels = !same;
    }

    /// Whether it has learnt the labels that it goes on with.
    pub fn knows_labels(&self) -> bool {
        !self.new_labels
    }

    /// How streams of it are sampled, if somebody said; what it learns from now on does not change that.
    pub fn sampling(&self) -> Option<Sampling> {
        self.meta.as_ref().map(|meta| meta.sampling)
    }

    /// Whether the network knows the latents of the VAE in `folder`.
    ///
    /// # Errors
    /// [`Error::Options`] if these weights come with another one; [`Error::Io`].
    pub fn check_vae(&self, folder: &Path) -> Result<(), Error> {
        let own = self.folder.join("vae");
        if own.is_dir() && fingerprint(&own)? != fingerprint(folder)? {
            let (network, vae) = (self.folder.display(), folder.display());
            return Err(Error::Options(format!(
                "{network}: its network knows the latents of another VAE than {vae}"
            )));
        }
        Ok(())
    }

    /// Copies the parameters into `vs`, which keeps a table of its own for new labels.
    pub(crate) fn copy_to(&self, vs: &nn::VarStore) -> Result<(), Error> {
        let kept = if self.new_labels { vs.variables().remove_entry(LABEL_TABLE) } else { None };
        let mut tensors: BTreeMap<String, Tensor> =
            self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        tensors.extend(kept.map(|(name, table)| (name, table.detach().copy())));
        Ok(weights::assign(vs, &tensors, &parameters(&self.folder))?)
    }
}

fn parameters(folder: &Path) -> PathBuf {
    folder.join("transformer").join("diffusion_pytorch_model.safetensors")
}

/// A `world.json`, unless there is none or it only numbers the labels.
fn named(path: &Path, model: &Config) -> Result<Option<WorldMeta>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
    };
    let meta: WorldMeta =
        serde_json::from_str(&text).map_err(|e| Error::Options(format!("{}: {e}", path.display())))?;
    let named = meta.labels != WorldMeta::unnamed(model).labels;
    Ok(named.then_some(meta))
}
