//! The autoencoders: pixels to latents and back, from diffusers config folders.
//!
//! [`Vae::load`] reads a folder with `config.json` and `diffusion_pytorch_model.safetensors` and gives two halves that move
//! to different threads: a [`VaeEncoder`] and a [`VaeDecoder`]. They own everything around the bare networks of [`kl`] and
//! [`tiny`]: scaling (from the config only), types, devices, and slices and tiles that keep memory bounded ([`Tiling`]).

mod conv;
pub mod kl;
mod scaling;
mod tiles;
pub mod tiny;

use std::collections::BTreeMap;
use std::path::Path;

use acdit_model::weights;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn};

use self::scaling::Scaling;
pub use self::tiles::Tiling;
use self::tiles::Zoom;
use crate::Error;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// `config.json` of either autoencoder, told apart by `_class_name`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "_class_name")]
#[non_exhaustive]
pub enum Config {
    /// Stable Diffusion's VAE.
    AutoencoderKL(kl::Config),
    /// TAESD.
    AutoencoderTiny(tiny::Config),
}

impl Config {
    /// Reads and validates `config.json` of a VAE folder.
    ///
    /// # Errors
    /// [`Error::VaeFile`] if it is absent, not the config of a known autoencoder, or describes none that can be built.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(CONFIG);
        let fail = |reason: String| Error::VaeFile { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
        let config: Self = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        config.validate().map_err(|e| fail(e.to_string()))?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), Error> {
        match self {
            Self::AutoencoderKL(config) => config.validate()?,
            Self::AutoencoderTiny(config) => config.validate()?,
        }
        self.scaling().map(|_| ())
    }

    /// diffusers' name of the autoencoder.
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::AutoencoderKL(_) => "AutoencoderKL",
            Self::AutoencoderTiny(_) => "AutoencoderTiny",
        }
    }

    /// Channels C of the latents.
    pub fn latent_channels(&self) -> i64 {
        match self {
            Self::AutoencoderKL(config) => config.latent_channels,
            Self::AutoencoderTiny(config) => config.latent_channels,
        }
    }

    /// Pixels per latent along each axis.
    pub fn downsampling(&self) -> i64 {
        match self {
            Self::AutoencoderKL(config) => config.downsampling(),
            Self::AutoencoderTiny(config) => config.downsampling(),
        }
    }

    /// `scaling_factor` and `shift_factor`: latents are (raw − shift) · scale.
    pub fn scale_and_shift(&self) -> (f64, f64) {
        let (scale, shift) = match self {
            Self::AutoencoderKL(config) => (config.scaling_factor, config.shift_factor),
            Self::AutoencoderTiny(config) => (config.scaling_factor, config.shift_factor),
        };
        (scale, shift.unwrap_or(0.0))
    }

    fn scaling(&self) -> Result<Scaling, Error> {
        let (scale, shift) = self.scale_and_shift();
        Scaling::new(scale, shift)
    }
}

/// A loaded autoencoder.
#[derive(Debug)]
pub struct Vae {
    /// Pixels to latents.
    pub encoder: VaeEncoder,
    /// Latents to pixels.
    pub decoder: VaeDecoder,
}

impl Vae {
    /// Loads a diffusers VAE folder for inference, weights and activations in `kind`.
    ///
    /// Parameters under names and shapes that diffusers has since changed are accepted.
    ///
    /// # Errors
    /// [`Error::VaeFile`] for `config.json`; [`Error::Weights`] for a weight file that is absent, broken or does not fit,
    /// listing missing, extra and mis-shaped keys; [`Error::VaeConfig`] for a `kind` that is not a float.
    pub fn load(dir: &Path, device: Device, kind: Kind) -> Result<Self, Error> {
        let config = Config::load(dir)?;
        let path = dir.join(WEIGHTS);
        let tensors: BTreeMap<String, Tensor> = (weights::read(&path)?.into_iter())
            .map(|(name, tensor)| match config {
                Config::AutoencoderKL(_) => kl::current_form(&name, tensor),
                Config::AutoencoderTiny(_) => (name, tensor),
            })
            .collect();
        let held: i128 = tensors.values().map(|tensor| tensor.numel() as i128).sum();
        let made = match &config {
            Config::AutoencoderKL(config) => config.least_parameters(),
            Config::AutoencoderTiny(config) => config.least_parameters(),
        };
        // Not worth a list of names, and perhaps more than there is memory for.
        if made > held {
            let reason = format!("makes at least {made} parameters, {WEIGHTS} has {held}");
            return Err(Error::VaeFile { path: dir.join(CONFIG), reason });
        }
        Self::build(&config, device, kind, |vs| Ok(weights::assign(vs, &tensors, &path)?))
    }

