//! AdamW, weight averaging and the learning-rate schedule, with every number that a resume needs in reach.
//!
//! `tch`'s optimizers keep their state where it cannot be saved. Here all parameters live in one flat buffer that the
//! network's variables are views of, so that a step is a few in-place passes over one tensor, whatever the number of
//! layers, and the state is two tensors and a count. Gradients share one buffer in the same way.

use std::collections::BTreeMap;

use acdit_parallel::{Exchange, Group};
use tch::{Kind, Tensor, nn};

use crate::Error;

/// Parameters whose gradients travel together, at least: 8 MB, so that a message is long beside what it costs to begin one, and the
/// last, which no computation hides, is short.
const BUCKET: i64 = 1 << 21;

/// The trainable variables of a `VarStore`, moved into one contiguous f32 buffer.
#[derive(Debug)]
pub struct FlatParameters {
    entries: Vec<Entry>,
    values: Tensor,
    gradients: Tensor,
    exchange: Option<Exchange>,
}

/// One variable: a view of `values`.
#[derive(Debug)]
struct Entry {
    name: String,
    variable: Tensor,
    offset: i64,
}

impl FlatParameters {
    /// Moves the variables of `vs` into one buffer, in the order of their names. Their handles stay valid.
    ///
    /// # Errors
    /// [`Error::Options`] if there are none or one is not f32, since master weights must be; [`Error::Torch`].
    pub fn new(vs: &nn::VarStore) -> Result<Self, Error> {
        let named: BTreeMap<String, Tensor> =
            vs.variables().into_iter().filter(|(_, variable)| variable.requires_grad()).collect();
        if let Some((name, variable)) = named.iter().find(|(_, variable)| variable.kind() != Kind::Float) {
            return Err(Error::Options(format!("{name}: expected f32 weights, got {:?}", variable.kind())));
        }
        let total: i64 = named.values().map(|variable| variable.numel() as i64).sum();
        if total == 0 {
            return Err(Error::Options("the network has no trainable parameters".into()));
        }
        let values = Tensor::f_zeros([total], (Kind::Float, vs.device()))?;
        let mut entries = Vec::with_capacity(named.len());
        let mut offset = 0;
        for (name, mut variable) in named {
            let count = variable.numel() as i64;
            let mut view = values.f_narrow(0, offset, count)?.f_view(variable.size().as_slice())?;
            tch::no_grad(|| view.f_copy_(&variable))?;
            variable.set_data(&view);
            entries.push(Entry { name, variable, offset });
            offset += count;
        }
        let gradients = values.f_zeros_like()?;
        share_gradients(&entries, &gradients)?;
        Ok(Self { entries, values, gradients, exchange: None })
    }

    /// The same, with gradients that are the mean over a group once a step uses them.
    ///
    /// # Errors
    /// [`Error::Parallel`].
    pub fn averaged_over(mut self, group: &Group) -> Result<Self, Error> {
        let variables = self.entries.iter().map(|entry| entry.variable.shallow_clone()).collect();
        self.exchange = Some(Exchange::new(group, &self.gradients, variables, BUCKET)?);
        Ok(self)
    }

    /// Parameters in all.
    pub fn count(&self) -> i64 {
        self.values.numel() as i64
    }

    /// The parameters, (P). Writing to it changes the network.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Views of `flat`, a tensor shaped like [`FlatParameters::values`], under the names of the variables.
    pub fn named(&self, flat: &Tensor) -> BTreeMap<String, Tensor> {
        self.entries
            .iter()
            .map(|Entry { name, variable, offset }| {
                let part = flat.narrow(0, *offset, variable.numel() as i64);
                (name.clone(), part.view(variable.size().as_slice()))
            })
            .collect()
    }

    /// The sum of all gradients since they were last cleared, (P); a variable that no loss depended on has zeros.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Runs the scalar `loss` backwards and adds its gradient to [`FlatParameters::gradients`].
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn add_gradient(&self, loss: &Tensor) -> Result<(), Error> {
        Ok(loss.f_backward()?)
    }

    /// Says that the next backward pass is the step's last, so that its gradients may leave for the other processes.
    pub fn expect_last_pass(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.begin();
        }
    }

    fn clear_gradients(&mut self) -> Result<(), Error> {
        let _ = self.gradients.f_zero_()?;
        Ok(())
    }
}

