//! `doctor`: what this machine can compute on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use acdit_runtime::device::Report;
use serde::Serialize;

use crate::output::Output;
use crate::world;

#[derive(Debug, Serialize)]
struct Findings {
    #[serde(flatten)]
    report: Report,
    versions: BTreeMap<&'static str, String>,
    /// The shipped weights, if they are found.
    weights: Option<std::path::PathBuf>,
    #[cfg(feature = "video")]
    uploads: Sandbox,
}

/// What confines the decoder of uploads.
#[cfg(feature = "video")]
#[derive(Debug, Serialize)]
struct Sandbox {
    /// Whether that is enough to decode them.
    suffices: bool,
    #[serde(flatten)]
    layers: Option<acdit_sandbox::Layers>,
    /// Why no process could be confined.
    problem: Option<String>,
}

#[cfg(feature = "video")]
impl Sandbox {
    fn found() -> Self {
        match crate::uploads::layers() {
            Ok(layers) => Self { suffices: layers.suffice(), layers: Some(layers), problem: None },
            Err(problem) => Self { suffices: false, layers: None, problem: Some(problem) },
        }
    }

    fn text(&self) -> String {
        let found = self.layers.map(|layers| layers.to_string()).or(self.problem.clone()).unwrap_or_default();
        if self.suffices {
            format!("confined: {found}")
        } else {
            format!("refused, as no sandbox is here: {found}")
        }
    }
}

pub(crate) fn run(output: Output) -> anyhow::Result<()> {
    let report = Report::new();
    let mut versions = BTreeMap::from([("acdit-world", env!("CARGO_PKG_VERSION").to_owned())]);
    versions
        .extend(report.libraries.iter().filter_map(|library| Some((library.name, library.version.clone()?))));
    #[cfg(feature = "video")]
    versions.extend(acdit_codec::video::libraries());
    let findings = Findings {
        report,
        versions,
        weights: world::shipped().ok(),
        #[cfg(feature = "video")]
        uploads: Sandbox::found(),
    };
    output.print(&findings, || findings.text())
}

impl Findings {
    fn text(&self) -> String {
        let Self { report, versions, weights, .. } = self;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:14}{value}");
        };
        line("device", format!("{} ({}), from {}", report.device, report.dtype, report.dtypes.join(" and ")));
        line("cpu", format!("{}, {} threads, {}", report.cpu, report.threads, report.cpu_features.join(" ")));
        match (&report.cuda, &report.cuda_missing) {
            (Some(cuda), _) => {
                line("cuda", cuda.library.display().to_string());
                for gpu in &cuda.devices {
                    let name = gpu.name.as_deref().unwrap_or("a GPU");
                    let memory = gpu.memory.map_or(String::new(), |bytes| format!(", {} MiB", bytes >> 20));
                    line("gpu", format!("{name}{memory}"));
                }
            }
            (None, reason) => line("cuda", format!("no: {}", reason.as_deref().unwrap_or("not found"))),
        }
        for library in &report.libraries {
            let path =
                library.path.as_ref().map_or("not found".to_owned(), |path| path.display().to_string());
            line(
                library.name,
                format!("{} {path}", library.version.as_deref().unwrap_or("")).trim().to_owned(),
            );
        }
        let beside = versions.iter().filter(|(name, _)| report.libraries.iter().all(|l| l.name != **name));
        for (name, version) in beside {
            line(name, version.clone());
        }
        let missing = || "not found".to_owned();
        line("weights", weights.as_ref().map_or_else(missing, |weights| weights.display().to_string()));
        #[cfg(feature = "video")]
        line("uploads", self.uploads.text());
        text.truncate(text.trim_end().len());
        text
    }
}
