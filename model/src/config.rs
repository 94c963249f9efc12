//! The network's sizes, as they stand in `transformer/config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// How token positions turn into rotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeKind {
    /// Equation 4 of the paper: each axis rotates its own share of the head; attention depends on relative positions only.
    Axial,
    /// The released code's tables, which mix axes; needed by released weights, neither relative nor extendable.
    Published,
}

/// The sizes of table 1 of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// 12 layers, hidden 768.
    B,
    /// 24 layers, hidden 1024.
    L,
    /// 28 layers, hidden 1152.
    Xl,
    /// 32 layers, hidden 1280.
    H,
}

/// Sizes and variants of one network. [`Config::validate`] must pass before use; constructors and loaders call it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Hugging Face's class tag.
    #[serde(rename = "_class_name", default = "class_name")]
    pub class_name: String,
    /// Token width D inside the network.
    pub hidden_size: i64,
    /// Transformer layers.
    pub num_layers: i64,
    /// Attention heads H; the head size is `hidden_size / num_attention_heads`.
    pub num_attention_heads: i64,
    /// Width of the MLP's hidden layer.
    pub intermediate_size: i64,
    /// Labels; the label table has one row more, the null label of guidance.
    pub num_classes: i64,
    /// Latent channels C.
    pub in_channels: i64,
    /// Side of a patch in latent pixels; a token holds `patch_size² · in_channels` values.
    pub patch_size: i64,
    /// Latent height in latent pixels.
    pub sample_height: i64,
    /// Latent width in latent pixels.
    pub sample_width: i64,
    /// Frames of a training clip (1 in image mode).
    pub sample_frames: i64,
    /// Frames per block (video mode).
    pub frames_per_block: i64,
    /// Image mode: a block is a square of this many tokens a side. `None` is video mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub square_block: Option<i64>,
    /// Rotary variant.
    pub rope: RopeKind,
    /// Shares of the head size given to each axis: time, height, width in video mode; height, width in image mode.
    pub nd_split: Vec<i64>,
    /// Axis lengths L from which the rotary bases follow, in tokens (frames for time).
    pub axis_lengths: Vec<i64>,
    /// Clean blocks a block attends beside itself, if trained with the windowed mask; `None` is the paper's full mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<i64>,
}

/// Tokens of a clip, and of a window: no weights bound their number, so a wrong one would take all memory there is. A minute
/// of 256×256 behind an f8 VAE has a quarter of it.
const MOST_TOKENS: i64 = 1 << 20;

fn class_name() -> String {
    "AcditTransformer".into()
}

impl Preset {
    /// Layers, hidden size and heads.
    pub fn sizes(self) -> (i64, i64, i64) {
        match self {
            Self::B => (12, 768, 12),
            Self::L => (24, 1024, 16),
            Self::Xl => (28, 1152, 18),
            Self::H => (32, 1280, 20),
        }
    }
}

impl Config {
    /// The paper's video model: 16 frames of `resolution`² pixels behind an f8 VAE, patch 2, blocks of 4 frames.
    pub fn video(preset: Preset, resolution: i64, num_classes: i64) -> Self {
        let (num_layers, hidden_size, num_attention_heads) = preset.sizes();
        let side = resolution / 8;
        Self {
            class_name: class_name(),
            hidden_size,
            num_layers,
            num_attention_heads,
            intermediate_size: 4 * hidden_size,
            num_classes,
            in_channels: 4,
            patch_size: 2,
            sample_height: side,
            sample_width: side,
            sample_frames: 16,
            frames_per_block: 4,
            square_block: None,
            rope: RopeKind::Axial,
            nd_split: vec![2, 3, 3],
            axis_lengths: vec![16, side / 2, side / 2],
            context_window: None,
        }
    }