/// Makes each variable's gradient a view of `gradients`: autograd adds to a gradient that is there in place, so that a
/// backward pass leaves all of them in one buffer and any number of passes accumulate.
fn share_gradients(entries: &[Entry], gradients: &Tensor) -> Result<(), Error> {
    // a backward pass makes autograd create them, with whatever storage
    let sums =
        entries.iter().map(|entry| entry.variable.f_sum(Kind::Float)).collect::<Result<Vec<_>, _>>()?;
    Tensor::f_stack(&sums, 0)?.f_sum(Kind::Float)?.f_backward()?;
    for Entry { variable, offset, .. } in entries {
        let view =
            gradients.f_narrow(0, *offset, variable.numel() as i64)?.f_view(variable.size().as_slice())?;
        variable.f_grad()?.set_data(&view);
    }
    Ok(())
}

/// What AdamW is told once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of all parameters, per step and unit of learning rate.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; longer ones are scaled down to it.
    pub clip_norm: f64,
}

impl Default for AdamWConfig {
    /// The published training's betas and clipping; no weight decay, as in the paper.
    fn default() -> Self {
        Self { betas: (0.9, 0.95), epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 }
    }
}

/// Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2) and clipping by global norm.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    parameters: FlatParameters,
    /// Moments and scratch space are (P), f32.
    mean: Tensor,
    variance: Tensor,
    scratch: Tensor,
    steps: u64,
}

impl AdamW {
    /// An optimizer at step 0.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn new(parameters: FlatParameters, config: AdamWConfig) -> Result<Self, Error> {
        let zeros = || parameters.values.f_zeros_like();
        Ok(Self { mean: zeros()?, variance: zeros()?, scratch: zeros()?, steps: 0, config, parameters })
    }

    /// The parameters that are being trained.
    pub fn parameters(&self) -> &FlatParameters {
        &self.parameters
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One update down the gradient accumulated by [`FlatParameters::add_gradient`], which is cleared, at learning rate
    /// `rate`; returns the gradient's norm before clipping.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the norm is not finite, parameters and state being left as they were; [`Error::Parallel`];
    /// [`Error::Torch`].
    pub fn step(&mut self, rate: f64) -> Result<f64, Error> {
        let AdamWConfig { betas: (beta1, beta2), epsilon, weight_decay, clip_norm } = self.config;
        if let Some(exchange) = &self.parameters.exchange {
            exchange.finish()?;
        }
        let mut gradient = self.parameters.gradients.shallow_clone();
        let norm = f64::try_from(gradient.f_norm()?)?;
        if !norm.is_finite() {
            let reason = format!("the gradient's norm is {norm}");
            return Err(Error::Diverged { step: self.steps, reason, last_good: None });
        }
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        tch::no_grad(|| {
            if norm > clip_norm {
                let _ = gradient.f_mul_scalar_(clip_norm / norm)?;
            }
            let _ = self.mean.f_lerp_(&gradient, 1.0 - beta1)?;
            let _ = self.variance.f_lerp_(&gradient.f_square_()?, 1.0 - beta2)?;
            let mut update = self.variance.f_sqrt_out(&self.scratch)?;
            let _ = update.f_mul_scalar_(correction(beta2).sqrt().recip())?.f_add_scalar_(epsilon)?;
            let mut update = self.mean.f_div_out(&self.scratch, &update)?;
            let values = &mut self.parameters.values;
            if weight_decay > 0.0 {
                let _ = values.f_mul_scalar_(1.0 - rate * weight_decay)?;
            }
            let _ = values.f_add_(&update.f_mul_scalar_(-rate / correction(beta1))?)?;
            self.parameters.clear_gradients()?;
            Ok(norm)
        })
    }

    /// What a checkpoint must hold beside [`AdamW::steps`] and the parameters: both moments, by name.
    pub fn state(&self) -> [(String, Tensor); 2] {
        [("adamw.mean", &self.mean), ("adamw.variance", &self.variance)]
            .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()))
    }

    /// Continues where [`AdamW::state`] was taken; the parameters are restored separately.
    ///
    /// # Errors
    /// [`Error::Options`] if a moment is missing or belongs to another network.
    pub fn restore(&mut self, steps: u64, state: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        for (name, mut own) in self.state() {
            copy_state(state, &name, &mut own)?;
        }
        self.steps = steps;
        Ok(())
    }
}

/// An exponential moving average of the parameters: what is evaluated and shipped.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    values: Tensor,
    updates: u64,
}

