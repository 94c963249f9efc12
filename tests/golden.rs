//! `verify` on the golden files that ship with the tests: the published network, its sampler and diffusers' autoencoders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acdit_model::weights;
use serde_json::Value;
use tch::Kind;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden")
}

fn verify(dir: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acdit-world"));
    command.arg("verify").arg("--golden").arg(dir).args(["--device", "cpu"]).args(flags).output().unwrap()
}

fn checks(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["checks"].as_array().unwrap().clone()
}

/// The tensors compared, as FILE/TENSOR; prints and asserts every error.
fn passed(flags: &[&str]) -> BTreeSet<String> {
    let output = verify(&fixtures(), &[flags, &["--json"]].concat());
    let checks = checks(&output);
    for check in &checks {
        println!("{check}");
        assert!(check["error"].as_f64().unwrap() <= check["tolerance"].as_f64().unwrap(), "{check}");
        assert_eq!(check["ok"], true);
    }
    assert_eq!(output.status.code(), Some(0));
    let name =
        |check: &Value| format!("{}/{}", check["file"].as_str().unwrap(), check["tensor"].as_str().unwrap());
    checks.iter().map(name).collect()
}

/// A copy of the fixtures for a test to damage.
fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["acdit-small.model.safetensors", "acdit-small.golden.safetensors"] {
        std::fs::copy(fixtures().join(name), dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn f32_equals_the_published_numbers() {
    let names = passed(&[]);
    for file in ["acdit-small.golden.safetensors", "acdit-image.golden.safetensors"] {
        for tensor in [
            "train.eps",
            "t_embed",
            "mask",
            "rope.cos",
            "rope.sin",
            "rope.position_ids",
            "sample.latents",
            "sample.timesteps",
            "sample.block0.x",
            "sample.block0.guided_eps",
            "sample.block1.x",
            "schedule.alphas_cumprod",
            "schedule.timesteps.4",
            "schedule.timesteps.50",
            "schedule.sigmas.10",
            "schedule.sigmas.25",
        ] {
            assert!(names.contains(&format!("{file}/{tensor}")), "{file}: {tensor} was not checked");
        }
    }
    for tensor in [
        "vae-kl/mean",
        "vae-kl/logvar",
        "vae-kl/latent",
        "vae-kl/decoded",
        "vae-tiny/latent",
        "vae-tiny/decoded",
    ] {
        assert!(names.contains(tensor), "{tensor} was not checked");
    }
}

#[test]
fn bf16_stays_within_its_tolerances() {
    let names = passed(&["--dtype", "bf16"]);
    assert!(names.contains("acdit-small.golden.safetensors/train.eps"));
    assert!(!names.contains("acdit-small.golden.safetensors/sample.latents"));
}

#[test]
fn other_weights_fail_and_say_where() {
    let dir = copied();
    let path = dir.path().join("acdit-small.model.safetensors");
    let mut tensors = weights::read(&path).unwrap();
    let scaled = &tensors["final_layer.linear.weight"] * 1.01;
    tensors.insert("final_layer.linear.weight".into(), scaled);
    weights::write(&path, &tensors, Kind::Float).unwrap();
    let output = verify(dir.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let failed: Vec<Value> = checks(&output).into_iter().filter(|check| check["ok"] == false).collect();
    let named = |name: &str| failed.iter().any(|check| check["tensor"] == name);
    assert!(named("train.eps") && named("sample.latents") && !named("t_embed"), "{failed:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("exceed"));
}

#[test]
fn folders_without_golden_files_are_bad_input() {
    let empty = tempfile::tempdir().unwrap();
    let orphan = copied();
    std::fs::remove_file(orphan.path().join("acdit-small.model.safetensors")).unwrap();
    let truncated = copied();
    std::fs::write(truncated.path().join("acdit-small.golden.safetensors"), b"{}").unwrap();
    let missing = PathBuf::from("/no/such/folder");
    for dir in [empty.path(), orphan.path(), truncated.path(), &missing] {
        let output = verify(dir, &["--json"]);
        assert_eq!(output.status.code(), Some(2), "{}", dir.display());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.stdout.is_empty() && stderr.trim_end().lines().count() == 1, "{stderr}");
    }
}
