//! diffusers' `AutoencoderTiny` (TAESD): a VAE without a posterior, small enough to train on a CPU and to run live.
//!
//! Parameters carry the published names (`encoder.layers.N.…`, `decoder.layers.N.…`), so the files load in diffusers and
//! its files load here. The networks work on raw latents; [`super::VaeEncoder`] and [`super::VaeDecoder`] apply the
//! scaling of the config.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::{self, Module, Path};

use super::conv::{Conv, double};
use super::scaling::validate_channels;
use crate::Error;

/// `config.json` of an `AutoencoderTiny`; absent keys take diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels of the pixels read.
    pub in_channels: i64,
    /// Channels of the pixels written.
    pub out_channels: i64,
    /// Width of each encoder stage; the resolution halves between stages. All entries are equal, see [`Config::validate`].
    pub encoder_block_out_channels: Vec<i64>,
    /// Width of each decoder stage; the resolution doubles between stages. All entries are equal.
    pub decoder_block_out_channels: Vec<i64>,
    /// Residual blocks in each encoder stage.
    pub num_encoder_blocks: Vec<i64>,
    /// Residual blocks in each decoder stage.
    pub num_decoder_blocks: Vec<i64>,
    /// Channels of the latents.
    pub latent_channels: i64,
    /// Activation; only `relu` exists in published weights.
    pub act_fn: String,
    /// Upsampling mode; only `nearest`.
    pub upsample_fn: String,
    /// Upsampling per decoder stage; only 2, which is what the encoder undoes.
    pub upsampling_scaling_factor: i64,
    /// Half-range of the raw latents when stored as images. Kept for diffusers, unused by the networks.
    pub latent_magnitude: f64,
    /// Offset of the raw latents when stored as images. Kept for diffusers, unused by the networks.
    pub latent_shift: f64,
    /// Latents are `(raw - shift_factor) * scaling_factor`.
    pub scaling_factor: f64,
    /// See `scaling_factor`.
    pub shift_factor: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_channels: 4,
            act_fn: "relu".into(),
            upsample_fn: "nearest".into(),
            upsampling_scaling_factor: 2,
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            scaling_factor: 1.0,
            shift_factor: Some(0.0),
        }
    }
}

impl Config {
    /// Pixels per latent along each axis.
    pub fn downsampling(&self) -> i64 {
        1 << (self.encoder_block_out_channels.len() - 1)
    }

    /// Checks that the networks can be built.
    ///
    /// # Errors
    /// [`Error::VaeConfig`] naming the offending value: among others, stages of differing width, which diffusers accepts
    /// in the config but whose layers do not fit one another.
    pub fn validate(&self) -> Result<(), Error> {
        let stages = |name, widths: &[i64], blocks: &[i64]| {
            let width = widths.first().copied().unwrap_or(0);
            if !(1..=8).contains(&widths.len()) || widths.len() != blocks.len() {
                return Err(Error::VaeConfig(format!(
                    "{name}_block_out_channels and num_{name}_blocks: expected 1 to 8 stages in both, got {widths:?} and {blocks:?}"
                )));
            }
            if !(1..=4096).contains(&width) || widths.iter().any(|w| *w != width) {
                return Err(Error::VaeConfig(format!(
                    "{name}_block_out_channels: expected one width (1 to 4096) in every stage, got {widths:?}"
                )));
            }
            if blocks.iter().any(|n| !(0..=64).contains(n)) {
                return Err(Error::VaeConfig(format!(
                    "num_{name}_blocks: expected 0 to 64 each, got {blocks:?}"
                )));
            }
            Ok(())
        };
        stages("encoder", &self.encoder_block_out_channels, &self.num_encoder_blocks)?;
        stages("decoder", &self.decoder_block_out_channels, &self.num_decoder_blocks)?;
        if self.encoder_block_out_channels.len() != self.decoder_block_out_channels.len() {
            return Err(Error::VaeConfig(format!(
                "encoder and decoder need equally many stages, got {} and {}",
                self.encoder_block_out_channels.len(),
                self.decoder_block_out_channels.len()
            )));
        }
        if (self.act_fn.as_str(), self.upsample_fn.as_str(), self.upsampling_scaling_factor)
            != ("relu", "nearest", 2)
        {
            return Err(Error::VaeConfig(format!(
                "expected act_fn relu, upsample_fn nearest, upsampling_scaling_factor 2, got {}, {}, {}",
                self.act_fn, self.upsample_fn, self.upsampling_scaling_factor
            )));
        }
        validate_channels([self.in_channels, self.out_channels], self.latent_channels)
    }

    /// Parameters of the convolutions between equally many channels, which are nearly all.
    pub(super) fn least_parameters(&self) -> i128 {
        let half = |widths: &[i64], blocks: &[i64]| {
            let convolutions = 3 * blocks.iter().sum::<i64>() + widths.len() as i64 - 1;
            9 * i128::from(widths[0]).pow(2) * i128::from(convolutions)
        };
        half(&self.encoder_block_out_channels, &self.num_encoder_blocks)
            + half(&self.decoder_block_out_channels, &self.num_decoder_blocks)
    }
}

