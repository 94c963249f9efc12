//! Files: weights, what a weights folder holds, settings, lists of clips.

#[path = "../../../cli/config/file.rs"]
mod config;

use std::collections::BTreeMap;
use std::path::Path;

use acdit_codec::vae::Vae;
use acdit_model::weights::{self, pt};
use acdit_runtime::{Settings, StepInput, Timeline, World};
use acdit_train::ucf101;
use tch::{Device, Kind};
use tempfile::NamedTempFile;

use super::{parts, tiny};

fn file(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, bytes).unwrap();
    file
}

/// Whether an error is one line that says something, as the command prints it.
fn told(error: &impl std::fmt::Display) {
    assert!(!error.to_string().is_empty());
}

/// A weights file of any origin.
pub(super) fn safetensors(bytes: &[u8]) {
    let file = file(bytes);
    let metadata = weights::read_metadata(file.path());
    match weights::read(file.path()) {
        Ok(tensors) => {
            assert!(metadata.is_ok());
            let held: usize = tensors.values().map(|t| t.numel() * t.kind().elt_size_in_bytes()).sum();
            assert!(held <= bytes.len());
        }
        Err(error) => told(&error),
    }
}

/// A published checkpoint.
pub(super) fn pt(bytes: &[u8]) {
    let file = file(bytes);
    for which in [pt::Which::Ema, pt::Which::Model] {
        match pt::read_pt(file.path(), which) {
            Ok(checkpoint) => {
                let held: usize = checkpoint.tensors.values().map(tch::Tensor::numel).sum();
                // two bytes a value at least, in the file
                assert!(2 * held <= bytes.len());
                match checkpoint.config() {
                    Ok(config) => config.validate().unwrap(),
                    Err(error) => told(&error),
                }
            }
            Err(error) => told(&error),
        }
    }
}

/// One file of a weights folder, named in the first line, in place of the one that fits: if it loads, it runs.
pub(super) fn world_folder(bytes: &[u8]) {
    const FILES: [&str; 7] = [
        "world.json",
        "prompts.safetensors",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else { return };
    let Some(name) = FILES.iter().find(|name| name.as_bytes() == &bytes[..end]) else { return };
    tiny::with_world(|_, folder| {
        let path = folder.join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[end + 1..]).unwrap();
        let ran = std::panic::catch_unwind(|| run(folder));
        std::fs::write(&path, whole).unwrap();
        if let Err(panic) = ran {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What `serve` does before anybody looks.
fn run(folder: &Path) {
    let world = match World::load(folder, Device::Cpu, Kind::Float) {
        Ok(world) => world,
        Err(error) => return told(&error),
    };
    let vae = match Vae::load(&folder.join("vae"), Device::Cpu, Kind::Float) {
        Ok(vae) => vae,
        Err(error) => return told(&error),
    };
    if let Err(error) = acdit_runtime::frame_size(&world, &vae) {
        return told(&error);
    }
    let mut settings = Settings::of(&world, 0);
    let begun = Timeline::prompted(&world, settings, 0);
    settings.sampling.steps = 1;
    let stepped = begun.and_then(|_| {
        let mut session = acdit_runtime::Session::new(&world, settings)?;
        session.step(&world, &StepInput { label: 0, inject: None })
    });
    match stepped {
        Ok(block) => match tch::no_grad(|| vae.decoder.decode(&block.latents)) {
            Ok(pixels) => assert_eq!(pixels.size()[1], 3),
            Err(error) => told(&error),
        },
        Err(error) => told(&error),
    }
}

/// `acdit-world.toml`.
pub(super) fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let flags = |flags: &[&str]| flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>();
    let known = BTreeMap::from([
        ("serve".to_owned(), flags(&["port", "host", "max-sessions", "json"])),
        ("train-vae".to_owned(), flags(&["steps", "rate", "json"])),
    ]);
    match config::read(text, &known) {
        Ok(values) => {
            let named = values.verbs.iter().all(|(verb, values)| {
                known.get(verb).is_some_and(|flags| values.keys().all(|flag| flags.contains(flag)))
            });
            assert!(named && values.shared.keys().all(|flag| known.values().flatten().any(|f| f == flag)));
        }
        Err(error) => assert!(!error.is_empty()),
    }
}

/// UCF-101's three lists.
pub(super) fn splits(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let lists = ["classInd.txt", "trainlist01.txt", "testlist01.txt"];
    for (name, part) in lists.iter().zip(parts::<3>(bytes)) {
        std::fs::write(folder.path().join(name), part).unwrap();
    }
    std::fs::create_dir(folder.path().join("Archery")).unwrap();
    match ucf101::open(folder.path(), Some(folder.path()), 1) {
        Ok(listing) => {
            for entry in listing.train.iter().chain(&listing.test) {
                assert!(entry.label < listing.classes.len());
                let inside = entry.path.strip_prefix(folder.path()).unwrap();
                assert_eq!(inside.components().count(), 2, "{inside:?}");
            }
        }
        Err(error) => told(&error),
    }
}
