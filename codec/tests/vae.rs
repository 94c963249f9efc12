//! Both autoencoders against diffusers' numbers, and everything around them that a folder from outside can get wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use acdit_codec::Error;
use acdit_codec::vae::{self, Distribution, Tiling, Vae, VaeDecoder, VaeEncoder, tiny};
use acdit_model::weights;
use tch::{Device, Kind, Tensor, nn};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(name)
}

fn load(name: &str) -> (Vae, BTreeMap<String, Tensor>) {
    let dir = golden(name);
    let vae = Vae::load(&dir, Device::Cpu, Kind::Float).unwrap();
    (vae, weights::read(&dir.join("golden.safetensors")).unwrap())
}

fn relative_error(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size());
    ((got - expected).abs().max() / expected.abs().max()).double_value(&[])
}

/// A copy of a golden VAE folder with its tensors and config changed.
fn changed(
    name: &str,
    tensors: impl FnOnce(&mut BTreeMap<String, Tensor>),
    config: impl FnOnce(&mut serde_json::Value),
) -> tempfile::TempDir {
    let (from, to) = (golden(name), tempfile::tempdir().unwrap());
    let mut weights = weights::read(&from.join(WEIGHTS)).unwrap();
    tensors(&mut weights);
    weights::write(&to.path().join(WEIGHTS), &weights, Kind::Float).unwrap();
    let mut json = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config(&mut json);
    std::fs::write(to.path().join("config.json"), json.to_string()).unwrap();
    to
}

fn error_of(dir: &Path) -> String {
    Vae::load(dir, Device::Cpu, Kind::Float).unwrap_err().to_string()
}

#[test]
fn kl_equals_diffusers() {
    let (vae, golden) = load("vae-kl");
    let posterior = vae.encoder.posterior(&golden["image"]).unwrap();
    assert!(relative_error(&posterior.mean, &golden["mean"]) < 1e-4);
    assert!(relative_error(&posterior.logvar.unwrap(), &golden["logvar"]) < 1e-4);
    assert!(relative_error(&vae.encoder.encode(&golden["image"]).unwrap(), &golden["latent"]) < 1e-4);
    assert!(relative_error(&vae.decoder.decode(&golden["latent"]).unwrap(), &golden["decoded"]) < 1e-4);
    assert_eq!((vae.encoder.latent_channels(), vae.decoder.downsampling()), (4, 8));
}

#[test]
fn tiny_equals_diffusers() {
    let (vae, golden) = load("vae-tiny");
    assert!(relative_error(&vae.encoder.encode(&golden["image"]).unwrap(), &golden["latent"]) < 1e-4);
    assert!(relative_error(&vae.decoder.decode(&golden["latent"]).unwrap(), &golden["decoded"]) < 1e-4);
}

#[test]
fn bf16_stays_close_and_returns_f32() {
    for name in ["vae-kl", "vae-tiny"] {
        let golden = weights::read(&golden(name).join("golden.safetensors")).unwrap();
        let vae = Vae::load(&self::golden(name), Device::Cpu, Kind::BFloat16).unwrap();
        let latent = vae.encoder.encode(&golden["image"]).unwrap();
        let decoded = vae.decoder.decode(&golden["latent"]).unwrap();
        assert_eq!((latent.kind(), decoded.kind()), (Kind::Float, Kind::Float));
        assert!(relative_error(&latent, &golden["latent"]) < 5e-2);
        assert!(relative_error(&decoded, &golden["decoded"]) < 5e-2);
    }
}

#[test]
fn a_distribution_is_scaled_like_its_mean() {
    let (vae, golden) = load("vae-kl");
    let Distribution { mean, std } = vae.encoder.encode_distribution(&golden["image"]).unwrap();
    assert_eq!(mean, vae.encoder.encode(&golden["image"]).unwrap());
    assert!(relative_error(&std.unwrap(), &((&golden["logvar"] / 2.0).exp() * 0.18215)) < 1e-4);

    let (tiny, golden) = load("vae-tiny");
    let Distribution { mean, std } = tiny.encoder.encode_distribution(&golden["image"]).unwrap();
    assert!(std.is_none() && relative_error(&mean, &golden["latent"]) < 1e-4);
}

