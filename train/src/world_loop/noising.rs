//! What a step is shown: noise, timesteps, dropped labels and a stream's context, mixed into a batch of latents.

use acdit_model::diffusion::{Prediction, Schedule};
use acdit_model::{Acdit, Patcher, RopeKind, TrainingBatch};
use acdit_parallel::Group;
use tch::{Device, Kind, Tensor};

use super::Recipe;
use crate::{Error, Windows};

/// Noise below which errors of a predicted x₀ weigh no more.
const LEAST_SIGMA: f64 = 0.3;

/// What a step learns from.
pub(super) struct Example {
    pub(super) batch: TrainingBatch,
    /// (N, T, B, p²·C).
    pub(super) target: Tensor,
    /// See [`Noising::weight`].
    pub(super) weight: Tensor,
}

impl Example {
    /// Parts of equal numbers of clips.
    pub(super) fn split(&self, parts: i64) -> Vec<Self> {
        let Self { batch: TrainingBatch { clean, noised, timesteps, labels }, target, weight } = self;
        let clips = clean.size()[0];
        // one weight may stand for all clips
        let weight = weight.expand([clips, weight.size()[1], 1, 1], false);
        let mut chunks = [clean, noised, timesteps, labels, target, &weight]
            .map(|tensor| tensor.chunk(parts, 0).into_iter());
        let next = |chunks: &mut std::vec::IntoIter<Tensor>| chunks.next().expect("a chunk for each part");
        let example = |_| {
            let [clean, noised, timesteps, labels, target, weight] = chunks.each_mut().map(next);
            Self { batch: TrainingBatch { clean, noised, timesteps, labels }, target, weight }
        };
        (0..parts).map(example).collect()
    }
}

/// Draws noise, timesteps and dropped labels, and mixes them into a batch.
///
/// Every process of a group draws for the whole batch and takes what belongs to its clips: a group sees what one process would.
pub(super) struct Noising<'a> {
    schedule: &'a Schedule,
    recipe: &'a Recipe,
    group: &'a Group,
    patcher: Patcher,
    /// α and σ of every timestep: (timesteps) f32.
    alphas: Tensor,
    sigmas: Tensor,
    /// The timesteps that blocks are drawn at, and those at which a stream's own guess is noised again.
    drawn: Tensor,
    redrawn: Tensor,
    /// Weight of a clip's blocks by their place, 1 on average: (1, T, 1, 1) f32.
    places: Tensor,
    device: Device,
}

impl<'a> Noising<'a> {
    /// # Errors
    /// As [`Recipe::timesteps`].
    pub(super) fn new(
        schedule: &'a Schedule,
        recipe: &'a Recipe,
        group: &'a Group,
        device: Device,
    ) -> Result<Self, Error> {
        let levels: Vec<_> = (0..schedule.len() as i64).map(|t| schedule.level(t)).collect();
        let table = |pick: fn(&acdit_model::diffusion::NoiseLevel) -> f64| {
            let values: Vec<f32> = levels.iter().map(|level| pick(level) as f32).collect();
            Tensor::from_slice(&values).to_device(device)
        };
        let (alphas, sigmas) = (table(|level| level.alpha), table(|level| level.sigma));
        let mut places = vec![1.0; recipe.blocks];
        places[0] = recipe.first_block_weight;
        let mean = places.iter().sum::<f64>() / recipe.blocks as f64;
        let places = (Tensor::from_slice(&places) / mean).to_kind(Kind::Float).to_device(device);
        let places = places.view([1, recipe.blocks as i64, 1, 1]);
        let [drawn, redrawn] =
            recipe.timesteps(schedule)?.map(|timesteps| Tensor::from_slice(&timesteps).to_device(device));
        let patcher = Patcher::new(&recipe.model);
        Ok(Self { schedule, recipe, group, patcher, alphas, sigmas, drawn, redrawn, places, device })
    }

