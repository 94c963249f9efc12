//! Which device computes, and in which precision: decided at run time, by one binary.
//!
//! The binary links only `libtorch_cpu`. `libtorch_cuda` is loaded by [`cuda`] where a driver and a matching PyTorch are
//! found, and that must happen before anything asks PyTorch about CUDA: PyTorch resolves its CUDA hooks once, and a
//! question asked too early pins the answer "no". Seeding PyTorch's generator asks, too. So nothing in this project calls
//! `tch::Cuda` outside this module, and a program selects its device before anything else.

mod library;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::Serialize;
use tch::Kind;

use crate::{Error, Result};

#[cfg(feature = "cuda")]
pub(crate) use library::load_nvrtc;

/// A wish for a device: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this index; an error where there is none.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::UnknownDevice { got: text.to_owned() };
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A wish for a precision: `auto`, `f32` or `bf16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 where the hardware multiplies it, else f32.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16 weights and activations; norms, positions and the sampler stay f32.
    Bf16,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::UnknownPrecision { got: text.to_owned() }),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// Where tensors live and what they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The device.
    pub device: tch::Device,
    /// [`Kind::Float`] or [`Kind::BFloat16`].
    pub kind: Kind,
}

impl Placement {
    /// f32 on the CPU, which needs nothing.
    pub const CPU_F32: Self = Self { device: tch::Device::Cpu, kind: Kind::Float };

    /// Turns wishes into a device and a dtype.
    ///
    /// # Errors
    /// [`Error::Cuda`] if CUDA was asked for by name and cannot be used; the reason says what is missing.
    pub fn select(device: DeviceChoice, precision: Precision) -> Result<Self> {
        let device = match device {
            DeviceChoice::Cpu => tch::Device::Cpu,
            DeviceChoice::Auto if cuda().is_ok() => tch::Device::Cuda(0),
            DeviceChoice::Auto => tch::Device::Cpu,
            DeviceChoice::Cuda(index) => {
                let found = cuda()?.devices.len();
                if index >= found {
                    let reason = format!("cuda:{index} was asked for, {found} device(s) found");
                    return Err(Error::Cuda { reason });
                }
                tch::Device::Cuda(index)
            }
        };
        let kind = match precision {
            Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
            Precision::Auto if multiplies_bf16(device) => Kind::BFloat16,
            Precision::Auto => Kind::Float,
        };
        Ok(Self { device, kind })
    }
}

/// The version of libtorch in use.
pub fn libtorch_version() -> String {
    library::torch().version.unwrap_or_else(|| library::PYTORCH.to_owned())
}

/// Sets how many threads one tensor operation may use on the CPU; PyTorch's own default is the number of cores.
pub fn set_threads(threads: std::num::NonZeroU16) {
    tch::set_num_threads(i32::from(threads.get()));
}

/// Makes the allocator keep freed memory for the tensors to come, on glibc. By default it gives every large block back
/// to the kernel and faults fresh pages in for the next one, which costs a CPU more than the arithmetic of small worlds.
/// To be called once, before the first tensor; memory then stays at its peak.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers of the allocator, which takes its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Starts this program anew with a short `GOMP_SPINCOUNT`, unless it or `OMP_WAIT_POLICY` is set already; returns if so,
/// or if the program cannot be started anew.
///
/// The threads of a tensor operation meet dozens of times a millisecond. By default the first to arrive spins for
/// milliseconds, which on a machine with other work takes the core from the very thread that is waited for: a block then
/// takes ten times as long. Sleeping at once is no better: waking up costs what the second thread gains. Some ten
/// microseconds are enough for the other to arrive where there are cores for both.
/// OpenMP reads the variable when it is loaded, before `main`. To be called first of all: nothing before it survives.
pub fn spin_briefly() {
    use std::os::unix::process::CommandExt;

    const SPINS: (&str, &str) = ("GOMP_SPINCOUNT", "20000");
    if [SPINS.0, "OMP_WAIT_POLICY"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) else { return };
    let error = std::process::Command::new(program).arg0(name).args(arguments).env(SPINS.0, SPINS.1).exec();
    tracing::debug!("{} could not be set: {error}", SPINS.0);
}

/// Whether bf16 products are done in hardware: Ampere and later, or a CPU with AVX512-BF16 or AMX.
fn multiplies_bf16(device: tch::Device) -> bool {
    match device {
        tch::Device::Cuda(index) => {
            let capability = cuda().ok().and_then(|cuda| cuda.devices.get(index)?.compute_capability);
            capability.is_none_or(|(major, _)| major >= 8)
        }
        _ => cpu_flags().iter().any(|flag| flag == "avx512_bf16" || flag == "amx_bf16"),
    }
}

/// CUDA as this process found it.
#[derive(Clone, Debug, Serialize)]
pub struct Cuda {
    /// The loaded `libtorch_cuda.so`.
    pub library: PathBuf,
    /// The devices, in PyTorch's order.
    pub devices: Vec<Gpu>,
}

/// One CUDA device. What only the driver knows is missing in a build without the `cuda` feature.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: Option<String>,
    /// Major and minor.
    pub compute_capability: Option<(i32, i32)>,
    /// Its memory, in bytes.
    pub memory: Option<usize>,
}

/// Loads CUDA on the first call; every later call gives the same answer.
///
/// # Errors
/// [`Error::Cuda`] saying what is missing: the driver, a matching `libtorch_cuda.so`, or a device.
pub fn cuda() -> Result<&'static Cuda> {
    static CUDA: OnceLock<std::result::Result<Cuda, String>> = OnceLock::new();
    CUDA.get_or_init(find_cuda).as_ref().map_err(|reason| Error::Cuda { reason: reason.clone() })
}

fn find_cuda() -> std::result::Result<Cuda, String> {
    let library = library::load()?;
    if !tch::Cuda::is_available() {
        return Err(format!("{} is loaded but finds no usable device", library.display()));
    }
    let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    Ok(Cuda { library, devices: (0..count).map(describe_gpu).collect() })
}

#[cfg(feature = "cuda")]
fn describe_gpu(index: usize) -> Gpu {
    let context = cudarc::driver::CudaContext::new(index).ok();
    Gpu {
        name: context.as_ref().and_then(|context| context.name().ok()),
        compute_capability: context.as_ref().and_then(|context| context.compute_capability().ok()),
        memory: context.as_ref().and_then(|context| context.total_mem().ok()),
    }
}

#[cfg(not(feature = "cuda"))]
fn describe_gpu(_index: usize) -> Gpu {
    Gpu { name: None, compute_capability: None, memory: None }
}

/// Waits until a device has done all that was asked of it; a CPU always has.
pub(crate) fn synchronize(device: tch::Device) {
    if let (tch::Device::Cuda(index), Ok(_)) = (device, cuda()) {
        tch::Cuda::synchronize(index as i64);
    }
}

/// A device's name: `cpu`, a GPU's own, or its index where that is not known.
pub fn name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(index) => (cuda().ok())
            .and_then(|cuda| cuda.devices.get(index)?.name.clone())
            .unwrap_or_else(|| format!("cuda:{index}")),
        _ => "cpu".to_owned(),
    }
}

/// Bytes in use on a CUDA device. PyTorch keeps what it has freed, so after a run this is about the most it held.
#[cfg(feature = "cuda")]
pub fn cuda_memory_held(index: usize) -> Option<u64> {
    let (free, total) = cudarc::driver::CudaContext::new(index).ok()?.mem_get_info().ok()?;
    Some((total - free) as u64)
}

/// Not known in this build.
#[cfg(not(feature = "cuda"))]
pub fn cuda_memory_held(_index: usize) -> Option<u64> {
    None
}

/// What this machine can run on, for `doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What `auto` picks: `cpu` or `cuda:0`.
    pub device: String,
    /// What `auto` picks there: `f32` or `bf16`.
    pub dtype: &'static str,
    /// What can be asked for there.
    pub dtypes: [&'static str; 2],
    /// The processor's name.
    pub cpu: String,
    /// The instruction sets that matter to PyTorch's CPU kernels.
    pub cpu_features: Vec<String>,
    /// Threads that one tensor operation may use.
    pub threads: i32,
    /// CUDA, where it is usable.
    pub cuda: Option<Cuda>,
    /// Why CUDA is not usable.
    pub cuda_missing: Option<String>,
    /// The libraries that compute.
    pub libraries: Vec<Library>,
}

