//! RMSNorm and adaLN modulation in one pass over memory.
//!
//! Every layer does this twice. Eagerly it is eight element-wise passes over the activations, each of which reads and
//! writes all of them; fused it is one read and one write.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// What RMSNorm and modulation read.
///
/// # Shapes
/// G groups of R tokens share a modulation: a group is one block of one sequence. All tensors have one dtype, f32 or
/// bf16, and live on one device.
#[derive(Clone, Copy, Debug)]
pub struct NormModulateInput<'a> {
    /// (G, R, D).
    pub x: &'a Tensor,
    /// (D): the norm's learned scale.
    pub weight: &'a Tensor,
    /// (G, D): added after scaling; may be a slice of a wider projection.
    pub shift: &'a Tensor,
    /// (G, D): one is added to it; strided as `shift` is.
    pub scale: &'a Tensor,
    /// Added to the mean square.
    pub eps: f64,
}

impl NormModulateInput<'_> {
    /// G, R and D, once every tensor is known to agree with them.
    fn sizes(&self) -> Result<(i64, i64, i64)> {
        let (groups, tokens, width) = self.x.size3()?;
        let expected = [
            ("weight", self.weight, vec![width]),
            ("shift", self.shift, vec![groups, width]),
            ("scale", self.scale, vec![groups, width]),
        ];
        for (name, tensor, size) in expected {
            let kind = (tensor.kind(), tensor.device());
            if tensor.size() != size || kind != (self.x.kind(), self.x.device()) {
                let reason = format!(
                    "{name}: expected {size:?} {:?} on {:?}, got {:?} {:?} on {:?}",
                    self.x.kind(),
                    self.x.device(),
                    tensor.size(),
                    kind.0,
                    kind.1
                );
                return Err(Error::Kernel { name: NAME, reason });
            }
        }
        Ok((groups, tokens, width))
    }
}

const NAME: &str = "norm_modulate";

/// The eager twin: `x / sqrt(mean(x²) + eps) · weight · (1 + scale) + shift`, f32 inside, x's dtype outside.
///
/// # Errors
/// [`Error::Kernel`] if the shapes, dtypes or devices disagree.
pub fn norm_modulate(input: &NormModulateInput<'_>) -> Result<Tensor> {
    input.sizes()?;
    let x = input.x.to_kind(Kind::Float);
    let mean_square = x.square().mean_dim(-1, true, Kind::Float); // (G, R, 1)
    let normed = &x * (mean_square + input.eps).rsqrt() * input.weight.to_kind(Kind::Float);
    let [scale, shift] = [input.scale, input.shift].map(|t| t.to_kind(Kind::Float).unsqueeze(1)); // (G, 1, D)
    Ok((normed * (scale + 1.0) + shift).to_kind(input.x.kind()))
}

/// The fused kernel where there is a CUDA device and a compiler for it, the eager twin elsewhere.
///
/// Both are for inference: neither the kernel nor its twin is meant to be differentiated.
#[derive(Debug, Default)]
pub struct NormModulate {
    #[cfg(feature = "cuda")]
    fused: Option<fused::Kernel>,
}

impl NormModulate {
    /// Picks the implementation for a device, compiling the kernel if it is a CUDA one.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel does not compile or load.
    pub fn load(device: tch::Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let tch::Device::Cuda(index) = device {
            let fused = fused::Kernel::load(index)?;
            if fused.is_none() {
                tracing::warn!("libnvrtc is not installed: RMSNorm and modulate run unfused");
            }
            return Ok(Self { fused });
        }
        let _ = device;
        Ok(Self::default())
    }

    /// Whether the fused kernel runs.
    pub fn is_fused(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.fused.is_some();
        #[cfg(not(feature = "cuda"))]
        return false;
    }

    /// Normalises and modulates; returns (G, R, D) in x's dtype.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the shapes, dtypes or devices disagree, or the launch is refused.
    pub fn forward(&self, input: &NormModulateInput<'_>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(kernel) = &self.fused {
            return kernel.launch(input);
        }
        norm_modulate(input)
    }
}