    /// From this process's windows.
    pub(super) fn batch(&self, step: u64, windows: &Windows) -> Example {
        // odd multiplier: distinct steps get distinct seeds
        tch::manual_seed((self.recipe.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15)) as i64);
        let labels = windows.labels.to_device(self.device);
        let (n, t) = (labels.size()[0], labels.size()[1]);
        let tokens = |latents: &Tensor| {
            let tokens = self.patcher.tokens(&latents.to_device(self.device).flatten(0, 1)); // (N·T, B, p²·C)
            tokens.view([n, t, tokens.size()[1], tokens.size()[2]])
        };
        let clean = tokens(&windows.latents);
        let context = windows.context.as_ref().map_or_else(|| clean.shallow_clone(), tokens);
        let (all, mine) = (n * self.group.world() as i64, |drawn: &Tensor| self.group.rows_of(drawn));
        let shape = [all, t, clean.size()[2], clean.size()[3]];
        let normal = || mine(&Tensor::randn(shape, (Kind::Float, self.device)));
        let uniform = |shape: [i64; 2]| mine(&Tensor::rand(shape, (Kind::Float, self.device)));
        let timesteps = self.timesteps(&self.drawn, [all, t]);
        let (alpha, sigma) = (self.share(&self.alphas, &timesteps), self.share(&self.sigmas, &timesteps));
        let noise = normal();
        let blur = uniform([all, 1]).view([n, 1, 1, 1]) * self.recipe.context_noise;
        // published weights never saw a label switch within a clip
        let published = self.recipe.model.rope == RopeKind::Published;
        let dropped = uniform([all, if published { 1 } else { t }]).lt(self.recipe.label_dropout);
        let batch = TrainingBatch {
            noised: &clean * &alpha + &noise * &sigma,
            labels: labels.masked_fill(&dropped, self.recipe.model.num_classes),
            clean: context + normal() * blur,
            timesteps,
        };
        let target = self.schedule.target(&clean, &noise, &alpha, &sigma);
        Example { batch, target, weight: self.weight(&sigma) }
    }

    /// The context `clean` (N, T, B, p²·C) of blocks labelled `labels`, partly replaced as [`Recipe::self_context`] says.
    pub(super) fn own_context(
        &self,
        model: &Acdit,
        clean: &Tensor,
        labels: &Tensor,
    ) -> Result<Tensor, Error> {
        let (n, t) = (clean.size()[0], clean.size()[1]);
        // clips come in random order: the first are as good as any; the share holds on average
        let chance = f64::try_from(Tensor::rand([1], (Kind::Double, self.device)))?;
        let (rank, world) = (self.group.rank() as i64, self.group.world() as i64);
        let all = ((self.recipe.self_context * (n * world) as f64 + chance).floor() as i64).min(n * world);
        // since processes take clips in turn, each has its share of the first
        let chosen = (all - rank + world - 1) / world;
        if chosen == 0 {
            return Ok(clean.shallow_clone());
        }
        let labels = labels.narrow(0, 0, chosen).to_device(self.device);
        let mut context = clean.narrow(0, 0, chosen);
        let mut estimate = context.zeros_like();
        let mine = |drawn: Tensor| self.group.rows_of(&drawn);
        let random = |shape: [i64; 4]| mine(Tensor::rand(shape, (Kind::Float, self.device)));
        let share = random([all, 1, 1, 1]);
        let shape = [all, t, clean.size()[2], clean.size()[3]];
        let noise = Tensor::from(self.schedule.len() as i64 - 1).view(1).to_device(self.device);
        for among in [&noise, &self.redrawn] {
            let timesteps = self.timesteps(among, [all, t]);
            let (alpha, sigma) = (self.share(&self.alphas, &timesteps), self.share(&self.sigmas, &timesteps));
            let noised = estimate * &alpha + mine(Tensor::randn(shape, (Kind::Float, self.device))) * &sigma;
            let labels = labels.shallow_clone();
            let batch = TrainingBatch { noised, labels, clean: context.shallow_clone(), timesteps };
            let prediction = model.training_forward(&batch)?;
            estimate = self.schedule.clean_estimate_at(&alpha, &sigma, &batch.noised, &prediction);
            let replaced = random([all, t, 1, 1]).lt_tensor(&share);
            let _ = replaced.narrow(1, 0, 1).fill_(0); // nothing foretells a clip's first block
            context = estimate.where_self(&replaced, &context);
        }
        Ok(Tensor::cat(&[context, clean.narrow(0, chosen, n - chosen)], 0))
    }

    /// Timesteps of this process's blocks, drawn for all (clips, T).
    fn timesteps(&self, among: &Tensor, shape: [i64; 2]) -> Tensor {
        let drawn = self.group.rows_of(&Tensor::randint(among.size()[0], shape, (Kind::Int64, self.device)));
        among.index_select(0, &drawn.view(-1)).view_as(&drawn)
    }

    /// A schedule's table at each block's timestep: (N, T, 1, 1).
    fn share(&self, table: &Tensor, timesteps: &Tensor) -> Tensor {
        table.index_select(0, &timesteps.view(-1)).view_as(timesteps).unsqueeze(-1).unsqueeze(-1)
    }

    /// Weight of each block's squared error, (N, T, 1, 1) or broadcastable to it. An error δ of x₀ is one of δ/σ in v:
    /// weighted so, predicting x₀ learns what predicting v would, down to the noise below which x₀ is plain to see and
    /// the weight would only grow.
    fn weight(&self, sigma: &Tensor) -> Tensor {
        match self.schedule.prediction() {
            Prediction::Sample => &self.places / sigma.clamp_min(LEAST_SIGMA).square(),
            Prediction::Epsilon | Prediction::V => self.places.shallow_clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use acdit_model::diffusion::SchedulerConfig;
    use acdit_model::{Config, Preset};
    use tch::nn;

    use super::*;

    fn recipe(model: Config) -> Recipe {
        Recipe {
            model,
            prediction: Prediction::Sample,
            blocks: 6,
            batch: 8,
            steps: 1,
            rate: 1e-3,
            warmup: 1,
            decay: 0.0,
            label_dropout: 0.0,
            first_block_weight: 1.0,
            context_noise: 0.0,
            self_context: 0.5,
            sampler_steps: None,
            ema: 0.0,
            bf16: false,
            seed: 0,
        }
    }

    #[test]
    fn labels_are_dropped_by_block_but_by_clip_for_published_weights() {
        for (rope, mixed) in [(RopeKind::Axial, true), (RopeKind::Published, false)] {
            let recipe =
                Recipe { label_dropout: 0.5, ..recipe(Config { rope, ..Config::video(Preset::B, 32, 5) }) };
            let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction)).unwrap();
            let [frames, c, h, w] = recipe.model.block_shape();
            let latents = Tensor::zeros([64, 6, frames, c, h, w], (Kind::Float, Device::Cpu));
            let labels = Tensor::full([64, 6], 3, (Kind::Int64, Device::Cpu));
            let windows = Windows { latents, context: None, labels };
            let group = Group::alone();
            let example = Noising::new(&schedule, &recipe, &group, Device::Cpu).unwrap().batch(0, &windows);
            let labels: Vec<Vec<i64>> = Vec::try_from(&example.batch.labels).unwrap();
            let kept = labels.iter().flatten().filter(|&&label| label == 3).count();
            assert!(labels.iter().flatten().all(|&label| label == 3 || label == 5));
            assert!((64..320).contains(&kept), "{kept} of 384 are kept");
            assert_eq!(labels.iter().any(|clip| clip.iter().any(|&label| label != clip[0])), mixed);
        }
    }

    #[test]
    fn timesteps_are_those_of_the_sampler_where_it_is_known() {
        let all = recipe(Config::video(Preset::B, 32, 5));
        let schedule = Schedule::new(&SchedulerConfig::paper(all.prediction)).unwrap();
        let known = Recipe { sampler_steps: NonZeroUsize::new(4), ..all.clone() };
        let [drawn, redrawn] = known.timesteps(&schedule).unwrap();
        assert_eq!(drawn, schedule.timesteps(4).unwrap());
        assert_eq!(redrawn, drawn[1..]);
        let [frames, c, h, w] = all.model.block_shape();
        let latents = Tensor::zeros([8, 6, frames, c, h, w], (Kind::Float, Device::Cpu));
        let labels = Tensor::zeros([8, 6], (Kind::Int64, Device::Cpu));
        let windows = Windows { latents, context: None, labels };
        let group = Group::alone();
        let distinct = |recipe: &Recipe| {
            let noising = Noising::new(&schedule, recipe, &group, Device::Cpu).unwrap();
            let timesteps = noising.batch(0, &windows).batch.timesteps;
            let timesteps: std::collections::BTreeSet<i64> =
                Vec::<i64>::try_from(timesteps.flatten(0, -1)).unwrap().into_iter().collect();
            timesteps
        };
        assert_eq!(distinct(&known).into_iter().rev().collect::<Vec<_>>(), drawn);
        assert!(distinct(&all).len() > 40, "48 draws of 1,000");
        let one = Recipe { sampler_steps: NonZeroUsize::new(1), ..all.clone() };
        assert_eq!(one.timesteps(&schedule).unwrap(), [[999], [999]]);
        let absurd = Recipe { sampler_steps: NonZeroUsize::new(2000), ..all };
        assert!(absurd.timesteps(&schedule).is_err());
    }

    #[test]
    fn own_context_replaces_blocks_of_the_first_clips_and_no_first_block() {
        let model = Config {
            hidden_size: 32,
            num_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 64,
            axis_lengths: vec![16, 2, 2],
            nd_split: vec![2, 1, 1],
            context_window: Some(2),
            ..Config::video(Preset::B, 32, 5)
        };
        let recipe = recipe(model);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = Acdit::new(&vs.root(), &recipe.model, Kind::Float).unwrap();
        let schedule = Schedule::new(&SchedulerConfig::paper(recipe.prediction)).unwrap();
        let group = Group::alone();
        let noising = Noising::new(&schedule, &recipe, &group, Device::Cpu).unwrap();
        let tokens = recipe.model.block_tokens();
        let clean = Tensor::ones([8, 6, tokens, recipe.model.token_width()], (Kind::Float, Device::Cpu));
        let labels = Tensor::zeros([8, 6], (Kind::Int64, Device::Cpu));
        let own = tch::no_grad(|| noising.own_context(&network, &clean, &labels)).unwrap();
        assert_eq!(own.size(), clean.size());
        // a network fresh from its initialisation predicts 0
        let replaced: Vec<Vec<bool>> = Vec::try_from(own.eq(0.0).flatten(2, 3).all_dim(2, false)).unwrap();
        let kept: Vec<Vec<bool>> = Vec::try_from(own.eq(1.0).flatten(2, 3).all_dim(2, false)).unwrap();
        for (clip, (replaced, kept)) in replaced.iter().zip(&kept).enumerate() {
            assert!(replaced.iter().zip(kept).all(|(replaced, kept)| replaced != kept), "clip {clip}");
            assert!(kept[0] && (clip < 4 || kept.iter().all(|&kept| kept)), "clip {clip}: {kept:?}");
        }
        let count = replaced.iter().flatten().filter(|&&replaced| replaced).count();
        assert!((1..=20).contains(&count), "{count} of the first four clips' blocks replaced");
        let none = Recipe { self_context: 0.0, ..recipe };
        let none = Noising::new(&schedule, &none, &group, Device::Cpu)
            .unwrap()
            .own_context(&network, &clean, &labels)
            .unwrap();
        assert_eq!(none, clean);
    }
}