/// A shared library in use.
#[derive(Clone, Debug, Serialize)]
pub struct Library {
    /// Its name.
    pub name: &'static str,
    /// Its version, where it says one.
    pub version: Option<String>,
    /// The file it was loaded from.
    pub path: Option<PathBuf>,
}

impl Report {
    /// Looks around. Loads CUDA where it is found.
    pub fn new() -> Self {
        let placement = Placement::select(DeviceChoice::Auto, Precision::Auto).unwrap_or(Placement::CPU_F32);
        let (cuda, cuda_missing) = match cuda() {
            Ok(cuda) => (Some(cuda.clone()), None),
            Err(Error::Cuda { reason }) => (None, Some(reason)),
            Err(other) => (None, Some(other.to_string())),
        };
        let interesting = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"];
        Self {
            device: match placement.device {
                tch::Device::Cuda(index) => format!("cuda:{index}"),
                _ => "cpu".to_owned(),
            },
            dtype: if placement.kind == Kind::BFloat16 { "bf16" } else { "f32" },
            dtypes: ["f32", "bf16"],
            cpu: cpu_info("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpu_features: cpu_flags()
                .into_iter()
                .filter(|flag| interesting.contains(&flag.as_str()))
                .collect(),
            threads: tch::get_num_threads(),
            cuda,
            cuda_missing,
            libraries: vec![library::torch(), library::nvrtc()],
        }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

fn cpu_flags() -> Vec<String> {
    cpu_info("flags").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// The first value of a key in `/proc/cpuinfo`.
fn cpu_info(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_and_written_alike() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:12", DeviceChoice::Cuda(12)),
        ] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let message = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert_eq!(message, format!("unknown device {text:?}: expected auto, cpu, cuda or cuda:N"));
        }
        for text in ["auto", "f32", "bf16"] {
            assert_eq!(text.parse::<Precision>().unwrap().to_string(), text);
        }
        assert!("fp16".parse::<Precision>().is_err());
    }

    #[test]
    fn explicit_precision_is_kept() {
        let placement = Placement::select(DeviceChoice::Cpu, Precision::F32).unwrap();
        assert_eq!(placement, Placement::CPU_F32);
        assert_eq!(Placement::select(DeviceChoice::Cpu, Precision::Bf16).unwrap().kind, Kind::BFloat16);
    }

    #[test]
    fn cuda_by_name_works_or_says_why_not() {
        match (Placement::select(DeviceChoice::Cuda(0), Precision::F32), cuda()) {
            (Ok(placement), Ok(_)) => assert_eq!(placement.device, tch::Device::Cuda(0)),
            (Err(Error::Cuda { reason }), Err(_)) => assert!(!reason.is_empty()),
            (placement, cuda) => panic!("{placement:?} with {cuda:?}"),
        }
    }

    #[test]
    fn a_report_agrees_with_what_auto_picks() {
        let report = Report::new();
        assert_eq!(report.cuda.is_some(), report.device.starts_with("cuda"));
        assert_eq!(report.cuda.is_none(), report.cuda_missing.is_some());
        let torch = &report.libraries[0];
        assert!(torch.path.as_ref().is_some_and(|path| path.is_file()), "{torch:?}");
    }
}
