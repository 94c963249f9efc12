//! The network, and the two passes it consists of.
//!
//! The clean stream never looks at the noised one, so every use is a clean pass that fills a [`KvStore`] and a noised
//! pass that reads it. Training runs both over all blocks of a clip under the skip-causal mask; streaming runs the clean
//! pass once per block and the noised pass once per denoising step. Same code, same numbers.

use std::collections::BTreeMap;

use tch::{Kind, Tensor, nn};

use crate::block::{Block, FinalLayer};
use crate::embed::{LabelEmbedder, TimestepEmbedder};
use crate::linear::{Linear, Start};
use crate::mask::{self, BlockMask};
use crate::norm::{Eager, NormModulate};
use crate::{Config, Error, KvStore, Rope, RopeTable};

/// The ACDiT network. Weights only: whatever a stream remembers is in the [`KvStore`] that callers pass.
#[derive(Debug)]
pub struct Acdit {
    config: Config,
    rope: Rope,
    compute: Kind,
    norm: Box<dyn NormModulate>,
    x_embedder: Linear,
    t_embedder: TimestepEmbedder,
    y_embedder: LabelEmbedder,
    blocks: Vec<Block>,
    final_layer: FinalLayer,
}

/// Input of the training forward.
#[derive(Debug)]
pub struct TrainingBatch {
    /// Clean tokens (N, T, B, p²·C).
    pub clean: Tensor,
    /// Noised tokens (N, T, B, p²·C).
    pub noised: Tensor,
    /// Diffusion timestep of each noised block (N, T) i64.
    pub timesteps: Tensor,
    /// Label of each block (N, T) i64; `num_classes` is the null label.
    pub labels: Tensor,
}

/// Shifts, scales and gates of noised tokens in every layer: all that timestep and label come to.
#[derive(Debug)]
pub struct Modulation {
    layers: Vec<[Tensor; 6]>,
    last: [Tensor; 2],
}

impl Modulation {
    /// Of the first `branches` branches alone.
    pub fn first(&self, branches: i64) -> Self {
        self.map(|part| part.narrow(0, 0, branches))
    }

    fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        let layers = self.layers.iter().map(|parts| parts.each_ref().map(&change)).collect();
        Self { layers, last: self.last.each_ref().map(&change) }
    }
}

/// Positions and masks of a training clip.
pub(crate) struct Clip {
    rope: RopeTable,
    clean_mask: BlockMask,
    noised_mask: BlockMask,
}

/// Keys and values of a clean pass by layer, read by the noised pass of the same forward.
#[derive(Default)]
struct CleanPass {
    layers: BTreeMap<usize, (Tensor, Tensor)>,
}

impl KvStore for CleanPass {
    fn extend(&mut self, layer: usize, keys: Tensor, values: Tensor) -> (Tensor, Tensor) {
        match self.layers.get(&layer) {
            None => {
                self.layers.insert(layer, (keys.shallow_clone(), values.shallow_clone()));
                (keys, values)
            }
            Some((clean_keys, clean_values)) => {
                (Tensor::cat(&[clean_keys, &keys], 2), Tensor::cat(&[clean_values, &values], 2))
            }
        }
    }

    fn past_tokens(&self) -> i64 {
        0
    }
}

impl Acdit {
    /// Registers the parameters under `vs` with the published names and the published initialisation.
    ///
    /// Activations are of type `compute`; weights follow (see the type of `vs` for how they are stored).
    ///
    /// # Errors
    /// [`Error::Config`] if the sizes contradict one another.
    pub fn new(vs: &nn::Path, config: &Config, compute: Kind) -> Result<Self, Error> {
        config.validate()?;
        let hidden = config.hidden_size;
        Ok(Self {
            rope: Rope::new(config),
            compute,
            norm: Box::new(Eager),
            x_embedder: Linear::new(vs / "x_embedder", config.token_width(), hidden, false, Start::Xavier),
            t_embedder: TimestepEmbedder::new(vs / "t_embedder", hidden),
            y_embedder: LabelEmbedder::new(vs / "y_embedder", config.num_classes, hidden),
            blocks: (0..config.num_layers as usize)
                .map(|layer| Block::new(vs / "blocks" / layer, config, layer))
                .collect(),
            final_layer: FinalLayer::new(vs / "final_layer", config),
            config: config.clone(),
        })
    }

    /// Replaces the way noised tokens are normalised and modulated, by a device's kernel for inference.
    pub fn set_norm(&mut self, norm: Box<dyn NormModulate>) {
        self.norm = norm;
    }