impl Ema {
    /// Starts at the parameters' present values.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn new(parameters: &FlatParameters, decay: f64) -> Result<Self, Error> {
        Ok(Self { decay, values: parameters.values.f_detach()?.copy(), updates: 0 })
    }

    /// The average, (P); see [`FlatParameters::named`].
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Moves towards the parameters. Early on, when the parameters say more than their history, the decay is
    /// (1 + n) / (10 + n) after n updates.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn update(&mut self, parameters: &FlatParameters) -> Result<(), Error> {
        let young = (1.0 + self.updates as f64) / (10.0 + self.updates as f64);
        self.updates += 1;
        let _ = tch::no_grad(|| self.values.f_lerp_(&parameters.values, 1.0 - self.decay.min(young)))?;
        Ok(())
    }

    /// What a checkpoint must hold beside the number of updates.
    pub fn state(&self) -> (String, Tensor) {
        ("ema".to_owned(), self.values.shallow_clone())
    }

    /// Continues where [`Ema::state`] was taken.
    ///
    /// # Errors
    /// [`Error::Options`] if the average is missing or belongs to another network.
    pub fn restore(&mut self, updates: u64, state: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        let (name, mut own) = self.state();
        copy_state(state, &name, &mut own)?;
        self.updates = updates;
        Ok(())
    }
}

fn copy_state(state: &BTreeMap<String, Tensor>, name: &str, own: &mut Tensor) -> Result<(), Error> {
    let saved = state.get(name).ok_or_else(|| Error::Options(format!("{name} is missing")))?;
    if saved.size() != own.size() {
        let (expected, got) = (own.size(), saved.size());
        return Err(Error::Options(format!("{name}: expected shape {expected:?}, got {got:?}")));
    }
    tch::no_grad(|| own.f_copy_(saved))?;
    Ok(())
}

/// Warm-up, stable, decay (WSD): linear rise, constant, and a linear fall to zero over the last part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wsd {
    /// The constant rate between rise and fall.
    pub peak: f64,
    /// Steps of rise.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// Share of `total` that falls; the paper uses 0.15.
    pub decay: f64,
}

