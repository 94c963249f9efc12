//! An autoencoder against the `golden.safetensors` of its folder.

use std::path::Path;

use acdit_codec::vae::{self, Vae};
use acdit_model::weights;
use acdit_runtime::device::Placement;
use anyhow::{Context, Result};

use super::Subject;

/// Checks posterior, latents and pixels.
///
/// Golden latents are those of the bare diffusers class: `mean · scaling_factor` for `AutoencoderKL`, unscaled for
/// `AutoencoderTiny`. They are brought to this project's form, (raw − shift) · scale, before they are compared.
pub(super) fn check(dir: &Path, placement: &Placement, tolerance: f64, subject: &mut Subject) -> Result<()> {
    let golden = weights::read(&dir.join("golden.safetensors"))?;
    let tensor = |name: &str| golden.get(name).with_context(|| format!("the golden file lacks {name:?}"));
    let config = vae::Config::load(dir)?;
    let (scale, shift) = config.scale_and_shift();
    let latents = match config {
        vae::Config::AutoencoderKL(_) => tensor("latent")? - shift * scale,
        _ => (tensor("latent")? - shift) * scale,
    };
    let Vae { encoder, decoder } = Vae::load(dir, placement.device, placement.kind)?;

    let posterior = encoder.posterior(tensor("image")?)?;
    if let Some(logvar) = &posterior.logvar {
        subject.compare("mean", &posterior.mean, tensor("mean")?, tolerance)?;
        subject.compare("logvar", logvar, tensor("logvar")?, tolerance)?;
    }
    subject.compare("latent", &encoder.encode(tensor("image")?)?, &latents, tolerance)?;
    subject.compare("decoded", &decoder.decode(&latents)?, tensor("decoded")?, tolerance)
}
