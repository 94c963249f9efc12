//! Which weights, and what is loaded of them.

use std::path::{Path, PathBuf};

use acdit_codec::vae::Vae;
use acdit_runtime::{World, WorldMeta};
use anyhow::{Context, bail};
use clap::Args;

use crate::args::{Compute, SamplingArgs};

/// The world that ships, under the folder of the checkout.
const SHIPPED: &str = "weights/gravity";

/// A world and how it is run.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorldArgs {
    /// A weights folder [default: the shipped weights/gravity]
    #[arg(long, value_name = "DIR", help_heading = "Sampling")]
    weights: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    compute: Compute,
}

/// A weights folder, loaded.
pub(crate) struct Loaded {
    pub(crate) folder: PathBuf,
    pub(crate) world: World,
    pub(crate) vae: Vae,
}

impl WorldArgs {
    /// Whether a weights folder was named.
    pub(crate) fn are_named(&self) -> bool {
        self.weights.is_some()
    }

    pub(crate) fn load(&self) -> anyhow::Result<Loaded> {
        let folder = self.weights.clone().map_or_else(shipped, Ok)?;
        if !folder.is_dir() {
            bail!("{}: no such folder (a weights folder is expected)", folder.display());
        }
        load(folder, self.compute)
    }
}

pub(crate) fn load(folder: PathBuf, compute: Compute) -> anyhow::Result<Loaded> {
    let placement = compute.placement()?;
    let world = World::load(&folder, placement.device, placement.kind)?;
    compute.threads.set_for(&world);
    let vae = Vae::load(&folder.join("vae"), placement.device, placement.kind)?;
    Ok(Loaded { folder, world, vae })
}

/// The weights that came with the program: above its own folder, as in a checkout, or in the current folder.
pub(crate) fn shipped() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().and_then(std::fs::canonicalize).context("where this program is")?;
    let current = std::env::current_dir().context("the current folder")?;
    let mut folders = program.ancestors().skip(1).chain([current.as_path()]);
    folders.find_map(|folder| Some(folder.join(SHIPPED)).filter(|weights| weights.is_dir())).with_context(
        || {
            format!(
                "no {SHIPPED} above {} or in the current folder: name a folder by --weights",
                parent(&program)
            )
        },
    )
}

fn parent(path: &Path) -> std::path::Display<'_> {
    path.parent().unwrap_or(path).display()
}

/// Labels by name; the first one if none is named.
pub(crate) fn labels(meta: &WorldMeta, names: &[String]) -> acdit_runtime::Result<Vec<i64>> {
    match names {
        [] => Ok(vec![0]),
        names => names.iter().map(|name| meta.label(name)).collect(),
    }
}
