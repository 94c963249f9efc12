//! Weight files: safetensors in and out, published `.pt` checkpoints in.

mod import;
pub mod pt;

use std::collections::BTreeMap;
use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor, nn};

use crate::files::{partial, take_place};
use crate::{Acdit, Config, Error};

/// Reads a whole safetensors file into CPU tensors.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for what is not a safetensors file.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let format = |detail: String| Error::Format { path: path.into(), detail };
    let file =
        SafeTensors::deserialize(&bytes).map_err(|e| format(format!("not a safetensors file: {e}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let tensor = from_view(&view).map_err(|detail| format(format!("{name}: {detail}")))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn from_view(view: &TensorView<'_>) -> Result<Tensor, String> {
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        other => return Err(format!("unsupported type {other:?}")),
    };
    let shape: Vec<i64> = view.shape().iter().map(|&d| d as i64).collect();
    Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|e| e.to_string())
}

/// The metadata of a safetensors file.
///
/// # Errors
/// As [`read`].
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .map_err(|e| Error::Format { path: path.into(), detail: format!("not a safetensors file: {e}") })?;
    Ok(header.metadata().clone().unwrap_or_default().into_iter().collect())
}

/// Writes tensors as one safetensors file, floats in `kind`. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Io`], [`Error::Torch`].
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
    kind: Kind,
) -> Result<(), Error> {
    let tensors: Vec<(String, Tensor)> = (tensors.into_iter())
        .map(|(name, tensor)| {
            let tensor =
                if tensor.is_floating_point() { tensor.to_kind(kind) } else { tensor.shallow_clone() };
            (name.clone(), tensor.to_device(Device::Cpu).detach().contiguous())
        })
        .collect();
    let partial = partial(path);
    Tensor::write_safetensors(&tensors, &partial)
        .map_err(|e| Error::Format { path: path.into(), detail: format!("cannot write: {e}") })?;
    take_place(&partial, path)
}

/// Copies `tensors` into the variables of `vs`, converting their type.
///
/// # Errors
/// [`Error::Weights`] listing every missing, extra and mis-shaped key; `path` only names the origin.
pub fn assign(vs: &nn::VarStore, tensors: &BTreeMap<String, Tensor>, path: &Path) -> Result<(), Error> {
    let mut variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
    let list = |names: Vec<String>| {
        let more = names.len().saturating_sub(8);
        let shown = names.into_iter().take(8).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    };
    let missing: Vec<String> = variables.keys().filter(|k| !tensors.contains_key(*k)).cloned().collect();
    let extra: Vec<String> = tensors.keys().filter(|k| !variables.contains_key(*k)).cloned().collect();
    let misshaped: Vec<String> = (variables.iter())
        .filter_map(|(name, variable)| {
            let got = tensors.get(name)?.size();
            (got != variable.size()).then(|| format!("{name} {got:?} (expected {:?})", variable.size()))
        })
        .collect();
    let problems: Vec<String> = [("missing", missing), ("extra", extra), ("mis-shaped", misshaped)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", list(names)))
        .collect();
    if !problems.is_empty() {
        return Err(Error::Weights { path: path.into(), detail: problems.join("; ") });
    }
    tch::no_grad(|| {
        for (name, variable) in &mut variables {
            variable.f_copy_(&tensors[name])?;
        }
        Ok(())
    })
}

impl Acdit {
    /// Builds a network for inference from a `transformer/` folder; weights and activations are of type `kind`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`], [`Error::Config`], [`Error::Weights`].
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self, Error> {
        let config = Config::load(&folder.join("config.json"))?;
        let path = folder.join("diffusion_pytorch_model.safetensors");
        Self::from_tensors(&config, &read(&path)?, &path, device, kind)
    }

    /// As [`Self::load`], from tensors in memory; `origin` names them in errors.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Weights`].
    pub fn from_tensors(
        config: &Config,
        tensors: &BTreeMap<String, Tensor>,
        origin: &Path,
        device: Device,
        kind: Kind,
    ) -> Result<Self, Error> {
        config.validate()?;
        let held: i128 = tensors.values().map(|tensor| tensor.numel() as i128).sum();
        let made = import::parameters(config);
        // Not worth a list of names, and perhaps more than there is memory for.
        if made > 2 * held {
            let detail = format!("its config makes {made} parameters, the file has {held}");
            return Err(Error::Weights { path: origin.into(), detail });
        }
        let mut vs = nn::VarStore::new(device);
        let model = tch::no_grad(|| Self::new(&vs.root(), config, kind))?;
        assign(&vs, tensors, origin)?;
        finish(&mut vs, kind)?;
        Ok(model)
    }
}

impl Acdit {
    /// A network with random weights, none of them zero: for tests and benches. Same seed, same weights.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn random(config: &Config, seed: u64, device: Device, kind: Kind) -> Result<Self, Error> {
        config.validate()?;
        let mut vs = nn::VarStore::new(device);
        let model = tch::no_grad(|| Self::new(&vs.root(), config, kind))?;
        let variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        tch::no_grad(|| {
            for (name, mut variable) in variables {
                let centre: f32 = if name.contains("norm") { 1.0 } else { 0.0 };
                let spread = if name.ends_with("weight") && centre == 0.0 {
                    (variable.size()[1] as f32).sqrt().recip()
                } else {
                    0.05
                };
                let values: Vec<f32> = Normal::new(centre, spread)
                    .expect("both are finite")
                    .sample_iter(&mut rng)
                    .take(variable.numel())
                    .collect();
                variable.f_copy_(&Tensor::from_slice(&values).view(&variable.size()[..]))?;
            }
            Ok::<_, Error>(())
        })?;
        finish(&mut vs, kind)?;
        Ok(model)
    }
}

/// Makes the variables of `vs`, and with them the layers that share them, fit for inference in `kind`.
///
/// # Errors
/// [`Error::Config`] for a type that weights are not stored in.
fn finish(vs: &mut nn::VarStore, kind: Kind) -> Result<(), Error> {
    vs.freeze();
    match kind {
        Kind::Float => vs.float(),
        Kind::BFloat16 => vs.bfloat16(),
        Kind::Half => vs.half(),
        other => return Err(Error::Config(format!("weights of type {other:?}"))),
    }
    if (vs.device(), kind) == (Device::Cpu, Kind::Float) {
        lay_out_for_few_tokens(vs);
    }
    Ok(())
}

/// Puts the matrices (outputs, inputs) of `vs` into memory input by input. MKL copies a matrix that lies the other way before it
/// multiplies, which for a block of few tokens takes longer than the product.
fn lay_out_for_few_tokens(vs: &nn::VarStore) {
    for (name, mut matrix) in vs.variables() {
        if matrix.dim() == 2 && !name.ends_with("embedding_table.weight") {
            let transposed = matrix.tr().contiguous().tr();
            matrix.set_data(&transposed);
        }
    }
}
