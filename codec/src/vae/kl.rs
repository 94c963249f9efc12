//! diffusers' `AutoencoderKL`, the VAE of Stable Diffusion: residual blocks, one attention in the middle, a Gaussian
//! posterior.
//!
//! The networks work on raw latents; [`super::VaeEncoder`] and [`super::VaeDecoder`] apply the scaling of the config.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::{self, Module, Path};

use super::conv::{Conv, double};
use super::scaling::validate_channels;
use crate::Error;

/// `config.json` of an `AutoencoderKL`; absent keys take diffusers' defaults, keys without effect on inference are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels of the pixels read.
    pub in_channels: i64,
    /// Channels of the pixels written.
    pub out_channels: i64,
    /// Only `DownEncoderBlock2D`, one for each stage.
    pub down_block_types: Vec<String>,
    /// Only `UpDecoderBlock2D`, one for each stage.
    pub up_block_types: Vec<String>,
    /// Width of each stage, outermost first; the resolution halves between stages.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks in each encoder stage; decoder stages have one more.
    pub layers_per_block: i64,
    /// Activation; only `silu`.
    pub act_fn: String,
    /// Channels C of the latents.
    pub latent_channels: i64,
    /// Groups of every GroupNorm.
    pub norm_num_groups: i64,
    /// Whether the middle of each network holds an attention.
    pub mid_block_add_attention: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Latents are `(raw - shift_factor) * scaling_factor`.
    pub scaling_factor: f64,
    /// See `scaling_factor`.
    pub shift_factor: Option<f64>,
    /// Normalisation per channel; only null.
    pub latents_mean: Option<Vec<f64>>,
    /// Normalisation per channel; only null.
    pub latents_std: Option<Vec<f64>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN_BLOCK.into()],
            up_block_types: vec![UP_BLOCK.into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 4,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
        }
    }
}

const DOWN_BLOCK: &str = "DownEncoderBlock2D";
const UP_BLOCK: &str = "UpDecoderBlock2D";

impl Config {
    /// The VAE of Stable Diffusion, behind which the paper's models were trained.
    pub fn stable_diffusion() -> Self {
        Self {
            down_block_types: vec![DOWN_BLOCK.into(); 4],
            up_block_types: vec![UP_BLOCK.into(); 4],
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..Self::default()
        }
    }

    /// Pixels per latent along each axis.
    pub fn downsampling(&self) -> i64 {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Checks that the networks can be built.
    ///
    /// # Errors
    /// [`Error::VaeConfig`] naming the offending value.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |reason: String| Err(Error::VaeConfig(reason));
        let (widths, groups) = (&self.block_out_channels, self.norm_num_groups);
        if !(1..=8).contains(&widths.len()) {
            return fail(format!("block_out_channels: expected 1 to 8 stages, got {widths:?}"));
        }
        if groups < 1 || widths.iter().any(|w| !(1..=8192).contains(w) || w % groups != 0) {
            return fail(format!(
                "block_out_channels: expected multiples of norm_num_groups {groups} up to 8192, got {widths:?}"
            ));
        }
        for (key, types, known) in [
            ("down_block_types", &self.down_block_types, DOWN_BLOCK),
            ("up_block_types", &self.up_block_types, UP_BLOCK),
        ] {
            if types.len() != widths.len() || types.iter().any(|t| t != known) {
                return fail(format!("{key}: expected {} times {known}, got {types:?}", widths.len()));
            }
        }
        if !(1..=64).contains(&self.layers_per_block) {
            return fail(format!("layers_per_block: expected 1 to 64, got {}", self.layers_per_block));
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return fail(format!("act_fn: expected silu, got {}", self.act_fn));
        }
        if self.latents_mean.is_some() || self.latents_std.is_some() {
            return fail("latents_mean and latents_std: expected null".into());
        }
        validate_channels([self.in_channels, self.out_channels], self.latent_channels)
    }

    /// Parameters of the stages' second convolutions: all others together are a few times as many.
    pub(super) fn least_parameters(&self) -> i128 {
        let resnets = 2 * i128::from(self.layers_per_block) + 1;
        self.block_out_channels.iter().map(|&width| 9 * i128::from(width).pow(2) * resnets).sum()
    }

    fn norm(&self, vs: Path, channels: i64) -> nn::GroupNorm {
        let config = nn::GroupNormConfig { eps: 1e-6, ..Default::default() };
        nn::group_norm(vs, self.norm_num_groups, channels, config)
    }

    fn innermost(&self) -> i64 {
        *self.block_out_channels.last().expect("validated: at least one stage")
    }
}

/// Brings an attention parameter from the form that older diffusers versions wrote to today's: `query` → `to_q` and so on,
/// and projections that were 1×1 convolutions, (C, C, 1, 1) → (C, C).
pub(super) fn current_form(name: &str, tensor: Tensor) -> (String, Tensor) {
    const RENAMED: [(&str, &str); 4] =
        [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    if !name.contains(".attentions.") {
        return (name.to_owned(), tensor);
    }
    let name = RENAMED.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new));
    match tensor.size()[..] {
        [rows, columns, 1, 1] => (name, tensor.view([rows, columns])),
        _ => (name, tensor),
    }
}

