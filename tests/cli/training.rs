//! `train` and `train-vae`, by the smallest runs that go all the way; what they learn is tested in their crate.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{Folder, ran};

const TINY: [&str; 24] = [
    "train",
    "--dataset",
    "gravity",
    "--vae",
    "world/vae",
    "--out",
    "run",
    "--resolution",
    "16",
    "--patch",
    "1",
    "--hidden",
    "32",
    "--layers",
    "1",
    "--heads",
    "2",
    "--frames",
    "16",
    "--clips",
    "2",
    "--batch",
    "2",
    "--json",
];

#[test]
fn a_run_is_stopped_resumed_and_played() {
    let folder = Folder::with_world();
    let train = |more: &[&str]| folder.run(&[&TINY[..], more].concat());
    let stopped = train(&["--steps", "6", "--stop-at", "2"]).json();
    assert_eq!(stopped["step"], 2);
    let again = train(&["--steps", "6"]);
    assert!(again.code == Some(2) && again.stderr.contains("holds a run already"), "{again:?}");
    let other = train(&["--steps", "6", "--rate", "1e-4", "--resume"]);
    assert!(other.code == Some(2) && other.stderr.contains("made with another recipe"), "{other:?}");
    let whole = train(&["--steps", "6", "--resume"]).json();
    assert_eq!(whole["step"], 6);
    assert!(whole["loss"].as_f64().is_some_and(|loss| loss > 0.0 && loss < 10.0), "{whole}");

    let plotted = folder.run(&["plot", "run", "--out", "loss.svg", "--json"]).json();
    assert_eq!((&plotted["runs"][0]["last_step"], &plotted["runs"][0]["points"]), (&6.into(), &2.into()));
    assert_eq!(plotted["runs"][0]["last_loss"], whole["loss"]);
    let picture = std::fs::read_to_string(folder.path("loss.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("polyline") && picture.contains(">\nrun\n<"));

    let words = ["generate", "--weights", "run/weights", "--frames", "4", "--label", "down", "--steps", "2"];
    let made = folder.run(&[&words[..], &["--out", "a.mp4", "--json"]].concat()).json();
    assert_eq!(made["frames"], 4);
    assert!(folder.path("run/checkpoints/step-00000006.safetensors").is_file());
}

#[test]
fn a_run_goes_on_from_weights() {
    let folder = Folder::with_world();
    folder.run(&[&TINY[..], &["--steps", "2"]].concat()).json();
    let from = |weights: &str, out: &str| {
        let words = ["train", "--dataset", "gravity", "--from", weights, "--out", out, "--resolution", "16"];
        let sizes = ["--frames", "16", "--clips", "2", "--batch", "2", "--steps", "2", "--json"];
        folder.run(&[&words[..], &sizes, &["--self-context", "0"]].concat())
    };
    let same = from("run/weights", "same");
    assert!(same.json()["step"] == 2 && same.stderr.is_empty(), "{same:?}");
    let config =
        |name: &str| std::fs::read(folder.path(name).join("weights/transformer/config.json")).unwrap();
    assert_eq!(config("same"), config("run"));
    // that world has three labels, this one five
    let relabelled = from("world", "relabelled");
    assert!(relabelled.json()["step"] == 2, "{relabelled:?}");
    assert!(relabelled.stderr.contains("their table is learnt anew"), "{relabelled:?}");
}

#[test]
fn an_interrupt_saves_first() {
    let folder = Folder::with_world();
    // As a pipe, the log tells when the loop runs.
    std::fs::create_dir(folder.path("run")).unwrap();
    let log = folder.path("run/log.jsonl");
    assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
    let words = [&TINY[..], &["--steps", "1000000"]].concat();
    let run = folder.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(File::open(log).unwrap());
    log.read_line(&mut String::new()).unwrap();
    assert!(Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap().success());
    let step = ran(run.wait_with_output().unwrap()).json()["step"].as_u64().unwrap();
    assert!(
        step >= 1 && folder.path(&format!("run/checkpoints/step-{step:08}.safetensors")).is_file(),
        "{step}"
    );
}

#[test]
fn a_diverged_run_has_failed_and_writes_no_weights() {
    let folder = Folder::with_world();
    let words = [&TINY[..], &["--steps", "40", "--warmup", "0", "--rate", "1e20"]].concat();
    let diverged = folder.run(&words);
    assert_eq!((diverged.code, diverged.stdout.as_str()), (Some(1), ""), "{diverged:?}");
    assert!(diverged.stderr.starts_with("error: training diverged at step "), "{diverged:?}");
    assert!(!folder.path("run/weights").exists());
}

#[test]
fn a_vae_is_trained_for_a_world() {
    let folder = Folder::empty();
    let words =
        ["train-vae", "--dataset", "gravity", "--resolution", "16", "--frames", "8", "--held-out", "4"];
    let more = ["--width", "4", "--batch", "2", "--steps", "2", "--out", "run", "--json"];
    let made = folder.run(&[&words[..], &more].concat()).json();
    assert_eq!(made["step"], 2);
    assert!(made["psnr"].as_f64().is_some_and(|psnr| psnr > 0.0) && made["loss"].is_number(), "{made}");
    assert!(folder.path("run/weights/vae/config.json").is_file());
}