#[test]
fn scale_and_shift_come_from_the_config() {
    for name in ["vae-kl", "vae-tiny"] {
        let dir = changed(
            name,
            |_| {},
            |config| {
                config["scaling_factor"] = 0.5.into();
                config["shift_factor"] = 0.25.into();
            },
        );
        let (reference, golden) = load(name);
        let raw = reference.encoder.posterior(&golden["image"]).unwrap().mean;
        let vae = Vae::load(dir.path(), Device::Cpu, Kind::Float).unwrap();
        let latent = vae.encoder.encode(&golden["image"]).unwrap();
        assert!(relative_error(&latent, &((raw - 0.25) * 0.5)) < 1e-5);
        assert!(relative_error(&vae.decoder.decode(&latent).unwrap(), &golden["decoded"]) < 1e-4);
    }
}

#[test]
fn attention_names_and_shapes_of_older_diffusers_load() {
    let dir = changed(
        "vae-kl",
        |tensors| {
            let current: Vec<String> =
                tensors.keys().filter(|k| k.contains(".attentions.")).cloned().collect();
            for name in current {
                let tensor = tensors.remove(&name).unwrap();
                let old = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]
                    .iter()
                    .fold(name, |name, (new, old)| name.replace(new, old));
                let tensor = if old.starts_with("encoder") && tensor.dim() == 2 {
                    tensor.unsqueeze(-1).unsqueeze(-1)
                } else {
                    tensor
                };
                tensors.insert(old, tensor);
            }
        },
        |config| {
            // Configs of that time lack these keys.
            for key in ["use_quant_conv", "use_post_quant_conv", "mid_block_add_attention", "shift_factor"] {
                config.as_object_mut().unwrap().remove(key);
            }
        },
    );
    let golden = weights::read(&golden("vae-kl").join("golden.safetensors")).unwrap();
    let vae = Vae::load(dir.path(), Device::Cpu, Kind::Float).unwrap();
    assert!(relative_error(&vae.encoder.encode(&golden["image"]).unwrap(), &golden["latent"]) < 1e-4);
    assert!(relative_error(&vae.decoder.decode(&golden["latent"]).unwrap(), &golden["decoded"]) < 1e-4);
}

#[test]
fn slices_and_a_single_tile_change_nothing_and_small_tiles_stay_close() {
    for name in ["vae-kl", "vae-tiny"] {
        let (vae, golden) = load(name);
        let Vae { encoder, decoder } = vae;
        let sliced = Tiling { side: 8, overlap: 2, latents: 1 };
        let (encoder, decoder) = (encoder.with_tiling(sliced), decoder.with_tiling(sliced));
        assert!(relative_error(&encoder.encode(&golden["image"]).unwrap(), &golden["latent"]) < 1e-4);
        assert!(relative_error(&decoder.decode(&golden["latent"]).unwrap(), &golden["decoded"]) < 1e-4);

        let tiled = Tiling { side: 6, overlap: 3, latents: 36 };
        let (encoder, decoder) = (encoder.with_tiling(tiled), decoder.with_tiling(tiled));
        let latent_error = relative_error(&encoder.encode(&golden["image"]).unwrap(), &golden["latent"]);
        let pixel_error = relative_error(&decoder.decode(&golden["latent"]).unwrap(), &golden["decoded"]);
        println!("{name} in tiles: latents {latent_error:.3}, pixels {pixel_error:.3}");
        assert!(latent_error > 0.0 && latent_error < 0.6 && pixel_error > 0.0 && pixel_error < 0.6);
    }
}

#[test]
fn the_halves_work_on_threads_of_their_own() {
    let (Vae { encoder, decoder }, golden) = load("vae-tiny");
    let image = golden["image"].shallow_clone();
    let encode = std::thread::spawn(move || encoder.encode(&image).unwrap());
    let latent = encode.join().unwrap();
    let decode = std::thread::spawn(move || decoder.decode(&latent).unwrap());
    assert!(relative_error(&decode.join().unwrap(), &golden["decoded"]) < 1e-4);
    fn movable<T: Send>() {}
    movable::<(VaeEncoder, VaeDecoder, tiny::Encoder, tiny::Decoder)>();
}

#[test]
fn wrong_shapes_are_errors() {
    let (vae, _) = load("vae-tiny");
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
    for size in [[1, 3, 60, 64], [1, 4, 64, 64], [0, 3, 64, 64], [1, 3, 0, 64]] {
        assert!(matches!(vae.encoder.encode(&zeros(&size)), Err(Error::Shape { .. })), "{size:?}");
    }
    assert!(vae.encoder.encode(&zeros(&[3, 64, 64])).is_err());
    for size in [[1, 3, 8, 8], [0, 4, 8, 8], [1, 4, 8, 0]] {
        assert!(matches!(vae.decoder.decode(&zeros(&size)), Err(Error::Shape { .. })), "{size:?}");
    }
}

