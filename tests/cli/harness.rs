//! A folder to work in, a tiny world of random weights in it, and the binary.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use acdit_codec::vae::{self, Vae, tiny};
use acdit_model::diffusion::{Prediction, SchedulerConfig, SolverKind};
use acdit_model::{Acdit, Config, Preset};
use acdit_runtime::{Label, Sampling, WorldFolder, WorldMeta};
use tch::{Device, Kind, nn};
use tempfile::TempDir;

/// Frames per second of the tiny world.
pub(crate) const FPS: f64 = 8.0;
/// Side of its frames, in pixels.
pub(crate) const SIDE: u32 = 16;

pub(crate) struct Folder(TempDir);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The one JSON object on stdout of a command that succeeded.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        let value: serde_json::Value = serde_json::from_str(&self.stdout).expect("one JSON value");
        assert!(value.is_object() && self.stdout.trim_end().lines().count() == 1, "{self:?}");
        value
    }
}

impl Folder {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with the tiny video world in `world/`.
    pub(crate) fn with_world() -> Self {
        Self::with_world_of(&["still", "left", "right"])
    }

    /// A folder with a tiny video world of these labels in `world/`.
    pub(crate) fn with_world_of(labels: &[&str]) -> Self {
        let folder = Self::empty();
        let config = Config { num_classes: labels.len() as i64, ..video() };
        write_world(&folder.path("world"), &config, labels);
        folder
    }

    /// A folder with a tiny video world in `world/` that heeds labels, frames and numbers' formats. Others are as before
    /// training, when a network says nothing at all.
    pub(crate) fn with_lively_world() -> Self {
        let folder = Self::empty();
        write_world_from(&folder.path("world"), &video(), &["still", "left", "right"], |parameters| {
            tch::manual_seed(2);
            for parameter in parameters.trainable_variables() {
                let noise = parameter.randn_like() * 0.2;
                tch::no_grad(|| parameter.shallow_clone().copy_(&(&parameter + noise)));
            }
        });
        folder
    }

    /// A folder with a world that makes pictures of four blocks in `world/`.
    pub(crate) fn with_picture_world() -> Self {
        let folder = Self::empty();
        let config =
            Config { square_block: Some(1), nd_split: vec![1, 1], axis_lengths: vec![2, 2], ..video() };
        write_world(
            &folder.path("world"),
            &Config { context_window: None, sample_frames: 1, frames_per_block: 1, ..config },
            &["still", "left", "right"],
        );
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The command in this folder, in an environment without settings of ours. One thread: more only slow these sizes.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acdit-world"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ACDIT_"))
        {
            command.env_remove(name);
        }
        command.current_dir(self.0.path()).args(words).env("OMP_NUM_THREADS", "1").stdin(Stdio::null());
        // SAFETY: one call of the system between fork and exec. A server does not outlive a test that panics: it is killed
        // when the thread that started it ends.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        ran(self.command(words).output().unwrap())
    }

    /// A clip of `seconds` at 25 frames per second, 64x48, made by the ffmpeg command.
    pub(crate) fn clip(&self, name: &str, seconds: f64) {
        let source = format!("testsrc=size=64x48:rate=25:duration={seconds}");
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", &source, "-pix_fmt", "yuv420p"])
            .arg(self.path(name))
            .status()
            .unwrap();
        assert!(made.success());
    }
}

pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn video() -> Config {
    Config {
        hidden_size: 32,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        nd_split: vec![1, 1, 2],
        patch_size: 1,
        context_window: Some(2),
        axis_lengths: vec![16, 2, 2],
        ..Config::video(Preset::B, i64::from(SIDE), 3)
    }
}

fn write_world(folder: &Path, config: &Config, labels: &[&str]) {
    write_world_from(folder, config, labels, |_| {});
}

/// `change` has the parameters before they are written.
fn write_world_from(folder: &Path, config: &Config, labels: &[&str], change: impl FnOnce(&nn::VarStore)) {
    let vae = folder.join("vae");
    let vs = nn::VarStore::new(Device::Cpu);
    let narrow = tiny::Config {
        encoder_block_out_channels: vec![4; 4],
        decoder_block_out_channels: vec![4; 4],
        num_encoder_blocks: vec![0, 1, 1, 1],
        num_decoder_blocks: vec![1, 1, 1, 0],
        ..tiny::Config::default()
    };
    tch::manual_seed(1);
    tiny::AutoencoderTiny::new(&vs.root(), &narrow);
    Vae::save(&vae, &vae::Config::AutoencoderTiny(narrow), &vs, Kind::Float).unwrap();

    let vs = nn::VarStore::new(Device::Cpu);
    Acdit::new(&vs.root(), config, Kind::Float).unwrap();
    change(&vs);
    let meta = WorldMeta {
        name: "tiny".into(),
        labels: labels.iter().map(|&name| Label { name: name.into(), key: None }).collect(),
        fps: FPS,
        sampling: Sampling { steps: 2, guidance: 1.5, solver: SolverKind::Ddim, guided: 1.0 },
    };
    WorldFolder {
        config,
        tensors: &vs.variables().into_iter().collect(),
        kind: Kind::Float,
        scheduler: &SchedulerConfig::paper(Prediction::V),
        prompts: None,
        meta: &meta,
        vae: Some(&vae),
    }
    .write(folder)
    .unwrap();
}
