//! Weights that a run goes on from, instead of from random ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use acdit_model::diffusion::{Prediction, SchedulerConfig};
use acdit_model::{Config, weights};
use tch::{Tensor, nn};

use crate::Error;

/// The one table whose size depends on the labels.
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
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    new_labels: bool,
}

impl Start {
    /// Reads `transformer/` and `scheduler/` of a weights folder.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Io`] for files that are missing or damaged.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let transformer = folder.join("transformer");
        let model = Config::load(&transformer.join("config.json"))?;
        let scheduler = SchedulerConfig::load(&folder.join("scheduler").join("scheduler_config.json"))?;
        let path = transformer.join("diffusion_pytorch_model.safetensors");
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let fingerprint = blake3::hash(&bytes).to_hex().to_string();
        let tensors = weights::read(&path)?;
        Ok(Self {
            model,
            prediction: scheduler.prediction_type,
            fingerprint,
            path,
            tensors,
            new_labels: false,
        })
    }

    /// For a dataset of `num_classes` labels. Where that is another number than before, the labels' table is learnt anew
    /// and the rest goes on. Returns whether that is so.
    pub fn with_labels(&mut self, num_classes: i64) -> bool {
        self.new_labels |= self.model.num_classes != num_classes;
        self.model.num_classes = num_classes;
        self.new_labels
    }

    /// Copies the parameters into `vs`, which keeps a table of its own for new labels.
    pub(crate) fn copy_to(&self, vs: &nn::VarStore) -> Result<(), Error> {
        let kept = if self.new_labels { vs.variables().remove_entry(LABEL_TABLE) } else { None };
        let mut tensors: BTreeMap<String, Tensor> =
            self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        tensors.extend(kept.map(|(name, table)| (name, table.detach().copy())));
        Ok(weights::assign(vs, &tensors, &self.path)?)
    }
}
