//! A session: the state machine that turns events into blocks, for ever.
//!
//! No clock, no thread, no socket. A session is its window, its seed and its position; the same weights, seed and events
//! give the same latents. How a step is computed, alone or beside others, is in `batch.rs`.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::batch::{self, Computed, Row};
use crate::{Error, Sampling, Window, WindowMode, World};

/// What a session is started with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How blocks are sampled; may change between steps.
    pub sampling: Sampling,
    /// Clean blocks W of context.
    pub window: usize,
    /// How the window moves on.
    pub mode: WindowMode,
    /// Seed of all noise.
    pub seed: u64,
}

impl Settings {
    /// The world's own sampling and window.
    pub fn of(world: &World, seed: u64) -> Self {
        let (window, mode) = world.default_window();
        Self { sampling: world.meta.sampling, window, mode, seed }
    }
}

/// What happens in one block.
#[derive(Debug)]
pub struct StepInput {
    /// The block's label; the network's null label is allowed.
    pub label: i64,
    /// Real latents (k, C, h, w) f32 for the first k frames of the block, `1 ≤ k ≤ F`. All F replace the block; fewer are
    /// held while the others are denoised around them.
    pub inject: Option<Tensor>,
}

/// A committed block.
#[derive(Debug)]
pub struct Block {
    /// Its place in the stream, from 0.
    pub index: u64,
    /// Latents (F, C, h, w) f32.
    pub latents: Tensor,
    /// Its label.
    pub label: i64,
    /// Frames, from the first, that are injected ones.
    pub injected: usize,
    /// Fingerprint of the f32 latents and of the state of the random numbers, which is seed and index: equal hashes mean
    /// the same block of the same session.
    pub hash: blake3::Hash,
    /// Where in which batch it was computed.
    pub row: Row,
}

/// One stream's state. Cloning forks it: both share the prefix's tensors.
#[derive(Debug, Clone)]
pub struct Session {
    settings: Settings,
    window: Window,
    index: u64,
}

impl Session {
    /// A session with no context.
    ///
    /// # Errors
    /// [`Error::Window`], or [`Error::Model`] for steps the schedule cannot give.
    pub fn new(world: &World, settings: Settings) -> Result<Self, Error> {
        check_sampling(world, settings.sampling)?;
        Ok(Self { settings, window: Window::new(&world.model, settings.window, settings.mode)?, index: 0 })
    }

    /// A session that goes on from one of the world's prompts, which the seed picks; from nothing if it has none.
    ///
    /// # Errors
    /// As [`Self::new`] and [`Self::prime`].
    pub fn prompted(world: &World, settings: Settings) -> Result<Self, Error> {
        let mut session = Self::new(world, settings)?;
        if let Some(prompt) = world.prompt(settings.seed) {
            session.prime(world, &prompt, world.model.null_label())?;
        }
        Ok(session)
    }

    /// What the session runs with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The clean context.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Index of the next block.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Changes how the blocks to come are sampled.
    ///
    /// # Errors
    /// [`Error::Model`] for steps the schedule cannot give; the old sampling stays.
    pub fn set_sampling(&mut self, world: &World, sampling: Sampling) -> Result<(), Error> {
        check_sampling(world, sampling)?;
        self.settings.sampling = sampling;
        Ok(())
    }

    /// Changes the noise of the blocks to come.
    pub fn set_seed(&mut self, seed: u64) {
        self.settings.seed = seed;
    }

    /// Appends one block: computed whole or not at all.
    ///
    /// # Errors
    /// [`Error::Input`] for a label or injection that does not fit, [`Error::Diverged`] for latents that are not finite,
    /// [`Error::ImageComplete`], [`Error::Model`], [`Error::Library`]. The session is as before.
    pub fn step(&mut self, world: &World, input: &StepInput) -> Result<Block, Error> {
        self.step_at(world, input, Row::ALONE)
    }