#[test]
fn misfitting_weights_are_listed() {
    let dir = changed(
        "vae-tiny",
        |tensors| {
            let weight = tensors.remove("decoder.layers.0.weight").unwrap();
            tensors.insert("decoder.surplus".into(), weight);
            tensors.insert("encoder.layers.0.bias".into(), Tensor::zeros([5], (Kind::Float, Device::Cpu)));
        },
        |_| {},
    );
    let text = error_of(dir.path());
    for part in ["decoder.layers.0.weight", "decoder.surplus", "encoder.layers.0.bias [5]", WEIGHTS] {
        assert!(text.contains(part), "{text:?} does not name {part:?}");
    }
}

#[test]
fn unusable_folders_are_errors_that_name_the_file() {
    let empty = tempfile::tempdir().unwrap();
    assert!(error_of(empty.path()).contains("config.json"));
    std::fs::copy(golden("vae-tiny").join("config.json"), empty.path().join("config.json")).unwrap();
    assert!(error_of(empty.path()).contains(WEIGHTS));
    std::fs::write(empty.path().join(WEIGHTS), b"no weights").unwrap();
    assert!(error_of(empty.path()).contains("safetensors"));

    for (name, key, value, needle) in [
        ("vae-kl", "_class_name", "VQModel".into(), "VQModel"),
        ("vae-kl", "norm_num_groups", 7.into(), "norm_num_groups 7"),
        ("vae-kl", "block_out_channels", serde_json::json!([]), "block_out_channels"),
        (
            "vae-kl",
            "down_block_types",
            serde_json::json!(["AttnDownEncoderBlock2D"]),
            "AttnDownEncoderBlock2D",
        ),
        ("vae-kl", "latents_mean", serde_json::json!([0.0]), "latents_mean"),
        ("vae-kl", "scaling_factor", 0.0.into(), "scaling_factor"),
        ("vae-kl", "in_channels", 1.into(), "in_channels"),
        ("vae-tiny", "num_encoder_blocks", serde_json::json!([1]), "num_encoder_blocks"),
        ("vae-tiny", "decoder_block_out_channels", serde_json::json!([16, 16, 16, 32]), "[16, 16, 16, 32]"),
        ("vae-tiny", "act_fn", "gelu".into(), "gelu"),
        ("vae-tiny", "latent_channels", (-4).into(), "-4"),
    ] {
        let dir = changed(name, |_| {}, |config| config[key] = value);
        let text = error_of(dir.path());
        assert!(text.contains(needle) && text.contains("config.json"), "{text:?} does not name {needle:?}");
    }
}

#[test]
fn tiny_learns_and_what_it_learnt_loads() {
    tch::manual_seed(0);
    let config = tiny::Config {
        encoder_block_out_channels: vec![8; 3],
        decoder_block_out_channels: vec![8; 3],
        num_encoder_blocks: vec![1, 1, 1],
        num_decoder_blocks: vec![1, 1, 1],
        ..Default::default()
    };
    config.validate().unwrap();
    let vs = nn::VarStore::new(Device::Cpu);
    let network = tiny::AutoencoderTiny::new(&vs.root(), &config);
    let mut optimizer = nn::OptimizerConfig::build(nn::Adam::default(), &vs, 1e-2).unwrap();
    let pixels = Tensor::rand([2, 3, 16, 16], (Kind::Float, Device::Cpu)) * 0.2 - 0.8;
    let loss =
        || (network.decoder.forward(&network.encoder.forward(&pixels)) - &pixels).square().mean(Kind::Float);
    let before = loss().double_value(&[]);
    for _ in 0..20 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    assert!(after < before / 4.0, "{before} -> {after}");

    let dir = tempfile::tempdir().unwrap();
    Vae::save(&dir.path().join("vae"), &vae::Config::AutoencoderTiny(config), &vs, Kind::Float).unwrap();
    let vae = Vae::load(&dir.path().join("vae"), Device::Cpu, Kind::Float).unwrap();
    let expected = tch::no_grad(|| network.encoder.forward(&pixels));
    assert!(relative_error(&vae.encoder.encode(&pixels).unwrap(), &expected) < 1e-6);
}
