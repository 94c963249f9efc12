//! The forward process: how much signal and noise a timestep holds.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::Error;

/// What the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prediction {
    /// The noise ε (paper).
    #[serde(rename = "epsilon")]
    Epsilon,
    /// v = α ε − σ x₀ (Salimans & Ho 2022).
    #[serde(rename = "v_prediction")]
    V,
    /// The clean x₀ itself, which a narrow network can hold where it cannot carry a wide token's noise.
    #[serde(rename = "sample")]
    Sample,
}

/// `scheduler/scheduler_config.json`, with diffusers' field names; fields it has beyond these are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Timesteps of the forward process.
    pub num_train_timesteps: i64,
    /// β at timestep 0.
    pub beta_start: f64,
    /// β at the last timestep; β is linear between.
    pub beta_end: f64,
    /// Only "linear" is known.
    #[serde(default = "linear")]
    pub beta_schedule: String,
    /// What the network predicts.
    pub prediction_type: Prediction,
}

fn linear() -> String {
    "linear".into()
}

impl SchedulerConfig {
    /// The paper's process: 1000 steps, β from 1e-4 to 0.02.
    pub fn paper(prediction_type: Prediction) -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: linear(),
            prediction_type,
        }
    }

    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_str(&text).map_err(|e| Error::Format { path: path.into(), detail: e.to_string() })
    }
}

/// Signal and noise shares of a noised latent x = α x₀ + σ ε, with α² + σ² = 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseLevel {
    /// Signal share.
    pub alpha: f64,
    /// Noise share.
    pub sigma: f64,
}

impl NoiseLevel {
    /// No noise: where a solver ends.
    pub const CLEAN: Self = Self { alpha: 1.0, sigma: 0.0 };

    /// λ = ln(α/σ), half the log signal-to-noise ratio.
    pub fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// α x₀ + σ ε.
    pub fn mix(self, clean: &Tensor, noise: &Tensor) -> Tensor {
        clean * self.alpha + noise * self.sigma
    }
}

/// The forward process in numbers.
#[derive(Debug, Clone)]
pub struct Schedule {
    alphas_cumprod: Vec<f64>,
    prediction: Prediction,
}

impl Schedule {
    /// Computes ᾱ_t = Π (1 − β).
    ///
    /// # Errors
    /// [`Error::Sampling`] for a schedule other than linear, or one that leaves (0, 1).
    pub fn new(config: &SchedulerConfig) -> Result<Self, Error> {
        let SchedulerConfig { num_train_timesteps: steps, beta_start, beta_end, .. } = *config;
        if config.beta_schedule != "linear" {
            return Err(Error::Sampling(format!(
                "beta_schedule {:?}, expected \"linear\"",
                config.beta_schedule
            )));
        }
        let rising = 0.0 < beta_start && beta_start <= beta_end && beta_end < 1.0;
        if !rising || !(2..=1_000_000).contains(&steps) {
            return Err(Error::Sampling(format!("{steps} timesteps with beta {beta_start} to {beta_end}")));
        }
        let beta = |t: i64| beta_start + (beta_end - beta_start) * t as f64 / (steps - 1) as f64;
        let alphas_cumprod = (0..steps)
            .scan(1.0, |product, t| {
                *product *= 1.0 - beta(t);
                Some(*product)
            })
            .collect();
        Ok(Self { alphas_cumprod, prediction: config.prediction_type })
    }

    /// ᾱ for every timestep.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// Timesteps of the forward process.
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Never: a schedule has timesteps.
    pub fn is_empty(&self) -> bool {
        self.alphas_cumprod.is_empty()
    }

    /// Shares at a timestep of `0..len()`.
    pub fn level(&self, timestep: i64) -> NoiseLevel {
        let product = self.alphas_cumprod[timestep as usize];
        NoiseLevel { alpha: product.sqrt(), sigma: (1.0 - product).sqrt() }
    }

    /// `steps` timesteps, noisiest first, spaced as diffusers' "linspace": 25 → 999, 959, …, 40.
    ///
    /// # Errors
    /// [`Error::Sampling`] unless `steps` is 1 to `len() − 1`.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<i64>, Error> {
        let last = self.len() - 1;
        if !(1..=last).contains(&steps) {
            return Err(Error::Sampling(format!("{steps} steps, expected 1 to {last}")));
        }
        let spacing = last as f64 / steps as f64;
        Ok((1..=steps).rev().map(|i| (i as f64 * spacing).round_ties_even() as i64).collect())
    }

    /// σ/α at each of [`Self::timesteps`], then 0 (diffusers' `sigmas`).
    ///
    /// # Errors
    /// As [`Self::timesteps`].
    pub fn sigmas(&self, steps: usize) -> Result<Vec<f64>, Error> {
        let ratio = |t| {
            let level = self.level(t);
            level.sigma / level.alpha
        };
        Ok(self.timesteps(steps)?.into_iter().map(ratio).chain([0.0]).collect())
    }

    /// The clean estimate x₀ from a noised latent and the network's prediction.
    pub fn clean_estimate(&self, level: NoiseLevel, noised: &Tensor, prediction: &Tensor) -> Tensor {
        self.clean_estimate_at(&level.alpha.into(), &level.sigma.into(), noised, prediction)
    }

    /// [`Self::clean_estimate`] at noise shares `alpha` and `sigma` (broadcastable tensors).
    pub fn clean_estimate_at(
        &self,
        alpha: &Tensor,
        sigma: &Tensor,
        noised: &Tensor,
        prediction: &Tensor,
    ) -> Tensor {
        match self.prediction {
            Prediction::Epsilon => (noised - prediction * sigma) / alpha,
            Prediction::V => noised * alpha - prediction * sigma,
            Prediction::Sample => prediction.shallow_clone(),
        }
    }

    /// The network's training target at noise shares `alpha` and `sigma` (broadcastable tensors).
    pub fn target(&self, clean: &Tensor, noise: &Tensor, alpha: &Tensor, sigma: &Tensor) -> Tensor {
        match self.prediction {
            Prediction::Epsilon => noise.shallow_clone(),
            Prediction::V => alpha * noise - sigma * clean,
            Prediction::Sample => clean.shallow_clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_five_steps_are_the_published_ones() {
        let schedule = Schedule::new(&SchedulerConfig::paper(Prediction::Epsilon)).unwrap();
        let steps = schedule.timesteps(25).unwrap();
        assert_eq!((steps[0], steps[1], steps[12], steps[13], steps[24]), (999, 959, 519, 480, 40));
        assert!(schedule.timesteps(0).is_err() && schedule.timesteps(1000).is_err());
    }

    #[test]
    fn all_targets_give_the_same_clean_estimate() {
        let (clean, noise) = (Tensor::from_slice(&[0.3f32, -1.2]), Tensor::from_slice(&[0.7f32, 0.1]));
        for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Sample] {
            let schedule = Schedule::new(&SchedulerConfig::paper(prediction)).unwrap();
            let level = schedule.level(600);
            let target = schedule.target(&clean, &noise, &level.alpha.into(), &level.sigma.into());
            let estimate = schedule.clean_estimate(level, &level.mix(&clean, &noise), &target);
            assert!((estimate - &clean).abs().max().double_value(&[]) < 1e-5);
            let (alpha, sigma) = (level.alpha.into(), level.sigma.into());
            let estimate = schedule.clean_estimate_at(&alpha, &sigma, &level.mix(&clean, &noise), &target);
            assert!((estimate - &clean).abs().max().double_value(&[]) < 1e-5);
        }
    }
}
