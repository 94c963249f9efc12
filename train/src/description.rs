//! What latents are of: kept beside them and in every checkpoint, so that other data are noticed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::listing::Split;
use crate::{Error, LatentBank};

/// Which clips, and how they are cut into latents. Clips with equal descriptions that the same VAE encoded give equal latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The dataset's name.
    pub dataset: String,
    /// Names of its labels, in their order.
    pub labels: Vec<String>,
    /// Frames per second after the interval.
    pub fps: f64,
    /// Seed that the clips of a procedural world are drawn with.
    pub seed: Option<u64>,
    /// Clips beside them that a network made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Streams>,
    /// BLAKE3 of the list of clips in files, hexadecimal.
    pub list: Option<String>,
    /// Which of several pairs of lists, where there are several.
    pub fold: Option<u32>,
    /// Which list of the pair.
    pub split: Split,
    /// Whether each clip's mirror image is there too.
    pub mirrored: bool,
    /// Width of a frame in pixels.
    pub width: u32,
    /// Height of a frame in pixels.
    pub height: u32,
    /// Every how many frames of a clip one is taken.
    pub frame_interval: u32,
    /// Frames that share one label.
    pub frames_per_block: usize,
    /// Blocks of a procedural clip, and the fewest that a file must have.
    pub blocks: usize,
}

/// Clips that a network made; see [`crate::dagger`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    /// How many.
    pub count: usize,
    /// BLAKE3 of its parameters' file, hexadecimal.
    pub weights: String,
}

/// What a run learns from, as its checkpoints remember it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Data {
    #[serde(flatten)]
    description: Description,
    clips: usize,
    /// [`fingerprint`] of the VAE.
    vae: String,
}

impl Data {
    /// Of a bank that the VAE in that folder has encoded.
    pub(crate) fn new(bank: &LatentBank, vae: &Path) -> Result<Self, Error> {
        Ok(Self { description: bank.description().clone(), clips: bank.len(), vae: fingerprint(vae)? })
    }
}

/// BLAKE3 of a VAE folder's files, hexadecimal.
pub(crate) fn fingerprint(vae: &Path) -> Result<String, Error> {
    let mut hash = blake3::Hasher::new();
    for name in VAE_FILES {
        let path = vae.join(name);
        hash.update(&std::fs::read(&path).map_err(|e| Error::io(path, e))?);
    }
    Ok(hash.finalize().to_hex().to_string())
}

/// What a VAE folder is made of.
pub(crate) const VAE_FILES: [&str; 2] = ["config.json", "diffusion_pytorch_model.safetensors"];

/// Values longer than this are named only.
const QUOTED: usize = 40;

/// In what two descriptions of one kind differ: "width 64 there, 128 here"; `None` if in nothing.
pub(crate) fn difference<T: Serialize>(there: &T, here: &T) -> Option<String> {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (there, here) = (fields(there), fields(here));
    let differing = there.iter().filter(|(name, value)| here.get(*name) != Some(value));
    let told = differing.map(|(name, there)| {
        let (there, here) = (there.to_string(), here.get(name).map(ToString::to_string).unwrap_or_default());
        match there.len().max(here.len()) <= QUOTED {
            true => format!("{name} {there} there, {here} here"),
            false => format!("other {name}"),
        }
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::tests::counting;

    #[test]
    fn differences_are_named_and_long_values_are_not_quoted() {
        let there = counting(&[1]).description().clone();
        assert_eq!(difference(&there, &there.clone()), None);
        let list = Some("0123456789".repeat(6));
        let here = Description { width: 128, list, fps: 2.0, ..there.clone() };
        let told = difference(&there, &here).unwrap();
        assert_eq!(told, "fps 1.0 there, 2.0 here; other list; width 1 there, 128 here");
    }

    #[test]
    fn data_come_back_from_json_as_they_were() {
        let data = Data { description: counting(&[1, 2]).description().clone(), clips: 2, vae: "f00".into() };
        let json = serde_json::to_string(&data).unwrap();
        assert_eq!(serde_json::from_str::<Data>(&json).unwrap(), data);
        assert!(json.contains("\"clips\":2,\"vae\":\"f00\""), "{json}");
    }
}
