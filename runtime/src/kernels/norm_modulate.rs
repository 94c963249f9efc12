//! RMSNorm and adaLN modulation in one pass over memory.
//!
//! Every layer does this twice. Eagerly it is eight element-wise passes over the activations, each of which reads and
//! writes all of them; fused it is one read and one write. The eager twin is [`acdit_model::Eager`].

use std::sync::Arc;

use acdit_model::{Eager, NormModulate};
use cudarc::driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use tch::{Kind, Tensor};

use super::compile::Source;
use crate::Result;

const SOURCE: Source = Source { name: "norm_modulate", text: include_str!("norm_modulate.cu") };

/// Threads per row: eight rows fill a multiprocessor, and every preset's width is several elements to a thread.
const THREADS: u32 = 256;

/// The kernel, loaded on one device.
#[derive(Debug)]
pub(super) struct Fused {
    f32: CudaFunction,
    bf16: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Fused {
    /// Compiles and loads; `None` where NVRTC is not installed.
    pub(super) fn load(device: usize) -> Result<Option<Self>> {
        let Some((module, stream)) = SOURCE.load(device)? else { return Ok(None) };
        let function = |name| module.load_function(name).map_err(|error| SOURCE.error(error));
        let (f32, bf16) = (function("norm_modulate_f32")?, function("norm_modulate_bf16")?);
        Ok(Some(Self { f32, bf16, stream }))
    }

    /// Shapes as in [`NormModulate`]: `xs` (N, T, B, D), `weight` (D), `shift` and `scale` (N, T, 1, D), which may be
    /// slices of one projection. All of one dtype, f32 or bf16.
    fn launch(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
        eps: f64,
    ) -> Result<Tensor> {
        let (n, t, tokens, width) = xs.size4()?;
        let fits =
            weight.size() == [width] && [shift, scale].iter().all(|part| part.size() == [n, t, 1, width]);
        let function = match xs.kind() {
            Kind::Float => &self.f32,
            Kind::BFloat16 => &self.bf16,
            other => return Err(SOURCE.error(format_args!("dtype {other:?}: expected f32 or bf16"))),
        };
        if !fits
            || [weight, shift, scale]
                .iter()
                .any(|part| part.kind() != xs.kind() || part.device() != xs.device())
        {
            let sizes = [xs, weight, shift, scale].map(Tensor::size);
            return Err(SOURCE.error(format_args!("x, weight, shift and scale disagree: {sizes:?}")));
        }
        let too_large = || SOURCE.error(format_args!("x {:?} is too large for one launch", xs.size()));
        let rows = u32::try_from(n * t * tokens).map_err(|_| too_large())?;
        let columns = i32::try_from(width).map_err(|_| too_large())?;

        let (x, weight) = (xs.contiguous(), weight.contiguous());
        let [shift, scale] = [shift, scale].map(|part| part.flatten(0, 2)); // (N·T, D), a view where it can be one
        let (shift, scale) = match (shift.stride().as_slice(), scale.stride().as_slice()) {
            ([between, 1], [same, 1]) if between == same => (shift, scale),
            _ => (shift.contiguous(), scale.contiguous()),
        };
        let between = shift.stride()[0];
        let y = x.empty_like();
        if rows == 0 {
            return Ok(y);
        }
        let pointers = [&x, &weight, &shift, &scale, &y].map(|tensor| tensor.data_ptr() as u64);
        let eps = eps as f32;
        let mut launch = self.stream.launch_builder(function);
        for pointer in &pointers {
            launch.arg(pointer);
        }
        launch.arg(&columns).arg(&tokens).arg(&between).arg(&eps);
        let config = LaunchConfig { grid_dim: (rows, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those of the kernel, in order. Each pointer is to the start of a tensor on this
        // device with at least the elements that the sizes above make the kernel touch; `y` is fresh, so nothing
        // aliases it. PyTorch reuses freed memory only for later work on this same stream.
        unsafe { launch.launch(config) }.map_err(|error| SOURCE.error(error))?;
        Ok(y)
    }
}

impl NormModulate for Fused {
    /// A launch that is refused is reported and done eagerly: a slow block beats a lost one.
    fn norm_modulate(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
        epsilon: f64,
    ) -> Tensor {
        self.launch(xs, weight, shift, scale, epsilon).unwrap_or_else(|error| {
            tracing::error!("{error}");
            Eager.norm_modulate(xs, weight, shift, scale, epsilon)
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_kernel_compiles_without_a_gpu() {
        match SOURCE.compile("compute_90").unwrap() {
            Some(ptx) => {
                let text = ptx.to_src();
                assert!(text.contains(".target sm_90"), "{text}");
                for entry in ["norm_modulate_f32", "norm_modulate_bf16"] {
                    assert!(text.contains(&format!(".entry {entry}(")), "{entry} is missing");
                }
            }
            None => println!("skipped: libnvrtc.so.13 is not installed"),
        }
    }

    /// Wide, narrow and odd rows, modulation cut from one projection: the kernel against its twin.
    #[test]
    fn the_kernel_equals_its_twin_on_a_gpu() {
        if crate::device::cuda().is_err() {
            println!("skipped: no CUDA device");
            return;
        }
        let Some(kernel) = Fused::load(0).unwrap() else {
            println!("skipped: libnvrtc.so.13 is not installed");
            return;
        };
        let device = Device::Cuda(0);
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            for (n, t, tokens, width) in [(1, 1, 1, 8), (2, 1, 1024, 1152), (2, 3, 7, 1001)] {
                let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, device)).to_kind(kind);
                let (xs, weight) = (random(&[n, t, tokens, width]), random(&[width]));
                let parts = random(&[n, t, 1, 6 * width]).chunk(6, -1);
                let (shift, scale) = (&parts[3], &parts[4]);
                let fused = kernel.launch(&xs, &weight, shift, scale, 1e-6).unwrap();
                let eager = Eager.norm_modulate(&xs, &weight, shift, scale, 1e-6);
                let error =
                    (fused - &eager).abs().max().double_value(&[]) / eager.abs().max().double_value(&[]);
                assert!(error < tolerance, "{kind:?} {n}x{t}x{tokens}x{width}: {error}");
            }
        }
    }
}
