//! The VAE's training loop as `train-vae` runs it: learning, resuming, refusing, and the folder that it leaves.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use acdit_codec::Size;
use acdit_codec::vae::{Config, Vae, tiny};
use acdit_train::dataset::{Dataset, Source};
use acdit_train::procedural::Procedural;
use acdit_train::vae_loop::{VaeFrames, VaeRecipe, VaeRun, VaeSummary, train};
use acdit_train::{Error, Interrupt, checkpoint};
use tch::{Device, Kind};

const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// libtorch's random generator belongs to the process: runs that must repeat take turns.
fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    tch::set_num_threads(1); // networks this small lose time to a second thread
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn recipe() -> VaeRecipe {
    let vae = tiny::Config {
        encoder_block_out_channels: vec![8; 3],
        decoder_block_out_channels: vec![8; 3],
        num_encoder_blocks: vec![0, 1, 0],
        num_decoder_blocks: vec![1, 0, 0],
        ..tiny::Config::default()
    };
    VaeRecipe { vae, batch: 4, steps: 60, warmup: 5, rate: 5e-3, ..VaeRecipe::default() }
}

fn frames() -> VaeFrames {
    let size = Size { width: 32, height: 32 };
    let dataset =
        Dataset { source: Source::Procedural(Procedural::Gravity), size, frame_interval: 1, seed: 0 };
    let (frames, skipped) = dataset.vae_frames(64, 8).unwrap();
    assert_eq!((frames.training.len(), frames.held_out.len(), skipped.len()), (64, 8, 0));
    assert!(frames.held_out.iter().all(|frame| !frames.training.contains(frame)));
    frames
}

fn run(out: &Path, stop_at: Option<u64>, resume: bool) -> Result<VaeSummary, Error> {
    let interrupt = Interrupt::default();
    let run = VaeRun { out, resume, stop_at, save_every: 25, keep: TWO, device: Device::Cpu, interrupt };
    train(&recipe(), &frames(), &run)
}

#[test]
fn a_resumed_run_ends_bit_equal_and_the_weights_load() {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let summary = run(&whole, None, false).unwrap();
    assert_eq!(run(&parts, Some(33), false).unwrap().step, 33);
    let resumed = run(&parts, None, true).unwrap();
    assert_eq!((resumed.step, resumed.psnr, resumed.ssim), (summary.step, summary.psnr, summary.ssim));
    let newest = |out: &Path| checkpoint::latest(&out.join("checkpoints")).unwrap().unwrap();
    assert_eq!(fs::read(newest(&whole)).unwrap(), fs::read(newest(&parts)).unwrap());

    let log = fs::read_to_string(whole.join("log.jsonl")).unwrap();
    let records: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let column = |name: &str| records.iter().map(|record| record[name].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(column("step"), [20.0, 40.0, 60.0]);
    assert!(column("loss")[2] < 0.5 * column("loss")[0], "{log}");
    assert!(summary.psnr > 12.0 && (0.0..1.0).contains(&summary.ssim), "{summary:?}");

    let vae = whole.join("weights/vae");
    let (scale, shift) = Config::load(&vae).unwrap().scale_and_shift();
    assert!(scale.is_normal() && shift != 0.0, "{scale} {shift}");
    let held_out = acdit_codec::color::to_tensor(&frames().held_out, Device::Cpu).unwrap();
    let latents = Vae::load(&vae, Device::Cpu, Kind::Float).unwrap().encoder.encode(&held_out).unwrap();
    assert_eq!(latents.size(), [8, 4, 8, 8]);
    let (mean, std) =
        (f64::try_from(latents.mean(Kind::Double)).unwrap(), f64::try_from(latents.std(false)).unwrap());
    assert!(mean.abs() < 0.05 && (std - 1.0).abs() < 0.05, "latents have mean {mean}, deviation {std}");
    assert!(whole.join("samples/reconstructions.png").is_file());
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_written() {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let attempt = |recipe: &VaeRecipe, frames: &VaeFrames| {
        let interrupt = Interrupt::default();
        let run = VaeRun {
            out: &out,
            resume: true,
            stop_at: Some(1),
            save_every: 9,
            keep: TWO,
            device: Device::Cpu,
            interrupt,
        };
        train(recipe, frames, &run).map_err(|e| e.to_string())
    };
    let mut odd = recipe();
    odd.vae.num_encoder_blocks = vec![0, 1, 0, 0];
    odd.vae.encoder_block_out_channels = vec![8; 4];
    assert!(attempt(&odd, &frames()).unwrap_err().contains("equally many stages"));
    let none = VaeFrames { training: vec![], held_out: vec![] };
    assert!(attempt(&recipe(), &none).unwrap_err().contains("no frames"));
    assert!(attempt(&VaeRecipe { batch: 0, ..recipe() }, &frames()).unwrap_err().contains("batch 0"));
    assert!(!out.exists());

    attempt(&recipe(), &frames()).unwrap();
    let error = attempt(&VaeRecipe { seed: 9, ..recipe() }, &frames()).unwrap_err();
    assert!(error.contains("another recipe") && error.contains("\"seed\":9"), "{error}");
    assert!(run(&out, None, false).unwrap_err().to_string().contains("holds a run already"));
}

#[test]
fn divergence_is_an_error_and_an_interrupt_is_an_orderly_end() {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    let interrupt = Interrupt::default();
    interrupt.set();
    let out = folder.path();
    let run = VaeRun {
        out,
        resume: false,
        stop_at: None,
        save_every: 25,
        keep: TWO,
        device: Device::Cpu,
        interrupt,
    };
    assert_eq!(train(&recipe(), &frames(), &run).unwrap().step, 0);
    assert!(out.join("weights/vae/config.json").is_file());

    let wild = VaeRecipe { rate: 1e30, warmup: 1, ..recipe() };
    let run = VaeRun { out: &out.join("wild"), interrupt: Interrupt::default(), ..run };
    assert!(matches!(train(&wild, &frames(), &run), Err(Error::Diverged { .. })));
    assert!(!out.join("wild/weights").exists());
}