/// Encoder and decoder as one trainable network.
#[derive(Debug)]
pub struct AutoencoderTiny {
    /// Pixels to raw latents.
    pub encoder: Encoder,
    /// Raw latents to pixels.
    pub decoder: Decoder,
}

impl AutoencoderTiny {
    /// Registers all parameters under `vs`, initialised as PyTorch does. `config` must be [valid](Config::validate).
    pub fn new(vs: &Path, config: &Config) -> Self {
        Self {
            encoder: Encoder::new(&(vs / "encoder"), config),
            decoder: Decoder::new(&(vs / "decoder"), config),
        }
    }
}

/// Pixels to raw latents.
#[derive(Debug)]
pub struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    fn new(vs: &Path, config: &Config) -> Self {
        let mut layers = Layers::under(vs);
        for (stage, (&width, &blocks)) in
            config.encoder_block_out_channels.iter().zip(&config.num_encoder_blocks).enumerate()
        {
            match stage {
                0 => layers.conv(Conv::three(config.in_channels, width)),
                _ => layers.conv(Conv { stride: 2, bias: false, ..Conv::three(width, width) }),
            }
            layers.blocks(width, blocks);
        }
        layers.conv(Conv::three(config.encoder_block_out_channels[0], config.latent_channels));
        Self { layers: layers.layers }
    }

    /// Encodes pixels in [-1, 1].
    ///
    /// # Shapes
    /// (F, 3, H, W) with H and W multiples of [`Config::downsampling`] → (F, C, h, w), unscaled.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        run(&self.layers, (pixels + 1.0) / 2.0)
    }
}

/// Raw latents to pixels.
#[derive(Debug)]
pub struct Decoder {
    layers: Vec<Layer>,
}

impl Decoder {
    fn new(vs: &Path, config: &Config) -> Self {
        let width = config.decoder_block_out_channels[0];
        let mut layers = Layers::under(vs);
        layers.conv(Conv::three(config.latent_channels, width));
        layers.push(Layer::Relu);
        let (last, upsampled) =
            config.num_decoder_blocks.split_last().expect("validated: at least one stage");
        for &blocks in upsampled {
            layers.blocks(width, blocks);
            layers.push(Layer::Upsample);
            layers.conv(Conv { bias: false, ..Conv::three(width, width) });
        }
        layers.blocks(width, *last);
        layers.conv(Conv::three(width, config.out_channels));
        Self { layers: layers.layers }
    }

    /// Decodes to pixels, in [-1, 1] up to the network's error (not clamped, so that training sees gradients).
    ///
    /// # Shapes
    /// (F, C, h, w) unscaled → (F, 3, H, W).
    pub fn forward(&self, latents: &Tensor) -> Tensor {
        run(&self.layers, (latents / 3.0).tanh() * 3.0) * 2.0 - 1.0
    }
}

/// One entry of diffusers' `layers` sequence; its index there is part of the parameter names.
#[derive(Debug)]
enum Layer {
    Conv(nn::Conv2D),
    Relu,
    Upsample,
    Block(Box<[nn::Conv2D; 3]>),
}

impl Layer {
    fn forward(&self, xs: &Tensor) -> Tensor {
        match self {
            Self::Conv(conv) => conv.forward(xs),
            Self::Relu => xs.relu(),
            Self::Upsample => double(xs),
            Self::Block(convolutions) => {
                let [a, b, c] = &**convolutions;
                let hidden = b.forward(&a.forward(xs).relu_()).relu_();
                (c.forward(&hidden) + xs).relu_()
            }
        }
    }
}

fn run(layers: &[Layer], xs: Tensor) -> Tensor {
    layers.iter().fold(xs, |xs, layer| layer.forward(&xs))
}

/// Appends layers, naming each by its index as `nn.Sequential` does.
struct Layers<'a> {
    vs: Path<'a>,
    layers: Vec<Layer>,
}

impl<'a> Layers<'a> {
    fn under(vs: &Path<'a>) -> Self {
        Self { vs: vs / "layers", layers: Vec::new() }
    }

    fn push(&mut self, layer: Layer) {
        self.layers.push(layer);
    }

    fn conv(&mut self, conv: Conv) {
        let vs = &self.vs / self.layers.len();
        self.push(Layer::Conv(conv.register(vs)));
    }

    fn blocks(&mut self, width: i64, count: i64) {
        for _ in 0..count {
            let vs = &self.vs / self.layers.len() / "conv";
            let convolutions = [0, 2, 4].map(|index| Conv::three(width, width).register(&vs / index));
            self.push(Layer::Block(Box::new(convolutions)));
        }
    }
}
