//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! One checkpoint is one safetensors file; step, configuration and whatever else is not a tensor is JSON in its metadata.
//! It is written beside its place, synced and renamed, so a crash leaves the previous one intact, and the last few are
//! kept. Random numbers need no saving: both loops draw them from (seed, step).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use acdit_model::write_atomically;

use crate::Error;

/// Metadata key of the JSON part.
const STATE_KEY: &str = "state";
/// Writes `folder/step-NNNNNNNN.safetensors` and removes all but the `keep` newest checkpoints.
///
/// `tensors` must be f32; `state` is what [`load`] gives back beside them.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] if `state` has no JSON form or a tensor is not f32.
pub fn save(
    folder: &Path,
    step: u64,
    keep: NonZeroUsize,
    state: &impl Serialize,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<PathBuf, Error> {
    let path = folder.join(format!("step-{step:08}.safetensors"));
    let failed = |reason: String| Error::Checkpoint { path: path.clone(), reason };
    let json = serde_json::to_string(state).map_err(|e| failed(e.to_string()))?;
    let mut contents = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if tensor.kind() != Kind::Float {
            return Err(failed(format!("{name}: expected f32, got {:?}", tensor.kind())));
        }
        contents.push((name, tensor.size(), bytes(tensor)?));
    }
    let mut views = Vec::with_capacity(contents.len());
    for (name, size, bytes) in &contents {
        let shape = size.iter().map(|&length| length as usize).collect();
        views.push((name, TensorView::new(Dtype::F32, shape, bytes).map_err(|e| failed(e.to_string()))?));
    }
    let metadata = HashMap::from([(STATE_KEY.to_owned(), json)]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| failed(e.to_string()))?;
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    write_atomically(&path, &file)?;
    for old in list(folder)?.iter().rev().skip(keep.get()) {
        fs::remove_file(old).map_err(|e| Error::io(old, e))?;
    }
    Ok(path)
}

/// Makes `folder/best.safetensors` another name of the checkpoint `path`, whose data stays when the other name goes.
///
/// # Errors
/// [`Error::Io`].
pub fn mark_best(folder: &Path, path: &Path) -> Result<(), Error> {
    let (best, partial) = (folder.join("best.safetensors"), folder.join("best.partial"));
    let link = || {
        let _ = fs::remove_file(&partial); // of a run that was killed here
        fs::hard_link(path, &partial)?;
        fs::rename(&partial, &best)
    };
    link().map_err(|e| Error::io(&best, e))
}

/// The newest checkpoint in `folder`, or `None` where there is none.
///
/// # Errors
/// [`Error::Io`] if the folder exists and cannot be read.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>, Error> {
    Ok(list(folder)?.pop())
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// [`Error::Model`] for a file that is no safetensors file; [`Error::Checkpoint`] if its state is not of type `S`.
pub fn load<S: DeserializeOwned>(path: &Path) -> Result<(S, BTreeMap<String, Tensor>), Error> {
    let failed = |reason: String| Error::Checkpoint { path: path.into(), reason };
    let metadata = acdit_model::weights::read_metadata(path)?;
    let json = metadata.get(STATE_KEY).ok_or_else(|| failed("not a checkpoint of this program".into()))?;
    let state = serde_json::from_str(json).map_err(|e| failed(format!("unexpected state: {e}")))?;
    Ok((state, acdit_model::weights::read(path)?))
}

/// Checkpoints in `folder`, oldest first.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let step = name.strip_prefix("step-").and_then(|rest| rest.strip_suffix(".safetensors"));
        if let Some(step) = step.and_then(|digits| digits.parse::<u64>().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Little-endian f32, which is the only byte order libtorch runs on.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Vec<u8>, Error> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let count = tensor.numel() * Kind::Float.elt_size_in_bytes();
    let mut bytes = vec![0; count];
    tensor.f_view_dtype(Kind::Uint8)?.f_reshape([-1])?.f_copy_data_u8(&mut bytes, count)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct State {
        step: u64,
        name: String,
    }

    fn tensors(value: f32) -> BTreeMap<String, Tensor> {
        let whole = Tensor::from_slice(&[value, -0.0, 1e-40, f32::MAX]).view([2, 2]);
        BTreeMap::from([("w".to_owned(), whole.shallow_clone()), ("row".to_owned(), whole.select(1, 0))])
    }

    #[test]
    fn what_was_saved_comes_back_bit_for_bit_and_the_newest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = folder.path().join("checkpoints");
        assert_eq!(latest(&checkpoints).unwrap(), None);
        for step in [5, 50, 500] {
            save(&checkpoints, step, TWO, &State { step, name: "a \"b\"".into() }, &tensors(step as f32))
                .unwrap();
            if step <= 50 {
                mark_best(&checkpoints, &latest(&checkpoints).unwrap().unwrap()).unwrap();
            }
            if step == 5 {
                let best = load::<State>(&checkpoints.join("best.safetensors")).unwrap();
                assert_eq!(best.0.step, 5);
            }
        }
        let newest = latest(&checkpoints).unwrap().unwrap();
        let (state, loaded) = load::<State>(&newest).unwrap();
        assert_eq!(state, State { step: 500, name: "a \"b\"".into() });
        assert_eq!(loaded, tensors(500.0));
        assert_eq!(load::<State>(&checkpoints.join("best.safetensors")).unwrap().1, tensors(50.0));
        let mut left: Vec<_> = fs::read_dir(&checkpoints)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["best.safetensors", "step-00000050.safetensors", "step-00000500.safetensors"]);
    }

    #[test]
    fn foreign_files_and_tensors_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let half = BTreeMap::from([("w".to_owned(), Tensor::from_slice(&[1i64]))]);
        let error = save(folder.path(), 1, TWO, &0, &half).unwrap_err().to_string();
        assert!(error.contains("w: expected f32, got Int64"), "{error}");
        assert_eq!(latest(folder.path()).unwrap(), None);

        let path = folder.path().join("step-00000001.safetensors");
        acdit_model::weights::write(&path, &tensors(1.0), Kind::Float).unwrap();
        let error = load::<State>(&path).unwrap_err().to_string();
        assert!(error.contains("not a checkpoint"), "{error}");
        save(folder.path(), 1, TWO, &"other", &tensors(1.0)).unwrap();
        assert!(load::<State>(&path).unwrap_err().to_string().contains("unexpected state"));
    }
}
