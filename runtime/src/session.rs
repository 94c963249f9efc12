//! A session: the state machine that turns events into blocks, for ever.
//!
//! No clock, no thread, no socket. A session is its window, its seed and its position; the same weights, seed and events
//! give the same latents. [`Session::step`] computes first and commits last, so a failed step changes nothing.

use acdit_model::diffusion::{NoiseLevel, Solver, guided};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::{Kind, Tensor};

use crate::{Error, Sampling, Window, WindowMode, World};

/// What a session is started with.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// Fingerprint of seed, index and latents: equal hashes mean the same block of the same session.
    pub hash: blake3::Hash,
}

/// One stream's state. Cloning forks it: both share the prefix's tensors.
#[derive(Debug, Clone)]
pub struct Session {
    settings: Settings,
    window: Window,
    index: u64,
}

/// A block computed but not yet part of the session.
#[derive(Debug)]
pub struct Candidate {
    tokens: Tensor,
    label: i64,
    injected: usize,
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
        if let Some(prompts) = &world.prompts {
            let pick = settings.seed % prompts.size()[0] as u64;
            session.prime(world, &prompts.get(pick as i64), world.model.null_label())?;
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

    /// Appends one block: computed whole or not at all.
    ///
    /// # Errors
    /// [`Error::Input`] for a label or injection that does not fit, [`Error::Diverged`] for latents that are not finite,
    /// [`Error::ImageComplete`], [`Error::Model`]. The session is as before.
    pub fn step(&mut self, world: &World, input: &StepInput) -> Result<Block, Error> {
        let candidate = self.denoise(world, input)?;
        self.commit(world, candidate)
    }

    /// First half of [`Self::step`]: the block's tokens, from noise or from the injected frames.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn denoise(&self, world: &World, input: &StepInput) -> Result<Candidate, Error> {
        let config = world.model.config();
        if !(0..=config.num_classes).contains(&input.label) {
            return Err(Error::Input(format!("label {} of {}", input.label, config.num_classes)));
        }
        if config.square_block.is_some() && self.index as i64 >= config.training_blocks() {
            return Err(Error::ImageComplete { blocks: config.training_blocks() });
        }
        let pinned = input.inject.as_ref().map(|latents| self.pinned_tokens(world, latents)).transpose()?;
        let injected = input.inject.as_ref().map_or(0, |latents| latents.size()[0]);
        let tokens = match pinned {
            Some(tokens) if injected == config.block_shape()[0] => tokens,
            pinned => tch::no_grad(|| self.sample(world, input.label, pinned.as_ref()))?,
        };
        if tokens.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::Diverged { block: self.index });
        }
        Ok(Candidate { tokens, label: input.label, injected: injected as usize })
    }

    /// Second half of [`Self::step`]: runs the clean pass and takes the block into the window.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn commit(&mut self, world: &World, candidate: Candidate) -> Result<Block, Error> {
        let Candidate { tokens, label, injected } = candidate;
        let window = tch::no_grad(|| self.window.appended(&world.model, &tokens))?;
        let latents = world.patcher.latents(&tokens).squeeze_dim(0).to_device(tch::Device::Cpu).contiguous();
        let hash = self.hash(&latents)?;
        let index = self.index;
        self.window = window;
        self.index += 1;
        Ok(Block { index, latents, label, injected, hash })
    }

    /// Makes real frames the context: the last W·F frames of latents (frames, C, h, w) f32, of which there are k·F.
    /// Blocks already there stay before them; label `label` goes with the returned blocks.
    ///
    /// # Errors
    /// [`Error::Input`] unless the frames fill at least one whole block. The session is as before.
    pub fn prime(&mut self, world: &World, latents: &Tensor, label: i64) -> Result<Vec<Block>, Error> {
        let frames = world.model.config().block_shape()[0];
        let whole = latents.size().first().map_or(0, |&given| given / frames);
        if whole == 0 {
            return Err(Error::Input(format!("a clip of at least {frames} frames is needed for context")));
        }
        let mut primed = self.clone();
        let taken = whole.min(self.settings.window as i64);
        let first = latents.size()[0] - taken * frames;
        let blocks = (0..taken)
            .map(|block| {
                let inject = Some(latents.narrow(0, first + block * frames, frames));
                primed.step(world, &StepInput { label, inject })
            })
            .collect::<Result<_, _>>()?;
        *self = primed;
        Ok(blocks)
    }

    /// One block from noise, (1, B, p²·C) f32 in tokens.
    fn sample(&self, world: &World, label: i64, pinned: Option<&Tensor>) -> Result<Tensor, Error> {
        let Sampling { steps, guidance, solver } = self.settings.sampling;
        let model = &world.model;
        let labels: &[i64] = if guidance == 1.0 { &[label] } else { &[label, model.null_label()] };
        let branches = labels.len() as i64;
        let device = model.device();
        let labels = Tensor::from_slice(labels).to_device(device);
        let rope = model.rope().table(self.window.position(), 1, device)?;
        let mut solver = Solver::new(solver, &world.schedule, steps)?;
        let hold =
            pinned.map(|tokens| (tokens, self.noise(world, Purpose::Pin).narrow(1, 0, tokens.size()[1])));
        let held = |tokens: Tensor, level: NoiseLevel| match &hold {
            Some((clean, noise)) => {
                let (length, rest) = (clean.size()[1], tokens.size()[1] - clean.size()[1]);
                // the last level is the clean latents themselves: bit for bit what was injected
                let exact = level == NoiseLevel::CLEAN;
                let front = if exact { clean.shallow_clone() } else { level.mix(clean, noise) };
                Tensor::cat(&[front, tokens.narrow(1, length, rest)], 1)
            }
            None => tokens,
        };

        let mut tokens = self.noise(world, Purpose::Block);
        for index in 0..steps {
            tokens = held(tokens, solver.level(index));
            let branched = tokens.expand([branches, tokens.size()[1], tokens.size()[2]], false);
            let timesteps = Tensor::full([branches], solver.timesteps()[index], (Kind::Int64, device));
            let predictions =
                model.denoise(&branched, &timesteps, &labels, &rope, &mut self.window.reader())?;
            let prediction = if branches == 1 { predictions } else { guided(&predictions, guidance) };
            tokens = solver.step(index, &tokens, &prediction);
        }
        Ok(held(tokens, NoiseLevel::CLEAN))
    }

    /// Injected latents (k, C, h, w) as tokens (1, k·B/F, p²·C).
    fn pinned_tokens(&self, world: &World, latents: &Tensor) -> Result<Tensor, Error> {
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
    fn noise(&self, world: &World, purpose: Purpose) -> Tensor {
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

    fn hash(&self, latents: &Tensor) -> Result<blake3::Hash, Error> {
        let values = Vec::<f32>::try_from(latents.view(-1))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.settings.seed.to_le_bytes()).update(&self.index.to_le_bytes());
        for value in values {
            hasher.update(&value.to_le_bytes());
        }
        Ok(hasher.finalize())
    }
}

/// What a draw of noise is for: streams of their own.
#[derive(Clone, Copy)]
enum Purpose {
    Block = 0,
    Pin = 1,
}

fn check_sampling(world: &World, sampling: Sampling) -> Result<(), Error> {
    world.schedule.timesteps(sampling.steps)?;
    if !(sampling.guidance.is_finite() && (0.0..=100.0).contains(&sampling.guidance)) {
        return Err(Error::Input(format!("guidance {}, expected 0 to 100", sampling.guidance)));
    }
    Ok(())
}
