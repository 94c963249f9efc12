//! GPU kernels of our own, each with an eager twin.
//!
//! The kernels are CUDA C++ compiled by NVRTC when the weights are loaded, so building needs no CUDA. They run on the
//! legacy default stream, which is PyTorch's own: a launch is ordered with the tensor operations around it, and reads
//! and writes tensors in place. The twin says in ATen operations what the kernel computes; it is what runs on a CPU, in
//! training, and where NVRTC is missing, and it is what the kernel is checked against.

#[cfg(feature = "cuda")]
mod compile;
#[cfg(feature = "cuda")]
mod norm_modulate;

use acdit_model::{Eager, NormModulate};

use crate::Result;

/// RMSNorm with adaLN modulation for inference on `device`: the fused kernel where it can be compiled, else its twin,
/// [`Eager`].
///
/// # Errors
/// [`Error::Kernel`](crate::Error::Kernel) if the kernel does not compile or load.
pub fn norm_modulate(device: tch::Device) -> Result<Box<dyn NormModulate>> {
    #[cfg(feature = "cuda")]
    if let tch::Device::Cuda(index) = device {
        match norm_modulate::Fused::load(index)? {
            Some(fused) => return Ok(Box::new(fused)),
            None => tracing::warn!("libnvrtc is not installed: RMSNorm and modulation run unfused"),
        }
    }
    let _ = device;
    Ok(Box::new(Eager))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Root mean squares are 5 and 1. A group of two tokens shares its shift and scale.
    #[test]
    fn the_eager_twin_gives_literal_values() {
        let twin = norm_modulate(Device::Cpu).unwrap();
        for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 2e-2)] {
            let tensor = |values: &[f32], size: &[i64]| Tensor::from_slice(values).view(size).to_kind(kind);
            let xs = tensor(&[7.0, -1.0, 1.0, 1.0, 5.0, 5.0, -7.0, 1.0], &[1, 2, 2, 2]);
            let weight = tensor(&[1.0, 2.0], &[2]);
            let shift = tensor(&[0.0, 0.5, -1.0, 0.0], &[1, 2, 1, 2]);
            let scale = tensor(&[0.0, 1.0, 0.5, -1.0], &[1, 2, 1, 2]);
            let y = twin.norm_modulate(&xs, &weight, &shift, &scale, 0.0);
            assert_eq!((y.size(), y.kind()), (xs.size(), kind));
            let got = Vec::<f64>::try_from(y.to_kind(Kind::Double).flatten(0, -1)).unwrap();
            let expected = [1.4, -0.3, 1.0, 4.5, 0.5, 0.0, -3.1, 0.0];
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < tolerance, "{kind:?}: {got} for {expected}");
            }
        }
    }
}