    /// As [`Self::step`], as if computed in `row`: the same bits as beside any other sessions there.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_at(&mut self, world: &World, input: &StepInput, row: Row) -> Result<Block, Error> {
        Ok(batch::step_at(world, self, input, row)?.0)
    }

    /// Takes the block in. Nothing here can fail.
    pub(crate) fn commit(&mut self, computed: Computed) -> Block {
        let Computed { latents, label, injected, hash, row, window } = computed;
        let index = self.index;
        self.window = window;
        self.index += 1;
        Block { index, latents, label, injected, hash, row }
    }

    /// Fingerprint of the whole state: settings, position and the window to its last bit.
    ///
    /// # Errors
    /// [`Error::Torch`] if the window cannot be read.
    pub fn state_hash(&self) -> Result<blake3::Hash, Error> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?} {}", self.settings, self.index).as_bytes());
        let cached = self.window.layers().iter().flat_map(|(keys, values)| [keys, values]);
        for tensor in self.window.blocks().chain(cached) {
            update(&mut hasher, tensor)?;
        }
        Ok(hasher.finalize())
    }

    /// Makes real frames the context: the last W·F frames of latents (frames, C, h, w) f32, of which there are k·F.
    /// Blocks already there stay before them; label `label` goes with the returned blocks.
    ///
    /// # Errors
    /// [`Error::Input`] unless the frames fill at least one whole block. The session is as before.
    pub fn prime(&mut self, world: &World, latents: &Tensor, label: i64) -> Result<Vec<Block>, Error> {
        let mut primed = self.clone();
        let blocks = (self.clips(world, latents)?.into_iter())
            .map(|clip| primed.step(world, &StepInput { label, inject: Some(clip) }))
            .collect::<Result<_, _>>()?;
        *self = primed;
        Ok(blocks)
    }

    /// The last W blocks of latents (frames, C, h, w), or as many as there are: (F, C, h, w) each.
    pub(crate) fn clips(&self, world: &World, latents: &Tensor) -> Result<Vec<Tensor>, Error> {
        let frames = world.model.config().block_shape()[0];
        let given = latents.size().first().copied().unwrap_or_default();
        let taken = (given / frames).min(self.settings.window as i64);
        if taken == 0 {
            return Err(Error::Input(format!("a clip of at least {frames} frames is needed for context")));
        }
        let first = given - taken * frames;
        Ok((0..taken).map(|block| latents.narrow(0, first + block * frames, frames).copy()).collect())
    }

    /// A session as it was saved.
    pub(crate) fn with_window(
        world: &World,
        settings: Settings,
        window: Window,
        index: u64,
    ) -> Result<Self, Error> {
        check_sampling(world, settings.sampling)?;
        Ok(Self { settings, window, index })
    }

    /// Takes a block's tokens (1, B, p²·C) in again, in the row of the batch in which it was computed.
    pub(crate) fn take_again(&mut self, world: &World, tokens: &Tensor, row: Row) -> Result<(), Error> {
        let _guard = tch::no_grad_guard();
        let windows = vec![&self.window; row.batch as usize];
        let tokens = tokens.repeat([row.batch.into(), 1, 1]);
        let mut appended = Window::all_appended(&windows, &world.model, &tokens)?;
        self.window = appended.swap_remove(row.slot as usize);
        self.index += 1;
        Ok(())
    }

    pub(crate) fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// This session, without the keys and values that appending the next block computes anew anyway.
    pub(crate) fn without_spare_cache(&self) -> Self {
        Self { window: self.window.without_spare_cache(), ..*self }
    }

    /// Injected latents (k, C, h, w) as tokens (1, k·B/F, p²·C).
    pub(crate) fn pinned_tokens(&self, world: &World, latents: &Tensor) -> Result<Tensor, Error> {
        let [frames, c, h, w] = world.model.config().block_shape();
        match latents.size()[..] {
            [given, gc, gh, gw] if (1..=frames).contains(&given) && [gc, gh, gw] == [c, h, w] => {}
            _ => {
                let got = latents.size();
                return Err(Error::Input(format!(
                    "injected latents {got:?}, expected [1 to {frames}, {c}, {h}, {w}]"
                )));
            }
        }
        let latents = latents.to_kind(Kind::Float).to_device(world.model.device());
        Ok(world.patcher.tokens(&latents.unsqueeze(0).contiguous()))
    }

    /// Standard normal tokens (1, B, p²·C) f32, a function of seed, block and purpose alone, whatever the device.
    pub(crate) fn noise(&self, world: &World, purpose: Purpose) -> Tensor {
        let config = world.model.config();
        let shape = [1, config.block_tokens(), config.token_width()];
        let mut seed = blake3::Hasher::new();
        seed.update(&self.settings.seed.to_le_bytes())
            .update(&self.index.to_le_bytes())
            .update(&[purpose as u8]);
        let rng = ChaCha12Rng::from_seed(*seed.finalize().as_bytes());
        let length = shape.iter().product::<i64>() as usize;
        let values: Vec<f32> = StandardNormal.sample_iter(rng).take(length).collect();
        Tensor::from_slice(&values).view(shape).to_device(world.model.device())
    }

    /// The hash of the next block, should it be `latents`.
    pub(crate) fn hash(&self, latents: &Tensor) -> Result<blake3::Hash, Error> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.settings.seed.to_le_bytes()).update(&self.index.to_le_bytes());
        update(&mut hasher, latents)?;
        Ok(hasher.finalize())
    }
}

/// Adds a tensor's values as little-endian f32.
fn update(hasher: &mut blake3::Hasher, tensor: &Tensor) -> Result<(), Error> {
    let values = Vec::<f32>::try_from(tensor.to_kind(Kind::Float).flatten(0, -1))?;
    for value in values {
        hasher.update(&value.to_le_bytes());
    }
    Ok(())
}

/// What a draw of noise is for: streams of their own.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Block = 0,
    Pin = 1,
}

pub(crate) fn check_sampling(world: &World, sampling: Sampling) -> Result<(), Error> {
    world.schedule.timesteps(sampling.steps)?;
    if !(sampling.guidance.is_finite() && (0.0..=100.0).contains(&sampling.guidance)) {
        return Err(Error::Input(format!("guidance {}, expected 0 to 100", sampling.guidance)));
    }
    if !(0.0..=1.0).contains(&sampling.guided) {
        return Err(Error::Input(format!("guided share {}, expected 0 to 1", sampling.guided)));
    }
    Ok(())
}