impl acdit_model::NormModulate for NormModulate {
    /// A launch that is refused is reported once per call and done eagerly: a slow block beats a lost one.
    fn norm_modulate(&self, xs: &Tensor, weight: &Tensor, shift: &Tensor, scale: &Tensor, epsilon: f64) -> Tensor {
        if !self.is_fused() {
            return acdit_model::Eager.norm_modulate(xs, weight, shift, scale, epsilon);
        }
        let x = xs.flatten(0, 1); // (N·T, B, D)
        let flat = |part: &Tensor| part.flatten(0, 2); // (N·T, D)
        let (shift_rows, scale_rows) = (flat(shift), flat(scale));
        let weight_row = weight.to_kind(xs.kind());
        let input =
            NormModulateInput { x: &x, weight: &weight_row, shift: &shift_rows, scale: &scale_rows, eps: epsilon };
        match self.forward(&input) {
            Ok(y) => y.view_as(xs),
            Err(error) => {
                tracing::error!("{error}");
                acdit_model::Eager.norm_modulate(xs, weight, shift, scale, epsilon)
            }
        }
    }
}

#[cfg(feature = "cuda")]
mod fused {
    use std::sync::Arc;

    use cudarc::driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
    use tch::{Kind, Tensor};

    use super::NormModulateInput;
    use crate::Result;
    use crate::kernels::compile::Source;

    pub(super) const SOURCE: Source = Source { name: super::NAME, text: include_str!("norm_modulate.cu") };

    /// Threads per row: enough to fill a multiprocessor with eight rows at every preset's width.
    const THREADS: u32 = 256;

    #[derive(Debug)]
    pub(super) struct Kernel {
        f32: CudaFunction,
        bf16: CudaFunction,
        stream: Arc<CudaStream>,
    }

    impl Kernel {
        pub(super) fn load(device: usize) -> Result<Option<Self>> {
            let Some((module, stream)) = SOURCE.load(device)? else { return Ok(None) };
            let function = |name| module.load_function(name).map_err(|error| SOURCE.error(error));
            Ok(Some(Self {
                f32: function("norm_modulate_f32")?,
                bf16: function("norm_modulate_bf16")?,
                stream,
            }))
        }

        pub(super) fn launch(&self, input: &NormModulateInput<'_>) -> Result<Tensor> {
            let (groups, tokens, width) = input.sizes()?;
            let function = match input.x.kind() {
                Kind::Float => &self.f32,
                Kind::BFloat16 => &self.bf16,
                other => return Err(SOURCE.error(format_args!("dtype {other:?}: expected f32 or bf16"))),
            };
            let x = input.x.contiguous();
            let weight = input.weight.contiguous();
            let (shift, scale) = match (input.shift.stride().as_slice(), input.scale.stride().as_slice()) {
                ([shift, 1], [scale, 1]) if shift == scale => {
                    (input.shift.shallow_clone(), input.scale.shallow_clone())
                }
                _ => (input.shift.contiguous(), input.scale.contiguous()),
            };
            let y = x.empty_like();

            let too_large = || SOURCE.error(format_args!("x {:?} is too large for one launch", x.size()));
            let rows = u32::try_from(groups * tokens).map_err(|_| too_large())?;
            let width = i32::try_from(width).map_err(|_| too_large())?;
            let modulation_stride = shift.stride()[0];
            let eps = input.eps as f32;
            let pointers = [&x, &weight, &shift, &scale, &y].map(|tensor| tensor.data_ptr() as u64);
            if rows == 0 {
                return Ok(y);
            }
            let mut launch = self.stream.launch_builder(function);
            for pointer in &pointers {
                launch.arg(pointer);
            }
            launch.arg(&width).arg(&tokens).arg(&modulation_stride).arg(&eps);
            let config =
                LaunchConfig { grid_dim: (rows, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
            // SAFETY: the arguments are those of the kernel, in order. Each pointer is to the start of a tensor on this
            // device with at least the elements that the sizes above make the kernel touch; `y` is fresh, so nothing
            // aliases it. PyTorch reuses freed memory only for later work on this same stream.
            unsafe { launch.launch(config) }.map_err(|error| SOURCE.error(error))?;
            Ok(y)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input<'a>(tensors: &'a [Tensor; 4], eps: f64) -> NormModulateInput<'a> {
        let [x, weight, shift, scale] = tensors;
        NormModulateInput { x, weight, shift, scale, eps }
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    /// Root mean squares 5/√2·√2 = 5 and 1, so every product is exact.
    #[test]
    fn the_eager_twin_gives_literal_values() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let tensors = [
                Tensor::from_slice(&[7f32, -1.0, 1.0, 1.0]).view([2, 1, 2]),
                Tensor::from_slice(&[1f32, 2.0]),
                Tensor::from_slice(&[0f32, 0.5, -1.0, 0.0]).view([2, 2]),
                Tensor::from_slice(&[0f32, 1.0, 0.5, -1.0]).view([2, 2]),
            ]
            .map(|tensor| tensor.to_kind(kind));
            let y = norm_modulate(&input(&tensors, 0.0)).unwrap();
            assert_eq!((y.size(), y.kind()), (vec![2, 1, 2], kind));
            let expected = [1.4, -0.2 * 2.0 * 2.0 + 0.5, 1.5 - 1.0, 0.0];
            let tolerance = if kind == Kind::Float { 1e-6 } else { 5e-3 };
            for (got, want) in values(&y).iter().zip(expected) {
                assert!((got - want).abs() < tolerance, "{kind:?}: {got} for {want}");
            }
        }
    }

