//! What a block costs on this machine, and what it could cost: timings in the steady state beside counted operations and
//! the best rate of a matrix product measured in the same run.

use std::time::Instant;

use acdit_codec::color;
use acdit_codec::vae::Vae;
use acdit_model::Config;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::pipeline::EncodeH264;
use crate::stream::{EncoderSettings, frame_size, h264};
use crate::{Error, Result, Session, Settings, StepInput, Timings, WindowMode, World, batch, device, stats};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bench {
    /// Sampling and window of every session; seeds count up from this one.
    pub settings: Settings,
    /// Sessions in the batch.
    pub sessions: usize,
    /// Timed steps of the batch, after a warm-up; the median counts.
    pub blocks: usize,
}

/// What one step of the batch costs: a block of every session.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// `cpu`, or the GPU's name.
    pub device: String,
    /// `f32` or `bf16`.
    pub dtype: &'static str,
    /// All stages, one after the other, in seconds.
    pub seconds_per_block: f64,
    /// The denoising steps, in seconds.
    pub denoise_seconds: f64,
    /// Bringing the window up to date, in seconds.
    pub context_seconds: f64,
    /// Latents to pixels, in seconds.
    pub decode_seconds: f64,
    /// Pixels to H.264, in seconds; zero in a build without `video`.
    pub encode_seconds: f64,
    /// Frames of all sessions per second of `seconds_per_block`.
    pub frames_per_second: f64,
    /// From a new session to its first block's packets, in seconds.
    pub first_frame_seconds: f64,
    /// Most memory held: the process's on a CPU, the device's on CUDA. In bytes, if known.
    pub peak_memory_bytes: Option<u64>,
    /// Operations of one session's block, see [`block_flops`].
    pub flops_per_block: f64,
    /// Best rate of a matrix product, see [`matmul_flops_per_second`].
    pub matmul_flops_per_second: f64,
    /// Rate of denoising and context over that of the matrix product.
    pub share_of_ceiling: f64,
}

impl Bench {
    /// Measures; takes `blocks` + 2 blocks of every session.
    ///
    /// # Errors
    /// [`Error::Input`] without sessions or blocks, [`Error::Window`], and whatever a block fails with.
    pub fn run(&self, world: &World, vae: &Vae) -> Result<Measured> {
        if self.sessions == 0 || self.blocks == 0 {
            return Err(Error::Input("bench needs at least one session and one block".to_owned()));
        }
        let size = frame_size(world, vae)?;
        let mut stages =
            Stages { world, vae, encode: open_encoder(&EncoderSettings::of(&world.meta, size), size)? };

        let started = Instant::now();
        stages.step(&mut [Session::new(world, self.settings)?])?;
        let first_frame_seconds = started.elapsed().as_secs_f64();

        let mut sessions = (0..self.sessions as u64)
            .map(|index| self.session_with_full_window(world, self.settings.seed.wrapping_add(index)))
            .collect::<Result<Vec<_>>>()?;
        stages.step(&mut sessions)?;
        let timings =
            (0..self.blocks).map(|_| stages.step(&mut sessions)).collect::<Result<Vec<Timings>>>()?;

        let median_of = |stage: fn(&Timings) -> f64| median(timings.iter().map(stage).collect());
        let config = world.model.config();
        let flops_per_block = block_flops(config, &self.settings);
        let matmul = matmul_flops_per_second(world.model.device(), world.model.compute());
        let seconds_per_block = median_of(Timings::total);
        let network_seconds = median_of(|timings| timings.denoise + timings.context);
        let frames = self.sessions as f64 * config.frames_per_block as f64;
        Ok(Measured {
            device: device::name(world.model.device()),
            dtype: if world.model.compute() == Kind::BFloat16 { "bf16" } else { "f32" },
            seconds_per_block,
            denoise_seconds: median_of(|timings| timings.denoise),
            context_seconds: median_of(|timings| timings.context),
            decode_seconds: median_of(|timings| timings.decode),
            encode_seconds: median_of(|timings| timings.encode),
            frames_per_second: frames / seconds_per_block,
            first_frame_seconds,
            peak_memory_bytes: match world.model.device() {
                Device::Cuda(index) => device::cuda_memory_held(index),
                _ => stats::peak_memory(),
            },
            flops_per_block,
            matmul_flops_per_second: matmul,
            share_of_ceiling: self.sessions as f64 * flops_per_block / network_seconds / matmul,
        })
    }

    /// A session whose window holds W blocks of noise, as in the steady state.
    fn session_with_full_window(&self, world: &World, seed: u64) -> Result<Session> {
        let mut session = Session::new(world, Settings { seed, ..self.settings })?;
        let [frames, c, h, w] = world.model.config().block_shape();
        let noise =
            Tensor::randn([self.settings.window as i64 * frames, c, h, w], (Kind::Float, Device::Cpu));
        session.prime(world, &noise, world.model.null_label())?;
        Ok(session)
    }
}

struct Stages<'a> {
    world: &'a World,
    vae: &'a Vae,
    encode: Option<EncodeH264>,
}

