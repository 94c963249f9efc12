//! Source to PTX, and the state that launching needs.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule, CudaStream};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

use crate::device::load_nvrtc;
use crate::{Error, Result};

/// A kernel's source and what to call it in an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

impl Source {
    /// Compiles for a virtual architecture such as `compute_90`; `None` where NVRTC is not installed.
    pub(super) fn compile(&self, architecture: &str) -> Result<Option<Ptx>> {
        // SAFETY: looks for the library by opening it, which runs only NVIDIA's own initialisers.
        if !load_nvrtc() || !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
            return Ok(None);
        }
        let options = CompileOptions {
            options: vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()],
            ..CompileOptions::default()
        };
        compile_ptx_with_opts(self.text, options).map(Some).map_err(|error| match error {
            CompileError::CompileError { log, .. } => self.error(log.to_string_lossy()),
            other => self.error(other),
        })
    }

    /// Compiles and loads on a CUDA device, with the stream to launch on; `None` where NVRTC is not installed.
    pub(super) fn load(&self, device: usize) -> Result<Option<(Arc<CudaModule>, Arc<CudaStream>)>> {
        // SAFETY: as above, for the driver.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(self.error("no NVIDIA driver (libcuda)"));
        }
        let context = CudaContext::new(device).map_err(|error| self.error(error))?;
        let (major, minor) = context.compute_capability().map_err(|error| self.error(error))?;
        let Some(ptx) = self.compile(&format!("compute_{major}{minor}"))? else { return Ok(None) };
        let module = context.load_module(ptx).map_err(|error| self.error(error))?;
        Ok(Some((module, context.default_stream())))
    }

    pub(super) fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::Kernel { name: self.name, reason: reason.to_string() }
    }
}
