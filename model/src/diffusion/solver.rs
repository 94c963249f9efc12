//! Deterministic solvers of the reverse process: DPM-Solver++(2M) (Lu et al. 2022) and DDIM (Song et al. 2020, η = 0).

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::Error;
use crate::diffusion::{NoiseLevel, Schedule};

/// Which solver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SolverKind {
    /// Second-order multistep, midpoint form, first-order last step.
    #[serde(rename = "dpm++")]
    DpmSolverPlusPlus,
    /// First order.
    #[serde(rename = "ddim")]
    Ddim,
}

impl FromStr for SolverKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "dpm++" => Ok(Self::DpmSolverPlusPlus),
            "ddim" => Ok(Self::Ddim),
            _ => Err(Error::Sampling(format!("solver {name:?}, expected \"dpm++\" or \"ddim\""))),
        }
    }
}

/// One block's way from noise to a clean latent. Multistep history starts empty, so make a new one for every block.
#[derive(Debug)]
pub struct Solver<'a> {
    kind: SolverKind,
    schedule: &'a Schedule,
    timesteps: Vec<i64>,
    /// The clean estimate of the step before, and the level it was made at.
    previous: Option<(Tensor, NoiseLevel)>,
}

impl<'a> Solver<'a> {
    /// A solver of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Sampling`] for a number of steps the schedule cannot give.
    pub fn new(kind: SolverKind, schedule: &'a Schedule, steps: usize) -> Result<Self, Error> {
        Ok(Self { kind, schedule, timesteps: schedule.timesteps(steps)?, previous: None })
    }

    /// Timesteps, noisiest first: call [`Self::step`] once for each, in order.
    pub fn timesteps(&self) -> &[i64] {
        &self.timesteps
    }

    /// Shares of signal and noise at step `index`; past the last step, [`NoiseLevel::CLEAN`].
    pub fn level(&self, index: usize) -> NoiseLevel {
        self.timesteps.get(index).map_or(NoiseLevel::CLEAN, |&t| self.schedule.level(t))
    }

    /// Takes `noised` at step `index` to the next step's noise level, given the network's prediction for it.
    ///
    /// With x₀ the clean estimate and h = λ_next − λ: x_next = σ_next/σ · x − α_next (e^(−h) − 1) · D, where D = x₀ for
    /// first-order steps and x₀ + (x₀ − x₀')·h/(2h') with the step before (h' its width, x₀' its estimate) for second order.
    pub fn step(&mut self, index: usize, noised: &Tensor, prediction: &Tensor) -> Tensor {
        let (here, next) = (self.level(index), self.level(index + 1));
        let clean = self.schedule.clean_estimate(here, noised, prediction);
        let previous = self.previous.replace((clean.shallow_clone(), here));
        if next == NoiseLevel::CLEAN {
            return clean;
        }
        let width = next.lambda() - here.lambda();
        let direction = match (self.kind, previous) {
            (SolverKind::DpmSolverPlusPlus, Some((before, level))) => {
                let ratio = width / (2.0 * (here.lambda() - level.lambda()));
                &clean * (1.0 + ratio) - before * ratio
            }
            _ => clean,
        };
        noised * (next.sigma / here.sigma) - direction * (next.alpha * (-width).exp_m1())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Prediction, SchedulerConfig};

    /// A network that knows the answer: every solver must land on it, whatever the number of steps.
    #[test]
    fn a_perfect_prediction_is_recovered() {
        let schedule = Schedule::new(&SchedulerConfig::paper(Prediction::Epsilon)).unwrap();
        let (clean, noise) =
            (Tensor::from_slice(&[0.5f32, -2.0, 1.0]), Tensor::from_slice(&[1.0f32, 0.2, -0.7]));
        for kind in [SolverKind::DpmSolverPlusPlus, SolverKind::Ddim] {
            for steps in [1, 2, 7, 50] {
                let mut solver = Solver::new(kind, &schedule, steps).unwrap();
                let mut x = solver.level(0).mix(&clean, &noise);
                for index in 0..steps {
                    x = solver.step(index, &x, &noise);
                }
                assert!(
                    (&x - &clean).abs().max().double_value(&[]) < 1e-4,
                    "{kind:?} with {steps} steps: {x}"
                );
            }
        }
    }

    /// One DDIM step written as in its paper: √ᾱ' x₀ + √(1 − ᾱ') ε.
    #[test]
    fn ddim_step_is_the_textbook_one() {
        let schedule = Schedule::new(&SchedulerConfig::paper(Prediction::Epsilon)).unwrap();
        let mut solver = Solver::new(SolverKind::Ddim, &schedule, 10).unwrap();
        let (x, epsilon) = (Tensor::from_slice(&[0.4f32, 1.5]), Tensor::from_slice(&[0.9f32, -0.3]));
        let (here, next) = (solver.level(0), solver.level(1));
        let clean = (&x - &epsilon * here.sigma) / here.alpha;
        let expected = clean * next.alpha + &epsilon * next.sigma;
        let error = (solver.step(0, &x, &epsilon) - expected).abs().max().double_value(&[]);
        assert!(error < 1e-4, "{error}");
    }
}