impl Stages<'_> {
    /// One block of every session through all stages; the sum over sessions.
    fn step(&mut self, sessions: &mut [Session]) -> Result<Timings> {
        let label = self.world.model.config().num_classes - 1;
        let mut batch: Vec<_> =
            sessions.iter_mut().map(|session| (session, StepInput { label, inject: None })).collect();
        let mut sum = Timings::default();
        let widest = batch.len();
        for (row, stepped) in batch::step_batch(self.world, &mut batch, widest).into_iter().enumerate() {
            let (block, mut timings) = stepped?;
            if row > 0 {
                // The network worked once for all of them.
                timings = Timings::default();
            }
            let started = Instant::now();
            let frames = tch::no_grad(|| color::to_frames(&self.vae.decoder.decode(&block.latents)?))?;
            let decoded = Instant::now();
            if let Some(encode) = &mut self.encode {
                frames.iter().try_for_each(|frame| encode(frame, false).map(|_| ()))?;
            }
            timings.decode = (decoded - started).as_secs_f64();
            timings.encode = decoded.elapsed().as_secs_f64();
            sum += timings;
        }
        Ok(sum)
    }
}

fn open_encoder(settings: &EncoderSettings, size: acdit_codec::Size) -> Result<Option<EncodeH264>> {
    let (_, open) = h264(settings, size)?;
    open.map(|mut open| open()).transpose()
}

/// Floating-point operations of one block in the steady state: the matrix products of the layers, which is nearly all
/// there is. A window that is recomputed is counted under its causal mask, not as the square.
pub fn block_flops(config: &Config, settings: &Settings) -> f64 {
    let block = config.block_tokens() as f64;
    let window = settings.window as f64;
    let layers = config.num_layers as f64;
    let (hidden, mlp) = (config.hidden_size as f64, config.intermediate_size as f64);
    // qkv and proj are 8 D² a token, the MLP 4 D·M; scores and their product with the values 4 D a token and key.
    let layer = |tokens: f64, keys: f64| tokens * (hidden * (8.0 * hidden + 4.0 * mlp) + 4.0 * keys * hidden);
    // Of the last layer the clean stream needs keys and values alone.
    let clean = |keys: f64| (layers - 1.0) * layer(block, keys) + block * 6.0 * hidden * hidden;

    let passes = (settings.sampling.steps + settings.sampling.guided_steps()) as f64;
    let denoise = passes * layers * layer(block, (window + 1.0) * block);
    let context = match settings.mode {
        WindowMode::Windowed => clean((window + 1.0) * block),
        WindowMode::Recompute => (1..=settings.window).map(|blocks| clean(blocks as f64 * block)).sum(),
    };
    denoise + context
}

/// The best rate of a square matrix product on `device`, in operations per second.
pub fn matmul_flops_per_second(device: Device, kind: Kind) -> f64 {
    let size = if device.is_cuda() { 8192 } else { 1024 };
    let [a, b] = [(); 2].map(|()| Tensor::randn([size, size], (Kind::Float, device)).to_kind(kind));
    let best = (0..20)
        .map(|_| {
            device::synchronize(device);
            let started = Instant::now();
            let product = a.matmul(&b);
            device::synchronize(device);
            let seconds = started.elapsed().as_secs_f64();
            drop(product);
            seconds
        })
        .fold(f64::INFINITY, f64::min);
    2.0 * (size as f64).powi(3) / best
}

/// The middle value; the lower of two.
///
/// # Panics
/// If there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use acdit_model::Preset;

    use super::*;
    use crate::Sampling;

    fn settings(world_window: usize, steps: usize, mode: WindowMode) -> Settings {
        Settings { sampling: Sampling { steps, ..Sampling::default() }, window: world_window, mode, seed: 0 }
    }

    /// The figures that the paper's sizes give for XL at 256²: 73 TFLOP a block, the context apart.
    #[test]
    fn operations_agree_with_the_papers_sizes() {
        let config = Config::video(Preset::Xl, 256, 101);
        let full = block_flops(&config, &settings(3, 25, WindowMode::Recompute));
        let context = block_flops(&config, &settings(3, 0, WindowMode::Recompute));
        assert!(((full - context) / 72.7e12 - 1.0).abs() < 0.01, "{:e}", full - context);
        assert!((0.03..0.06).contains(&(context / full)), "{}", context / full);
        let windowed = block_flops(&config, &settings(3, 0, WindowMode::Windowed));
        assert!(windowed < context);
        let half = Settings {
            sampling: Sampling { guidance: 1.0, ..settings(3, 25, WindowMode::Recompute).sampling },
            ..settings(3, 25, WindowMode::Recompute)
        };
        assert!(((block_flops(&config, &half) - context) * 2.0 / (full - context) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.0);
    }

    #[test]
    fn a_matrix_product_has_a_rate() {
        let rate = matmul_flops_per_second(Device::Cpu, Kind::Float);
        assert!(rate.is_finite() && rate > 1e6, "{rate}");
    }
}
