//! A tiny world, in memory and in a folder that is made once.

use std::cell::OnceCell;
use std::path::Path;

use acdit_codec::vae::{self, Vae, tiny};
use acdit_model::diffusion::{Prediction, SchedulerConfig, SolverKind};
use acdit_model::{Acdit, Config, Preset};
use acdit_runtime::{Label, Sampling, World, WorldFolder, WorldMeta};
use tch::{Device, Kind, Tensor, nn};
use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<(TempDir, World)> = const { OnceCell::new() };
}

/// Blocks of two frames of 8×8 pixels, latents of 4×4, a window of two blocks, two labels.
fn config() -> Config {
    Config {
        hidden_size: 16,
        num_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 16,
        num_classes: 2,
        sample_height: 4,
        sample_width: 4,
        sample_frames: 6,
        frames_per_block: 2,
        nd_split: vec![2, 3, 3],
        axis_lengths: vec![6, 2, 2],
        context_window: Some(2),
        ..Config::video(Preset::B, 32, 2)
    }
}

/// Calls `f` with the world and the folder that it was loaded from.
pub(super) fn with_world<T>(f: impl FnOnce(&World, &Path) -> T) -> T {
    FOLDER.with(|cell| {
        let (folder, world) = cell.get_or_init(|| {
            tch::set_num_threads(1);
            let folder = tempfile::tempdir().unwrap();
            write(folder.path());
            let world = World::load(folder.path(), Device::Cpu, Kind::Float).unwrap();
            (folder, world)
        });
        f(world, folder.path())
    })
}

fn write(folder: &Path) {
    let vae = folder.join("vae");
    let narrow = tiny::Config {
        encoder_block_out_channels: vec![2; 2],
        decoder_block_out_channels: vec![2; 2],
        num_encoder_blocks: vec![0, 1],
        num_decoder_blocks: vec![1, 0],
        ..tiny::Config::default()
    };
    tch::manual_seed(1);
    let vs = nn::VarStore::new(Device::Cpu);
    tiny::AutoencoderTiny::new(&vs.root(), &narrow);
    Vae::save(&vae, &vae::Config::AutoencoderTiny(narrow), &vs, Kind::Float).unwrap();

    let vs = nn::VarStore::new(Device::Cpu);
    Acdit::new(&vs.root(), &config(), Kind::Float).unwrap();
    let meta = WorldMeta {
        name: "tiny".into(),
        labels: ["still", "left"].map(|name| Label { name: name.into(), key: None }).into(),
        fps: 8.0,
        sampling: Sampling { steps: 1, guidance: 1.0, solver: SolverKind::Ddim, guided: 1.0 },
    };
    let prompts = Tensor::zeros([1, 2, 4, 4, 4], (Kind::Float, Device::Cpu));
    WorldFolder {
        config: &config(),
        tensors: &vs.variables().into_iter().collect(),
        kind: Kind::Float,
        scheduler: &SchedulerConfig::paper(Prediction::V),
        prompts: Some(&prompts),
        meta: &meta,
        vae: Some(&vae),
    }
    .write(folder)
    .unwrap();
}