    /// An autoencoder of random weights: the speed of a trained one, none of the looks.
    ///
    /// # Errors
    /// [`Error::VaeConfig`] for a config or a `kind` that no network can have.
    pub fn random(config: &Config, device: Device, kind: Kind) -> Result<Self, Error> {
        config.validate()?;
        Self::build(config, device, kind, |_| Ok(()))
    }

    fn build(
        config: &Config,
        device: Device,
        kind: Kind,
        fill: impl FnOnce(&nn::VarStore) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut vs = nn::VarStore::new(device);
        let (encoder, decoder) = tch::no_grad(|| match config {
            Config::AutoencoderKL(config) => (
                EncoderNetwork::Kl(Box::new(kl::Encoder::new(&vs.root(), config))),
                DecoderNetwork::Kl(Box::new(kl::Decoder::new(&vs.root(), config))),
            ),
            Config::AutoencoderTiny(config) => {
                let network = tiny::AutoencoderTiny::new(&vs.root(), config);
                (EncoderNetwork::Tiny(network.encoder), DecoderNetwork::Tiny(network.decoder))
            }
        });
        fill(&vs)?;
        vs.freeze();
        match kind {
            Kind::Float => vs.float(),
            Kind::BFloat16 => vs.bfloat16(),
            Kind::Half => vs.half(),
            other => return Err(Error::VaeConfig(format!("cannot compute in {other:?}"))),
        }
        let setup = Setup {
            channels: config.latent_channels(),
            downsampling: config.downsampling(),
            scaling: config.scaling()?,
            device,
            kind,
            tiling: Tiling::default(),
        };
        Ok(Self {
            encoder: VaeEncoder { network: encoder, setup },
            decoder: VaeDecoder { network: decoder, setup },
        })
    }

    /// Writes a folder that [`Vae::load`] and diffusers read, floats in `kind`. Each file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::VaeFile`], [`Error::Weights`].
    pub fn save(dir: &Path, config: &Config, vs: &nn::VarStore, kind: Kind) -> Result<(), Error> {
        let path = dir.join(CONFIG);
        let fail = |reason: String| Error::VaeFile { path: path.clone(), reason };
        let json = serde_json::to_string_pretty(config).map_err(|e| fail(e.to_string()))?;
        std::fs::create_dir_all(dir).map_err(|e| fail(e.to_string()))?;
        weights::write(&dir.join(WEIGHTS), &vs.variables().into_iter().collect::<BTreeMap<_, _>>(), kind)?;
        let partial = path.with_extension("partial");
        std::fs::write(&partial, json + "\n")
            .and_then(|()| std::fs::rename(&partial, &path))
            .map_err(|e| fail(e.to_string()))
    }
}

/// What both halves need to know beside their network.
#[derive(Debug, Clone, Copy)]
struct Setup {
    channels: i64,
    downsampling: i64,
    scaling: Scaling,
    device: Device,
    kind: Kind,
    tiling: Tiling,
}

#[derive(Debug)]
enum EncoderNetwork {
    Kl(Box<kl::Encoder>),
    Tiny(tiny::Encoder),
}

/// What the encoder knows about a frame's raw latents.
#[derive(Debug)]
pub struct Posterior {
    /// Mean (F, C, h, w), unscaled.
    pub mean: Tensor,
    /// Log-variance (F, C, h, w), clamped to [-30, 20] as in diffusers; `None` for an autoencoder without a posterior.
    pub logvar: Option<Tensor>,
}

/// Latents as a model sees them, before one is drawn.
#[derive(Debug)]
pub struct Distribution {
    /// Mean (F, C, h, w), scaled.
    pub mean: Tensor,
    /// Standard deviation (F, C, h, w), scaled; `None` for an autoencoder without a posterior.
    pub std: Option<Tensor>,
}

/// Pixels to latents.
#[derive(Debug)]
pub struct VaeEncoder {
    network: EncoderNetwork,
    setup: Setup,
}

