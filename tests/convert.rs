//! `convert`: a published checkpoint becomes a weights folder that loads.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acdit_model::weights;
use acdit_runtime::World;
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

fn convert(checkpoint: &Path, out: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acdit-world"));
    command.arg("convert").arg(checkpoint).arg("--out").arg(out).args(flags).arg("--json").output().unwrap()
}

#[test]
fn a_published_checkpoint_becomes_a_world() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("weights");
    let vae = fixture("vae-kl");
    let output =
        convert(&fixture("acdit-small.pt"), &out, &["--which", "model", "--vae", vae.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    let path = out.join("transformer/diffusion_pytorch_model.safetensors");
    let (got, published) =
        (weights::read(&path).unwrap(), weights::read(&fixture("acdit-small.model.safetensors")).unwrap());
    assert!(got.keys().eq(published.keys()));
    assert!(got.iter().all(|(name, tensor)| tensor.equal(&published[name])));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let parameters: usize = published.values().map(Tensor::numel).sum();
    assert_eq!((json["tensors"].as_u64(), json["parameters"].as_u64()), (Some(53), Some(parameters as u64)));

    let world = World::load(&out, Device::Cpu, Kind::Float).unwrap();
    assert_eq!((world.meta.labels.len(), world.model.config().num_layers), (101, 3));
    acdit_codec::vae::Vae::load(&out.join("vae"), Device::Cpu, Kind::Float).unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("model_index.json")).unwrap()).unwrap();
    assert_eq!(index["vae"][1], "AutoencoderKL");
}

#[test]
fn ema_is_preferred() {
    let dir = tempfile::tempdir().unwrap();
    let output = convert(&fixture("acdit-small.pt"), dir.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let got = weights::read(&dir.path().join("transformer/diffusion_pytorch_model.safetensors")).unwrap();
    let published = weights::read(&fixture("acdit-small.model.safetensors")).unwrap();
    // "ema" is stored in half precision there.
    let half = |tensor: &Tensor| tensor.to_kind(Kind::Half).to_kind(Kind::Float);
    assert!(got.iter().all(|(name, tensor)| tensor.equal(&half(&published[name]))));
}

#[test]
fn what_is_no_checkpoint_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let garbage = dir.path().join("garbage.pt");
    std::fs::write(&garbage, [7; 5000]).unwrap();
    let out = dir.path().join("weights");
    let tiny = fixture("vae-tiny");
    let wrong_vae = dir.path().join("no-vae");
    for (checkpoint, flags) in [
        (&garbage, vec![]),
        (&dir.path().join("absent.pt"), vec![]),
        (&fixture("acdit-small.pt"), vec!["--vae", wrong_vae.to_str().unwrap()]),
        (&fixture("acdit-small.model.safetensors"), vec!["--vae", tiny.to_str().unwrap()]),
    ] {
        let output = convert(checkpoint, &out, &flags);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(output.stdout.is_empty() && stderr.trim_end().lines().count() == 1, "{stderr}");
        assert!(!out.exists());
    }
}
