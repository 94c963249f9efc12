//! From a published checkpoint to this project's configuration.
//!
//! The tensors say almost everything; the training script's arguments say the rest: how token values split into patch
//! and channels, and how many tokens make a frame, a block and a clip.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tch::Tensor;

use super::pt::PtCheckpoint;
use crate::{Config, Error, Preset, RopeKind};

impl PtCheckpoint {
    /// The configuration of the network that these weights belong to, with published positions.
    ///
    /// # Errors
    /// [`Error::Config`], naming the tensor or argument that is missing or contradicts another. A network of these sizes holds exactly as
    /// many parameters as the checkpoint, so building it takes no more memory.
    pub fn config(&self) -> Result<Config, Error> {
        let tensors = Tensors(&self.tensors);
        let args = Args(&self.args);
        let [hidden_size, token_width] = tensors.size("x_embedder.weight")?;
        let [head_dim] = tensors.size("blocks.0.attn.q_norm.weight")?;
        let [intermediate_size, _] = tensors.size("blocks.0.mlp.fc1.weight")?;
        let [label_rows, _] = tensors.size("y_embedder.embedding_table.weight")?;

        let patch_size = args.positive("patch_size")?;
        let pixels_per_latent = args.positive_or("vae_patch_pixels", 8)?;
        let sample_frames = args.positive_or("num_frames", 1)?;
        let block_tokens = args.positive("block_size")?;
        let side = args.positive("image_size")? / pixels_per_latent;
        let grid = side / patch_size;
        let is_video = sample_frames > 1;
        for (name, value, divisor) in [
            ("x_embedder.weight", token_width, patch_size * patch_size),
            ("blocks.0.attn.q_norm.weight", hidden_size, head_dim),
        ] {
            if divisor < 1 || value % divisor != 0 {
                return Err(Error::Config(format!("{name}: {value} values are not a multiple of {divisor}")));
            }
        }

        let config = Config {
            hidden_size,
            num_layers: tensors.layers(),
            num_attention_heads: hidden_size / head_dim,
            intermediate_size,
            num_classes: label_rows - 1,
            in_channels: token_width / (patch_size * patch_size),
            patch_size,
            sample_height: side,
            sample_width: side,
            sample_frames,
            frames_per_block: if is_video { block_tokens / (grid * grid).max(1) } else { 1 },
            square_block: (!is_video).then(|| block_tokens.isqrt()),
            rope: RopeKind::Published,
            nd_split: args.nd_split(if is_video { &[2, 3, 3] } else { &[1, 1] })?,
            axis_lengths: if is_video { vec![sample_frames, grid, grid] } else { vec![grid, grid] },
            ..Config::video(Preset::Xl, 256, 1)
        };
        config.validate()?;
        if config.block_tokens() != block_tokens {
            let made = config.block_tokens();
            return Err(Error::Config(format!(
                "block_size {block_tokens}: the other sizes make blocks of {made} tokens"
            )));
        }
        let (expected, got) = (parameters(&config), self.tensors.values().map(|t| t.numel() as i128).sum());
        if expected != got {
            return Err(Error::Config(format!(
                "its sizes make {expected} parameters, the checkpoint has {got}"
            )));
        }
        Ok(config)
    }
}

struct Tensors<'a>(&'a BTreeMap<String, Tensor>);

impl Tensors<'_> {
    fn size<const N: usize>(&self, name: &str) -> Result<[i64; N], Error> {
        let size = self.0.get(name).map(Tensor::size);
        let sized = size.as_deref().and_then(|size| size.try_into().ok());
        sized.ok_or_else(|| Error::Config(format!("{name}: expected {N} axes, got {size:?}")))
    }

    /// Different N in `blocks.N.…`.
    fn layers(&self) -> i64 {
        let index = |name: &String| name.strip_prefix("blocks.")?.split('.').next()?.parse::<u32>().ok();
        self.0.keys().filter_map(index).collect::<BTreeSet<_>>().len() as i64
    }
}

/// Parameters of a network of these sizes.
pub(super) fn parameters(config: &Config) -> i128 {
    let [hidden, mlp, head, token, labels, layers] = [
        config.hidden_size,
        config.intermediate_size,
        config.head_dim(),
        config.token_width(),
        config.num_classes + 1,
        config.num_layers,
    ]
    .map(i128::from);
    let linear = |inputs: i128, outputs: i128| (inputs + 1) * outputs;
    let attention = linear(hidden, 3 * hidden) + linear(hidden, hidden) + 2 * head;
    let layer =
        attention + linear(hidden, mlp) + linear(mlp, hidden) + linear(hidden, 6 * hidden) + 2 * hidden;
    let embedders = token * hidden + linear(256, hidden) + linear(hidden, hidden) + labels * hidden;
    let last = linear(hidden, 2 * hidden) + hidden + linear(hidden, token);
    layers * layer + embedders + last
}

struct Args<'a>(&'a BTreeMap<String, Value>);

impl Args<'_> {
    fn positive(&self, name: &str) -> Result<i64, Error> {
        match self.0.get(name).map(|value| (value.as_i64(), value)) {
            Some((Some(value @ 1..=1_048_576), _)) => Ok(value),
            Some((_, value)) => Err(Error::Config(format!("the checkpoint's argument {name} is {value}"))),
            None => Err(Error::Config(format!("the checkpoint lacks the argument {name}"))),
        }
    }

    fn positive_or(&self, name: &str, default: i64) -> Result<i64, Error> {
        if self.0.contains_key(name) { self.positive(name) } else { Ok(default) }
    }

    /// "2_3_3", or nothing for the default.
    fn nd_split(&self, default: &[i64]) -> Result<Vec<i64>, Error> {
        match self.0.get("nd_split") {
            None | Some(Value::Null) => Ok(default.to_vec()),
            Some(value) => {
                let shares =
                    value.as_str().map(|text| text.split('_').map(str::parse).collect::<Result<_, _>>());
                shares
                    .and_then(Result::ok)
                    .ok_or_else(|| Error::Config(format!("the checkpoint's argument nd_split is {value}")))
            }
        }
    }
}