/// Pixels to the posterior's moments.
#[derive(Debug)]
pub struct Encoder {
    conv_in: nn::Conv2D,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    head: Head,
    quant_conv: Option<nn::Conv2D>,
}

impl Encoder {
    /// Registers the parameters under `root`, the VAE's own path. `config` must be [valid](Config::validate).
    pub fn new(root: &Path, config: &Config) -> Self {
        let vs = &(root / "encoder");
        let (widths, moments) = (&config.block_out_channels, 2 * config.latent_channels);
        let last = widths.len() - 1;
        Self {
            conv_in: Conv::three(config.in_channels, widths[0]).register(vs / "conv_in"),
            down_blocks: (0..widths.len())
                .map(|i| {
                    let inputs = widths[i.saturating_sub(1)];
                    DownBlock::new(&(vs / "down_blocks" / i), config, [inputs, widths[i]], i < last)
                })
                .collect(),
            mid_block: MidBlock::new(&(vs / "mid_block"), config),
            head: Head::new(vs, config, config.innermost(), moments),
            quant_conv: config
                .use_quant_conv
                .then(|| Conv::one(moments, moments).register(root / "quant_conv")),
        }
    }

    /// Encodes pixels in [-1, 1].
    ///
    /// # Shapes
    /// (F, 3, H, W) with H and W multiples of [`Config::downsampling`] → (F, 2·C, h, w): means, then log-variances.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let xs = self.conv_in.forward(pixels);
        let xs = self.down_blocks.iter().fold(xs, |xs, block| block.forward(xs));
        let xs = self.head.forward(&self.mid_block.forward(&xs));
        match &self.quant_conv {
            Some(conv) => conv.forward(&xs),
            None => xs,
        }
    }
}

/// Raw latents to pixels.
#[derive(Debug)]
pub struct Decoder {
    post_quant_conv: Option<nn::Conv2D>,
    conv_in: nn::Conv2D,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    head: Head,
}

impl Decoder {
    /// Registers the parameters under `root`, the VAE's own path. `config` must be [valid](Config::validate).
    pub fn new(root: &Path, config: &Config) -> Self {
        let vs = &(root / "decoder");
        let (widths, latents) = (&config.block_out_channels, config.latent_channels);
        let last = widths.len() - 1;
        Self {
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| Conv::one(latents, latents).register(root / "post_quant_conv")),
            conv_in: Conv::three(latents, config.innermost()).register(vs / "conv_in"),
            mid_block: MidBlock::new(&(vs / "mid_block"), config),
            up_blocks: (0..widths.len())
                .map(|i| {
                    let (inputs, outputs) = (widths[(last + 1 - i).min(last)], widths[last - i]);
                    UpBlock::new(&(vs / "up_blocks" / i), config, [inputs, outputs], i < last)
                })
                .collect(),
            head: Head::new(vs, config, widths[0], config.out_channels),
        }
    }

    /// Decodes to pixels, in [-1, 1] up to the network's error.
    ///
    /// # Shapes
    /// (F, C, h, w) unscaled → (F, 3, H, W).
    pub fn forward(&self, latents: &Tensor) -> Tensor {
        let xs = match &self.post_quant_conv {
            Some(conv) => self.conv_in.forward(&conv.forward(latents)),
            None => self.conv_in.forward(latents),
        };
        let xs = self.mid_block.forward(&xs);
        let xs = self.up_blocks.iter().fold(xs, |xs, block| block.forward(xs));
        self.head.forward(&xs)
    }
}

/// `resnets` of a stage: the first changes the width.
fn resnets(vs: &Path, config: &Config, [inputs, outputs]: [i64; 2], count: i64) -> Vec<Resnet> {
    (0..count)
        .map(|i| {
            let inputs = if i == 0 { inputs } else { outputs };
            Resnet::new(&(vs / "resnets" / i), config, inputs, outputs)
        })
        .collect()
}

/// One encoder stage; all but the innermost halve the resolution at their end.
#[derive(Debug)]
struct DownBlock {
    resnets: Vec<Resnet>,
    downsampler: Option<nn::Conv2D>,
}

impl DownBlock {
    fn new(vs: &Path, config: &Config, channels: [i64; 2], downsample: bool) -> Self {
        let conv = Conv { stride: 2, padding: 0, ..Conv::three(channels[1], channels[1]) };
        Self {
            resnets: resnets(vs, config, channels, config.layers_per_block),
            downsampler: downsample.then(|| conv.register(vs / "downsamplers" / 0 / "conv")),
        }
    }

    /// (F, C, h, w) → (F, C', h/2, w/2), or (F, C', h, w) without downsampler.
    fn forward(&self, xs: Tensor) -> Tensor {
        let xs = self.resnets.iter().fold(xs, |xs, resnet| resnet.forward(&xs));
        match &self.downsampler {
            // Padded on the right and below only, as the original training code did.
            Some(conv) => conv.forward(&xs.constant_pad_nd([0, 1, 0, 1])),
            None => xs,
        }
    }
}