    /// The sizes this network was built with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> tch::Device {
        self.y_embedder.device()
    }

    /// Type of the activations.
    pub fn compute(&self) -> Kind {
        self.compute
    }

    /// The label that stands for "no label".
    pub fn null_label(&self) -> i64 {
        self.config.num_classes
    }

    /// Position tables.
    pub fn rope(&self) -> &Rope {
        &self.rope
    }

    /// Timestep embedding: (…) i64 → (…, D).
    pub fn timestep_embedding(&self, timesteps: &Tensor) -> Tensor {
        self.t_embedder.forward(timesteps, self.compute)
    }

    /// The training forward: predictions for all noised blocks of a clip under SCAM, (N, T, B, p²·C) f32.
    ///
    /// The clip may have any number of blocks the positions reach; `context_window` of the config limits what is seen.
    ///
    /// # Errors
    /// [`Error::Shape`] for inputs that do not fit the config, [`Error::Position`].
    pub fn training_forward(&self, batch: &TrainingBatch) -> Result<Tensor, Error> {
        let Clip { rope, clean_mask, noised_mask } = self.clip(batch)?;
        let mut clean = CleanPass::default();
        self.clean_pass(&batch.clean, &rope, &mut clean, Some(&clean_mask));
        let modulation = self.modulation(&self.condition(&batch.timesteps, &batch.labels));
        Ok(self.noised_pass(&batch.noised, &modulation, &rope, &mut clean, Some(&noised_mask)))
    }

    /// Positions and masks of `batch`, whose shapes it checks.
    pub(crate) fn clip(&self, batch: &TrainingBatch) -> Result<Clip, Error> {
        let (n, t) = self.check_tokens("clean tokens", &batch.clean)?;
        check("noised tokens", &batch.clean.size(), &batch.noised)?;
        check("timesteps", &[n, t], &batch.timesteps)?;
        check("labels", &[n, t], &batch.labels)?;
        let blocks = t as usize;
        Ok(Clip {
            rope: self.rope.table(0, t, self.device())?,
            clean_mask: mask::causal(blocks, 0, self.window()),
            noised_mask: mask::scam(blocks, self.window()).narrow(blocks..2 * blocks),
        })
    }

    /// Runs clean blocks (N, T, B, p²·C), which stand at block positions `first..first + T`, and leaves their keys and
    /// values in `store`.
    ///
    /// Several blocks attend one another and the store's past causally and within the config's window; a single block
    /// attends all that the store holds.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Position`].
    pub fn encode_clean(&self, clean: &Tensor, first: i64, store: &mut dyn KvStore) -> Result<(), Error> {
        let (_, t) = self.check_tokens("clean tokens", clean)?;
        self.encode_clean_at(clean, &self.rope.table(first, t, self.device())?, store)
    }

    /// As [`Self::encode_clean`], at the positions of `rope`: a batch of sequences may stand at different ones.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn encode_clean_at(
        &self,
        clean: &Tensor,
        rope: &RopeTable,
        store: &mut dyn KvStore,
    ) -> Result<(), Error> {
        let (_, t) = self.check_tokens("clean tokens", clean)?;
        let past = (store.past_tokens() / self.config.block_tokens()) as usize;
        let mask = (t > 1).then(|| mask::causal(t as usize, past, self.window()));
        self.clean_pass(clean, rope, store, mask.as_ref());
        Ok(())
    }

    /// The modulations of a block's denoising steps: timesteps (S) i64 and the labels (N) i64 of its branches → S
    /// modulations of N branches each.
    ///
    /// All steps at once, since none of it depends on the tokens: adaLN has a third of a network's weights, and with few
    /// tokens reading them is what a step costs.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn modulations(&self, timesteps: &Tensor, labels: &Tensor) -> Result<Vec<Modulation>, Error> {
        let (steps, branches) = (timesteps.numel() as i64, labels.numel() as i64);
        check("timesteps", &[steps], timesteps)?;
        check("labels", &[branches], labels)?;
        let condition = self.condition(&timesteps.unsqueeze(1), &labels.unsqueeze(0)); // (S, N, D)
        let all = self.modulation(&condition.unsqueeze(2));
        Ok((0..steps).map(|step| all.map(|part| part.get(step))).collect())
    }

    /// Predicts for one noised block (N, B, p²·C), all of whose N branches attend the store's past and themselves. Returns
    /// (N, B, p²·C) f32.
    ///
    /// `rope` is [`Rope::table`] of the block's position, or [`RopeTable::stacked`] where branches stand at different ones: the
    /// caller keeps it over the denoising steps. `modulation` is one of [`Self::modulations`].
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn denoise(
        &self,
        noised: &Tensor,
        modulation: &Modulation,
        rope: &RopeTable,
        store: &mut dyn KvStore,
    ) -> Result<Tensor, Error> {
        let noised = noised.unsqueeze(1); // (N, 1, B, p²·C)
        let (n, _) = self.check_tokens("noised tokens", &noised)?;
        check("modulation", &[n, 1, 1, self.config.hidden_size], &modulation.last[0])?;
        Ok(self.noised_pass(&noised, modulation, rope, store, None).squeeze_dim(1))
    }

    fn clean_pass(
        &self,
        clean: &Tensor,
        rope: &RopeTable,
        store: &mut dyn KvStore,
        mask: Option<&BlockMask>,
    ) {
        let (last, before) = self.blocks.split_last().expect("a valid config has a layer");
        let embedded = self.embed_tokens(clean);
        let xs = before.iter().fold(embedded, |xs, block| block.clean(&xs, rope, store, mask));
        last.remember(&xs, rope, store);
    }

    fn noised_pass(
        &self,
        noised: &Tensor,
        modulation: &Modulation,
        rope: &RopeTable,
        store: &mut dyn KvStore,
        mask: Option<&BlockMask>,
    ) -> Tensor {
        let layers = self.blocks.iter().zip(&modulation.layers);
        let xs = layers.fold(self.embed_tokens(noised), |xs, (block, modulation)| {
            block.noised(&xs, modulation, &*self.norm, rope, store, mask)
        });
        self.final_layer.forward(&xs, &modulation.last, &*self.norm).to_kind(Kind::Float)
    }

    /// Of conditions (…, D): each part (…, 1, D), to be broadcast over a block's tokens.
    fn modulation(&self, condition: &Tensor) -> Modulation {
        let layers = self.blocks.iter().map(|block| block.modulation(condition)).collect();
        Modulation { layers, last: self.final_layer.modulation(condition) }
    }

    /// What enters the first layer, clean and noised (N, T, B, D), and the condition (N, T, D) of every layer.
    pub(crate) fn embed(&self, batch: &TrainingBatch) -> (Tensor, Tensor, Tensor) {
        let condition = self.condition(&batch.timesteps, &batch.labels);
        (self.embed_tokens(&batch.clean), self.embed_tokens(&batch.noised), condition)
    }

    /// (N, T, B, p²·C) → (N, T, B, D).
    fn embed_tokens(&self, tokens: &Tensor) -> Tensor {
        self.x_embedder.forward(&tokens.to_kind(self.compute))
    }

    /// Timesteps and labels, which broadcast, to conditions: (…) → (…, D).
    fn condition(&self, timesteps: &Tensor, labels: &Tensor) -> Tensor {
        self.timestep_embedding(timesteps) + self.y_embedder.forward(labels, self.compute)
    }

    /// One layer of both streams; behind the last one there is no clean stream.
    pub(crate) fn layer(
        &self,
        layer: usize,
        clean: &Tensor,
        noised: &Tensor,
        condition: &Tensor,
        clip: &Clip,
    ) -> (Option<Tensor>, Tensor) {
        let Clip { rope, clean_mask, noised_mask } = clip;
        let (block, mut store) = (&self.blocks[layer], CleanPass::default());
        let clean = if layer + 1 < self.layers() {
            Some(block.clean(clean, rope, &mut store, Some(clean_mask)))
        } else {
            block.remember(clean, rope, &mut store);
            None
        };
        let modulation = block.modulation(condition);
        (clean, block.noised(noised, &modulation, &*self.norm, rope, &mut store, Some(noised_mask)))
    }

    /// Layers of the network.
    pub(crate) fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// What leaves the last layer, (N, T, B, D), as predictions (N, T, B, p²·C) f32.
    pub(crate) fn predict(&self, xs: &Tensor, condition: &Tensor) -> Tensor {
        let modulation = self.final_layer.modulation(condition);
        self.final_layer.forward(xs, &modulation, &*self.norm).to_kind(Kind::Float)
    }

    /// Blocks W of the windowed mask.
    fn window(&self) -> Option<usize> {
        self.config.context_window.map(|window| window as usize)
    }

    /// N and T of (N, T, B, p²·C) tokens.
    fn check_tokens(&self, what: &'static str, tokens: &Tensor) -> Result<(i64, i64), Error> {
        let (block, width) = (self.config.block_tokens(), self.config.token_width());
        match tokens.size()[..] {
            [n, t, b, c] if n > 0 && t > 0 && b == block && c == width => Ok((n, t)),
            _ => Err(Error::Shape { what, expected: vec![-1, -1, block, width], got: tokens.size() }),
        }
    }
}

fn check(what: &'static str, expected: &[i64], tensor: &Tensor) -> Result<(), Error> {
    if tensor.size() == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected: expected.to_vec(), got: tensor.size() })
}
