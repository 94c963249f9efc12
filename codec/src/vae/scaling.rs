//! The affine map between a VAE's raw latents and the unit-scale latents that the model sees.

use tch::Tensor;

use crate::Error;

/// `latents = (raw - shift) * scale`, both from the VAE's config.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scaling {
    scale: f64,
    shift: f64,
}

impl Scaling {
    /// # Errors
    /// [`Error::VaeConfig`] if the map cannot be inverted.
    pub(super) fn new(scale: f64, shift: f64) -> Result<Self, Error> {
        if !scale.is_normal() || !shift.is_finite() {
            return Err(Error::VaeConfig(format!(
                "expected a finite scaling_factor other than 0 and a finite shift_factor, got {scale} and {shift}"
            )));
        }
        Ok(Self { scale, shift })
    }

    pub(super) fn apply(self, raw: &Tensor) -> Tensor {
        (raw - self.shift) * self.scale
    }

    /// Of a standard deviation, which no shift changes.
    pub(super) fn apply_to_spread(self, raw: &Tensor) -> Tensor {
        raw * self.scale.abs()
    }

    pub(super) fn invert(self, latents: &Tensor) -> Tensor {
        latents / self.scale + self.shift
    }
}

/// Pixels are RGB throughout this crate, and latents have at least one channel.
pub(super) fn validate_channels(pixels: [i64; 2], latents: i64) -> Result<(), Error> {
    if pixels != [3, 3] || !(1..=256).contains(&latents) {
        return Err(Error::VaeConfig(format!(
            "expected in_channels 3, out_channels 3 and latent_channels 1 to 256, got {}, {} and {latents}",
            pixels[0], pixels[1]
        )));
    }
    Ok(())
}