    #[test]
    fn eps_bounds_the_gain_of_silence() {
        let tensors = [
            Tensor::zeros([1, 1, 4], (Kind::Float, tch::Device::Cpu)),
            Tensor::ones([4], (Kind::Float, tch::Device::Cpu)),
            Tensor::full([1, 4], 0.25, (Kind::Float, tch::Device::Cpu)),
            Tensor::zeros([1, 4], (Kind::Float, tch::Device::Cpu)),
        ];
        assert_eq!(values(&norm_modulate(&input(&tensors, 1e-6)).unwrap()), [0.25; 4]);
    }

    #[test]
    fn shapes_that_disagree_are_named() {
        let cpu = (Kind::Float, tch::Device::Cpu);
        let tensors =
            [vec![2, 3, 8], vec![8], vec![2, 8], vec![1, 8]].map(|size| Tensor::zeros(size.as_slice(), cpu));
        let message = norm_modulate(&input(&tensors, 1e-6)).unwrap_err().to_string();
        assert!(message.contains("scale: expected [2, 8]"), "{message}");
        assert!(message.contains("got [1, 8]"), "{message}");
    }

    #[test]
    fn a_cpu_runs_the_twin() {
        assert!(!NormModulate::load(tch::Device::Cpu).unwrap().is_fused());
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn the_kernel_compiles_without_a_gpu() {
        match fused::SOURCE.compile("compute_90").unwrap() {
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

    /// Wide and narrow rows, strided modulation: the kernel against its twin.
    #[test]
    fn the_kernel_equals_its_twin_on_a_gpu() {
        let Ok(cuda) = crate::device::cuda() else {
            println!("skipped: no CUDA device");
            return;
        };
        let device = tch::Device::Cuda(0);
        let kernel = NormModulate::load(device).unwrap();
        if !kernel.is_fused() {
            println!("skipped: {} without libnvrtc", cuda.library.display());
            return;
        }
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
            for (groups, tokens, width) in [(1, 1, 8), (2, 1024, 1152), (3, 7, 1001)] {
                let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, device)).to_kind(kind);
                let (x, weight) = (random(&[groups, tokens, width]), random(&[width]));
                let both = random(&[groups, 2 * width]);
                let [shift, scale] = [0, 1].map(|part| both.narrow(1, part * width, width));
                let input =
                    NormModulateInput { x: &x, weight: &weight, shift: &shift, scale: &scale, eps: 1e-6 };
                let (fused, eager) = (kernel.forward(&input).unwrap(), norm_modulate(&input).unwrap());
                let error =
                    (fused - &eager).abs().max().double_value(&[]) / eager.abs().max().double_value(&[]);
                assert!(error < tolerance, "{kind:?} {groups}x{tokens}x{width}: {error}");
            }
        }
    }
}
