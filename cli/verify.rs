//! `verify`: the same numbers as the published code and as diffusers, on this machine, in this precision.

mod autoencoder;
mod network;

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use acdit_runtime::device::{DeviceChoice, Placement, Precision, set_threads};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::failure::Failed;
use crate::output::Output;

/// Compare networks, samplers and autoencoders with golden tensors
///
/// Checks every NAME.model.safetensors with its NAME.golden.safetensors, and every folder vae-*. The error of a tensor is
/// max|a - b| / max|b|. Exit status 1 if one exceeds its tolerance.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Folder of golden files
    #[arg(long, value_name = "DIR")]
    golden: PathBuf,
    /// auto, cpu, cuda or cuda:N; auto is the first GPU, else the CPU
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// f32 or bf16
    #[arg(long, default_value_t = Precision::F32)]
    dtype: Precision,
}

/// What was compared.
#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
}

/// One tensor.
#[derive(Debug, Serialize)]
struct Check {
    /// File or folder it belongs to, relative to the folder of golden files.
    file: String,
    tensor: String,
    /// max|a − b| / max|b|; null in JSON if it is not a number.
    error: f64,
    tolerance: f64,
    ok: bool,
}

impl Verify {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        let placement = Placement::select(self.device, self.dtype)?;
        // Golden networks are small: more threads would only wait for one another.
        set_threads(NonZeroU16::MIN);
        let report = verify(&self.golden, &placement)?;
        output.print(&report, || report.table())?;
        let failed = report.checks.iter().filter(|check| !check.ok).count();
        if failed > 0 {
            return Err(Failed(format!(
                "{failed} of {} tensors exceed their tolerance",
                report.checks.len()
            ))
            .into());
        }
        Ok(())
    }
}

/// How far results may be off, by what they are.
struct Tolerances {
    forward: f64,
    autoencoder: f64,
    table: f64,
    /// `None`: a sampler amplifies rounding too much to be compared.
    sampler: Option<f64>,
}

impl Tolerances {
    fn of(placement: &Placement) -> Self {
        match (placement.kind, placement.device) {
            (Kind::Float, Device::Cpu) => {
                Self { forward: 1e-4, autoencoder: 1e-4, table: 1e-5, sampler: Some(1e-3) }
            }
            (Kind::Float, _) => Self { forward: 1e-3, autoencoder: 1e-3, table: 1e-5, sampler: Some(1e-3) },
            _ => Self { forward: 3e-2, autoencoder: 5e-2, table: 1e-5, sampler: None },
        }
    }
}

fn verify(dir: &Path, placement: &Placement) -> Result<Report> {
    let tolerances = Tolerances::of(placement);
    let mut checks = Vec::new();
    for case in cases(dir)? {
        let mut subject = Subject { file: case.name(dir), checks: Vec::new() };
        let checked = match &case {
            Case::Network { model, golden } => {
                network::check(model, golden, placement, &tolerances, &mut subject)
            }
            Case::Autoencoder(folder) => {
                autoencoder::check(folder, placement, tolerances.autoencoder, &mut subject)
            }
        };
        checked.with_context(|| subject.file.clone())?;
        checks.extend(subject.checks);
    }
    Ok(Report { checks })
}

/// Something with golden tensors.
enum Case {
    Network { model: PathBuf, golden: PathBuf },
    Autoencoder(PathBuf),
}

impl Case {
    /// Where the golden tensors are, relative to `dir`.
    fn name(&self, dir: &Path) -> String {
        let path = match self {
            Self::Network { golden, .. } => golden,
            Self::Autoencoder(folder) => folder,
        };
        path.strip_prefix(dir).unwrap_or(path).display().to_string()
    }
}

/// What `dir` holds, in order of name.
fn cases(dir: &Path) -> Result<Vec<Case>> {
    let unreadable = || format!("cannot read the golden folder {}", dir.display());
    let entries = std::fs::read_dir(dir).with_context(unreadable)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(unreadable)?;
    paths.sort();

    let mut cases = Vec::new();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(stem) = name.strip_suffix(".golden.safetensors") {
            let model = dir.join(format!("{stem}.model.safetensors"));
            ensure!(model.is_file(), "{} has no {stem}.model.safetensors beside it", path.display());
            cases.push(Case::Network { model, golden: path });
        } else if name.starts_with("vae-") && path.is_dir() {
            ensure!(
                path.join("golden.safetensors").is_file(),
                "{} has no golden.safetensors",
                path.display()
            );
            cases.push(Case::Autoencoder(path));
        }
    }
    if cases.is_empty() {
        bail!("{} holds neither NAME.golden.safetensors nor vae-* folders", dir.display());
    }
    Ok(cases)
}

/// The checks of one case, as they accumulate.
struct Subject {
    file: String,
    checks: Vec<Check>,
}

impl Subject {
    /// Records how far `got` is from `expected`.
    ///
    /// # Errors
    /// If their shapes differ: the golden file then belongs to something else.
    fn compare(&mut self, tensor: &str, got: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
        ensure!(
            got.size() == expected.size(),
            "{tensor}: expected shape {:?}, got {:?}",
            expected.size(),
            got.size()
        );
        let [got, expected] = [got, expected].map(|t| t.to_device(Device::Cpu).to_kind(Kind::Double));
        let largest = |t: &Tensor| t.abs().max().double_value(&[]);
        // `max` of an empty tensor does not exist, and a tensor of zeros has no scale.
        let error = match expected.numel() {
            0 => 0.0,
            _ => largest(&(got - &expected)) / largest(&expected).max(f64::MIN_POSITIVE),
        };
        let ok = error <= tolerance;
        self.checks.push(Check { file: self.file.clone(), tensor: tensor.into(), error, tolerance, ok });
        Ok(())
    }
}

impl Report {
    fn table(&self) -> String {
        let widest = |text: fn(&Check) -> &str| self.checks.iter().map(|c| text(c).len()).max().unwrap_or(0);
        let (files, tensors) = (widest(|c| &c.file), widest(|c| &c.tensor));
        let lines = self.checks.iter().map(|Check { file, tensor, error, tolerance, ok }| {
            let verdict = if *ok { "ok" } else { "FAILED" };
            format!("{file:files$}  {tensor:tensors$}  {error:.1e} of {tolerance:.0e}  {verdict}")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