/// One decoder stage; all but the outermost double the resolution at their end.
#[derive(Debug)]
struct UpBlock {
    resnets: Vec<Resnet>,
    upsampler: Option<nn::Conv2D>,
}

impl UpBlock {
    fn new(vs: &Path, config: &Config, channels: [i64; 2], upsample: bool) -> Self {
        let conv = Conv::three(channels[1], channels[1]);
        Self {
            resnets: resnets(vs, config, channels, config.layers_per_block + 1),
            upsampler: upsample.then(|| conv.register(vs / "upsamplers" / 0 / "conv")),
        }
    }

    /// (F, C, h, w) → (F, C', 2·h, 2·w), or (F, C', h, w) without upsampler.
    fn forward(&self, xs: Tensor) -> Tensor {
        let xs = self.resnets.iter().fold(xs, |xs, resnet| resnet.forward(&xs));
        match &self.upsampler {
            Some(conv) => conv.forward(&double(&xs)),
            None => xs,
        }
    }
}

/// The innermost stage, at constant resolution and width.
#[derive(Debug)]
struct MidBlock {
    first: Resnet,
    attention: Option<Attention>,
    second: Resnet,
}

impl MidBlock {
    fn new(vs: &Path, config: &Config) -> Self {
        let width = config.innermost();
        let resnet = |i: i64| Resnet::new(&(vs / "resnets" / i), config, width, width);
        Self {
            first: resnet(0),
            attention: config
                .mid_block_add_attention
                .then(|| Attention::new(&(vs / "attentions" / 0), config, width)),
            second: resnet(1),
        }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = self.first.forward(xs);
        self.second.forward(&match &self.attention {
            Some(attention) => attention.forward(&xs),
            None => xs,
        })
    }
}

/// Two convolutions, each after GroupNorm and SiLU, beside an identity or 1×1 path.
#[derive(Debug)]
struct Resnet {
    norm1: nn::GroupNorm,
    conv1: nn::Conv2D,
    norm2: nn::GroupNorm,
    conv2: nn::Conv2D,
    conv_shortcut: Option<nn::Conv2D>,
}

impl Resnet {
    fn new(vs: &Path, config: &Config, inputs: i64, outputs: i64) -> Self {
        Self {
            norm1: config.norm(vs / "norm1", inputs),
            conv1: Conv::three(inputs, outputs).register(vs / "conv1"),
            norm2: config.norm(vs / "norm2", outputs),
            conv2: Conv::three(outputs, outputs).register(vs / "conv2"),
            conv_shortcut: (inputs != outputs)
                .then(|| Conv::one(inputs, outputs).register(vs / "conv_shortcut")),
        }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let hidden = self.conv1.forward(&self.norm1.forward(xs).silu_());
        let hidden = self.conv2.forward(&self.norm2.forward(&hidden).silu_());
        match &self.conv_shortcut {
            Some(conv) => conv.forward(xs) + hidden,
            None => xs + hidden,
        }
    }
}

/// Self-attention over all positions of a frame, with a single head over all channels.
#[derive(Debug)]
struct Attention {
    group_norm: nn::GroupNorm,
    to_q: nn::Linear,
    to_k: nn::Linear,
    to_v: nn::Linear,
    to_out: nn::Linear,
}

impl Attention {
    fn new(vs: &Path, config: &Config, width: i64) -> Self {
        let linear = |vs: Path| nn::linear(vs, width, width, Default::default());
        Self {
            group_norm: config.norm(vs / "group_norm", width),
            to_q: linear(vs / "to_q"),
            to_k: linear(vs / "to_k"),
            to_v: linear(vs / "to_v"),
            to_out: linear(vs / "to_out" / 0),
        }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let tokens = self.group_norm.forward(xs).flatten(2, 3).transpose(1, 2); // (F, L, C)
        let [q, k, v] =
            [&self.to_q, &self.to_k, &self.to_v].map(|linear| linear.forward(&tokens).unsqueeze(1)); // (F, 1, L, C)
        let mixed = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<Tensor>, 0.0, false, None, false);
        let out = self.to_out.forward(&mixed.squeeze_dim(1)); // (F, L, C)
        xs + out.transpose(1, 2).reshape(xs.size())
    }
}

/// GroupNorm, SiLU and the last 3×3 convolution of a network.
#[derive(Debug)]
struct Head {
    conv_norm_out: nn::GroupNorm,
    conv_out: nn::Conv2D,
}

impl Head {
    fn new(vs: &Path, config: &Config, inputs: i64, outputs: i64) -> Self {
        Self {
            conv_norm_out: config.norm(vs / "conv_norm_out", inputs),
            conv_out: Conv::three(inputs, outputs).register(vs / "conv_out"),
        }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        self.conv_out.forward(&self.conv_norm_out.forward(xs).silu_())
    }
}