impl Wsd {
    /// The learning rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        let rise = (step + 1) as f64 / self.warmup.max(1) as f64;
        let falling = (self.total as f64 * self.decay).max(1.0);
        let fall = self.total.saturating_sub(step) as f64 / falling;
        self.peak * rise.min(fall).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn optimizer(config: AdamWConfig) -> (nn::VarStore, Tensor, AdamW) {
        let vs = nn::VarStore::new(Device::Cpu);
        let start = Tensor::from_slice(&[1.0f32, -2.0]);
        let weight = vs.root().add("weight", start, true);
        let _ = vs.root().add("unused", Tensor::ones([3], (Kind::Float, Device::Cpu)), true);
        let optimizer = AdamW::new(FlatParameters::new(&vs).unwrap(), config).unwrap();
        (vs, weight, optimizer)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).view([-1])).unwrap()
    }

    fn close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} is not {expected:?}");
    }

    #[test]
    fn five_steps_equal_the_algorithm_written_out() {
        let config = AdamWConfig { betas: (0.9, 0.95), epsilon: 1e-8, weight_decay: 0.1, clip_norm: 3.0 };
        let (_vs, weight, mut optimizer) = optimizer(config);
        let (mut w, mut m, mut v) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
        for t in 1..=5 {
            let rate = 0.01 * f64::from(t);
            let loss = (&weight * &weight * &weight).sum(Kind::Float);
            optimizer.parameters().add_gradient(&loss).unwrap();
            let norm = optimizer.step(rate).unwrap();
            let gradient = w.map(|x| 3.0 * x * x);
            let length = gradient[0].hypot(gradient[1]);
            assert!((norm - length).abs() < 1e-4, "{norm} {length}");
            for i in 0..2 {
                let g = gradient[i] * (3.0 / length).min(1.0);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.95f64.powi(t)));
                w[i] -= rate * (m_hat / (v_hat.sqrt() + 1e-8) + 0.1 * w[i]);
            }
            close(&values(&weight), &w);
        }
        assert_eq!(optimizer.steps(), 5);
    }

    #[test]
    fn the_first_step_is_the_rate_in_the_gradients_direction() {
        let (vs, weight, mut optimizer) = optimizer(AdamWConfig::default());
        optimizer.parameters().add_gradient(&(&weight * &weight).sum(Kind::Float)).unwrap();
        optimizer.step(0.1).unwrap();
        close(&values(&weight), &[0.9, -1.9]);
        let named = optimizer.parameters().named(optimizer.parameters().values());
        close(&values(&named["unused"]), &[1.0; 3]);
        close(&values(&vs.variables()["weight"]), &[0.9, -1.9]);
    }

    #[test]
    fn restored_state_continues_bit_equal() {
        let train = |optimizer: &mut AdamW, ema: &mut Ema, weight: &Tensor, steps: std::ops::Range<u64>| {
            for step in steps {
                let loss = ((weight - step as f64).square() * weight.sin()).sum(Kind::Float);
                optimizer.parameters().add_gradient(&loss).unwrap();
                optimizer.step(0.05).unwrap();
                ema.update(optimizer.parameters()).unwrap();
            }
        };
        let (_vs, weight, mut optimizer_a) = optimizer(AdamWConfig::default());
        let mut ema_a = Ema::new(optimizer_a.parameters(), 0.9).unwrap();
        train(&mut optimizer_a, &mut ema_a, &weight, 0..7);
        let mut state: BTreeMap<String, Tensor> =
            optimizer_a.state().into_iter().chain([ema_a.state()]).map(|(n, t)| (n, t.copy())).collect();
        let saved = optimizer_a.parameters().values().copy();
        train(&mut optimizer_a, &mut ema_a, &weight, 7..20);

        let (_vs, weight, mut optimizer_b) = optimizer(AdamWConfig::default());
        let mut ema_b = Ema::new(optimizer_b.parameters(), 0.9).unwrap();
        tch::no_grad(|| optimizer_b.parameters().values().shallow_clone().copy_(&saved));
        optimizer_b.restore(7, &state).unwrap();
        ema_b.restore(7, &state).unwrap();
        train(&mut optimizer_b, &mut ema_b, &weight, 7..20);
        assert_eq!(optimizer_a.parameters().values(), optimizer_b.parameters().values());
        assert_eq!(ema_a.values(), ema_b.values());

        state.remove("adamw.mean");
        assert!(optimizer_b.restore(7, &state).unwrap_err().to_string().contains("adamw.mean"));
    }

    #[test]
    fn two_losses_accumulate_to_the_gradient_of_their_sum() {
        let (_vs, weight, mut optimizer) = optimizer(AdamWConfig::default());
        let losses = [(&weight * &weight).sum(Kind::Float), (&weight * 3.0).sum(Kind::Float)];
        for loss in &losses {
            optimizer.parameters().add_gradient(loss).unwrap();
        }
        close(&values(optimizer.parameters().gradients())[3..], &[5.0, -1.0]);
        optimizer.step(0.1).unwrap();
        close(&values(optimizer.parameters().gradients()), &[0.0; 5]);
        optimizer.parameters().add_gradient(&(&weight * 2.0).sum(Kind::Float)).unwrap();
        close(&values(optimizer.parameters().gradients()), &[0.0, 0.0, 0.0, 2.0, 2.0]);
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let (_vs, weight, mut optimizer) = optimizer(AdamWConfig::default());
        let loss = (&weight * f64::NAN).sum(Kind::Float);
        optimizer.parameters().add_gradient(&loss).unwrap();
        assert!(matches!(optimizer.step(0.1), Err(Error::Diverged { step: 0, .. })));
        close(&values(&weight), &[1.0, -2.0]);
        assert_eq!(optimizer.steps(), 0);
    }

    #[test]
    fn the_average_starts_young_and_ages_to_its_decay() {
        let (_vs, weight, optimizer) = optimizer(AdamWConfig::default());
        let mut ema = Ema::new(optimizer.parameters(), 0.15).unwrap();
        tch::no_grad(|| weight.shallow_clone().copy_(&Tensor::from_slice(&[2.0f32, 8.0])));
        let average = |ema: &Ema| values(&optimizer.parameters().named(ema.values())["weight"]);
        ema.update(optimizer.parameters()).unwrap(); // decay 0.1: 0.1 * (1, -2) + 0.9 * (2, 8)
        close(&average(&ema), &[1.9, 7.0]);
        ema.update(optimizer.parameters()).unwrap(); // decay 0.15, not 2 / 11
        close(&average(&ema), &[1.985, 7.85]);
    }

    #[test]
    fn the_rate_rises_holds_and_falls() {
        let schedule = Wsd { peak: 2.0, warmup: 4, total: 100, decay: 0.2 };
        let rates = [0, 1, 3, 50, 80, 85, 90, 99, 100].map(|step| schedule.rate(step));
        close(&rates, &[0.5, 1.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.1, 0.0]);
    }
}
