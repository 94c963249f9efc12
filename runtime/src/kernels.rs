//! GPU kernels of our own, each with an eager twin.
//!
//! The kernels are CUDA C++ compiled by NVRTC when the weights are loaded, so building needs no CUDA. They run on the
//! legacy default stream, which is PyTorch's own: a launch is ordered with the tensor operations around it, and reads
//! and writes tensors in place. The twin says in ATen operations what the kernel computes; it is what runs on a CPU,
//! and what the kernel is checked against.

#[cfg(feature = "cuda")]
mod compile;
mod norm_modulate;

pub use norm_modulate::{NormModulate, NormModulateInput, norm_modulate};
