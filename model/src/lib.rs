//! ACDiT (arXiv 2412.07720): an autoregressive, block-wise conditional diffusion transformer.
//!
//! A clip of latents is cut into blocks. In training every block enters the network twice, clean and noised; the
//! skip-causal mask ([`scam`]) lets a noised block see the clean blocks before it and itself. Clean tokens carry neither
//! timestep nor label, so their keys and values can be cached once and shared by every denoising step, every guidance
//! branch and every fork: that is what [`KvStore`] is for.
//!
//! Axes are named by one letter throughout: N batch, T blocks, B tokens per block, L tokens in a sequence, P cached
//! tokens, H heads, d head size, D hidden size, C channels of a token or latent, F frames, h and w latent height and width.

mod acdit;
mod attention;
mod block;
mod config;
pub mod diffusion;
mod embed;
mod error;
mod files;
mod kv;
mod linear;
mod mask;
mod norm;
mod patch;
mod recompute;
mod rope;
pub mod weights;

pub use acdit::{Acdit, Modulation, TrainingBatch};
pub use config::{Config, Preset, RopeKind};
pub use embed::timestep_sinusoid;
pub use error::Error;
pub use files::write_atomically;
pub use kv::{KvStore, NoCache};
pub use mask::{BlockMask, scam};
pub use norm::{Eager, NormModulate};
pub use patch::Patcher;
pub use rope::{Rope, RopeTable};