impl VaeEncoder {
    /// Encodes pixels in [-1, 1], (F, 3, H, W), to the scaled mean of the posterior, (F, C, h, w) f32.
    ///
    /// # Errors
    /// [`Error::Shape`] unless H and W are multiples of [`Self::downsampling`] and nothing is empty.
    pub fn encode(&self, pixels: &Tensor) -> Result<Tensor, Error> {
        Ok(self.setup.scaling.apply(&self.posterior(pixels)?.mean))
    }

    /// As [`Self::encode`], with the standard deviation beside the mean: a sample is mean + deviation · standard normal noise.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_distribution(&self, pixels: &Tensor) -> Result<Distribution, Error> {
        let Posterior { mean, logvar } = self.posterior(pixels)?;
        let scaling = self.setup.scaling;
        let std = logvar.map(|logvar| scaling.apply_to_spread(&(logvar * 0.5).exp()));
        Ok(Distribution { mean: scaling.apply(&mean), std })
    }

    /// The posterior of pixels in [-1, 1], (F, 3, H, W), before scaling; f32.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn posterior(&self, pixels: &Tensor) -> Result<Posterior, Error> {
        let Setup { downsampling: f, device, kind, tiling, .. } = self.setup;
        match pixels.size()[..] {
            [frames, 3, h, w] if frames > 0 && h > 0 && w > 0 && h % f == 0 && w % f == 0 => {}
            _ => {
                let expected = "(F, 3, H, W), H and W multiples of the VAE's downsampling";
                return Err(Error::Shape { expected, got: pixels.size() });
            }
        }
        let zoom = Zoom { input: f, output: 1 };
        tch::no_grad(|| {
            let pixels = pixels.f_to_device(device)?.to_kind(kind);
            Ok(match &self.network {
                EncoderNetwork::Tiny(network) => {
                    Posterior { mean: tiling.run(&pixels, zoom, |xs| network.forward(xs)), logvar: None }
                }
                EncoderNetwork::Kl(network) => {
                    let moments = tiling.run(&pixels, zoom, |xs| network.forward(xs)); // (F, 2·C, h, w)
                    let [mean, logvar] = [0, 1].map(|half| {
                        moments.narrow(1, half * self.setup.channels, self.setup.channels).contiguous()
                    });
                    Posterior { mean, logvar: Some(logvar.clamp(-30.0, 20.0)) }
                }
            })
        })
    }

    /// Channels C of the latents.
    pub fn latent_channels(&self) -> i64 {
        self.setup.channels
    }

    /// Pixels per latent along each axis.
    pub fn downsampling(&self) -> i64 {
        self.setup.downsampling
    }

    /// The same encoder with other bounds on memory.
    pub fn with_tiling(mut self, tiling: Tiling) -> Self {
        self.setup.tiling = tiling;
        self
    }
}

#[derive(Debug)]
enum DecoderNetwork {
    Kl(Box<kl::Decoder>),
    Tiny(tiny::Decoder),
}

/// Latents to pixels.
#[derive(Debug)]
pub struct VaeDecoder {
    network: DecoderNetwork,
    setup: Setup,
}

impl VaeDecoder {
    /// Decodes scaled latents (F, C, h, w) to pixels (F, 3, H, W) f32, in [-1, 1] up to the network's error.
    ///
    /// # Errors
    /// [`Error::Shape`] for other axes or an empty tensor.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, Error> {
        let Setup { channels, downsampling, scaling, device, kind, tiling } = self.setup;
        match latents.size()[..] {
            [frames, c, h, w] if frames > 0 && c == channels && h > 0 && w > 0 => {}
            _ => return Err(Error::Shape { expected: "(F, C, h, w) with the VAE's C", got: latents.size() }),
        }
        let zoom = Zoom { input: 1, output: downsampling };
        tch::no_grad(|| {
            let raw = scaling.invert(&latents.f_to_device(device)?.to_kind(Kind::Float)).to_kind(kind);
            Ok(match &self.network {
                DecoderNetwork::Kl(network) => tiling.run(&raw, zoom, |xs| network.forward(xs)),
                DecoderNetwork::Tiny(network) => tiling.run(&raw, zoom, |xs| network.forward(xs)),
            })
        })
    }

    /// Channels C of the latents.
    pub fn latent_channels(&self) -> i64 {
        self.setup.channels
    }

    /// Pixels per latent along each axis.
    pub fn downsampling(&self) -> i64 {
        self.setup.downsampling
    }

    /// The same decoder with other bounds on memory.
    pub fn with_tiling(mut self, tiling: Tiling) -> Self {
        self.setup.tiling = tiling;
        self
    }
}