    /// Size d of one attention head.
    pub fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }

    /// Values in one token.
    pub fn token_width(&self) -> i64 {
        self.patch_size * self.patch_size * self.in_channels
    }

    /// Token rows and columns of one frame.
    pub fn token_grid(&self) -> (i64, i64) {
        (self.sample_height / self.patch_size, self.sample_width / self.patch_size)
    }

    /// Tokens B in one block.
    pub fn block_tokens(&self) -> i64 {
        let (rows, columns) = self.token_grid();
        self.square_block.map_or(self.frames_per_block * rows * columns, |side| side * side)
    }

    /// Blocks T of a training clip or image.
    pub fn training_blocks(&self) -> i64 {
        match self.square_block {
            Some(side) => {
                let (rows, columns) = self.token_grid();
                (rows / side) * (columns / side)
            }
            None => self.sample_frames / self.frames_per_block,
        }
    }

    /// Head elements of each axis: `nd_split` scaled to the head size.
    pub fn axis_dims(&self) -> Vec<i64> {
        let parts: i64 = self.nd_split.iter().sum();
        self.nd_split.iter().map(|share| share * self.head_dim() / parts).collect()
    }

    /// Shape of one block of latents: (F, C, h, w), or (1, C, side, side) pixels of a square image block.
    pub fn block_shape(&self) -> [i64; 4] {
        match self.square_block {
            Some(side) => [1, self.in_channels, side * self.patch_size, side * self.patch_size],
            None => [self.frames_per_block, self.in_channels, self.sample_height, self.sample_width],
        }
    }

    /// Checks that the sizes agree with one another.
    ///
    /// # Errors
    /// [`Error::Config`], naming the values at odds.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Config(text));
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_layers", self.num_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_classes", self.num_classes),
            ("in_channels", self.in_channels),
            ("patch_size", self.patch_size),
            ("sample_height", self.sample_height),
            ("sample_width", self.sample_width),
            ("sample_frames", self.sample_frames),
            ("frames_per_block", self.frames_per_block),
        ];
        for (name, value) in sizes {
            if !(1..=1 << 20).contains(&value) {
                return fail(format!("{name} is {value}, expected 1 to {}", 1 << 20));
            }
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if hidden % heads != 0 || self.head_dim() % 2 != 0 {
            return fail(format!(
                "hidden_size {hidden} over num_attention_heads {heads} is not an even head size"
            ));
        }
        if self.sample_height % self.patch_size != 0 || self.sample_width % self.patch_size != 0 {
            return fail(format!(
                "latent size {}x{} is not a multiple of patch_size {}",
                self.sample_height, self.sample_width, self.patch_size
            ));
        }
        let axes = if self.square_block.is_some() { 2 } else { 3 };
        if self.nd_split.len() != axes || self.axis_lengths.len() != axes {
            return fail(format!(
                "nd_split {:?} and axis_lengths {:?} must have {axes} entries each",
                self.nd_split, self.axis_lengths
            ));
        }
        if self.nd_split.iter().chain(&self.axis_lengths).any(|&v| !(1..=1 << 20).contains(&v)) {
            return fail(format!(
                "nd_split {:?} and axis_lengths {:?} must be positive",
                self.nd_split, self.axis_lengths
            ));
        }
        let dims = self.axis_dims();
        if dims.iter().sum::<i64>() != self.head_dim() || dims.iter().any(|d| d % 2 != 0 || *d == 0) {
            return fail(format!(
                "nd_split {:?} does not cut head size {} into even parts",
                self.nd_split,
                self.head_dim()
            ));
        }
        if let Some(side) = self.square_block {
            let (rows, columns) = self.token_grid();
            if side < 1 || rows % side != 0 || columns % side != 0 {
                return fail(format!("square_block {side} does not tile {rows}x{columns} tokens"));
            }
        } else if self.sample_frames % self.frames_per_block != 0 {
            return fail(format!(
                "sample_frames {} is not a multiple of frames_per_block {}",
                self.sample_frames, self.frames_per_block
            ));
        }
        let clip = self.training_blocks() * self.block_tokens();
        if clip > MOST_TOKENS {
            return fail(format!("its clips have {clip} tokens, expected at most {MOST_TOKENS}"));
        }
        match self.context_window {
            Some(window) if window > MOST_TOKENS / self.block_tokens() => {
                let tokens = self.block_tokens();
                fail(format!("context_window {window}: that many blocks of {tokens} tokens are too much"))
            }
            Some(window) if window < 1 => fail(format!("context_window is {window}, expected at least 1")),
            Some(_) if self.rope == RopeKind::Published => {
                fail("context_window needs rope axial: published positions are not relative".into())
            }
            _ => Ok(()),
        }
    }

    /// Reads and validates `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] for what is not this JSON, [`Error::Config`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let config: Self = serde_json::from_str(&text)
            .map_err(|e| Error::Format { path: path.into(), detail: e.to_string() })?;
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_have_the_papers_token_counts() {
        for preset in [Preset::B, Preset::L, Preset::Xl, Preset::H] {
            let config = Config::video(preset, 256, 101);
            config.validate().unwrap();
            assert_eq!((config.block_tokens(), config.training_blocks(), config.head_dim()), (1024, 4, 64));
            assert_eq!(config.axis_dims(), [16, 24, 24]);
        }
    }

    #[test]
    fn contradictions_are_named() {
        let good = Config::video(Preset::B, 256, 101);
        let cases = [
            (Config { hidden_size: 770, ..good.clone() }, "770"),
            (Config { patch_size: 3, ..good.clone() }, "patch_size 3"),
            (Config { nd_split: vec![1, 1], ..good.clone() }, "nd_split [1, 1]"),
            (Config { nd_split: vec![1, 1, 1], ..good.clone() }, "nd_split [1, 1, 1]"),
            (Config { sample_frames: 15, ..good.clone() }, "sample_frames 15"),
            (Config { num_layers: 0, ..good.clone() }, "num_layers is 0"),
            (Config { context_window: Some(3), rope: RopeKind::Published, ..good.clone() }, "rope axial"),
            (Config { context_window: Some(1 << 40), ..good.clone() }, "context_window 1099511627776"),
            (
                Config { sample_height: 1 << 20, sample_width: 1 << 20, ..good.clone() },
                "expected at most 1048576",
            ),
        ];
        for (config, needle) in cases {
            let text = config.validate().unwrap_err().to_string();
            assert!(text.contains(needle), "{text:?} does not name {needle:?}");
        }
    }
}
