//! ACDiT with one block over the whole sequence is a plain DiT: checked against one written out from its tensors.

use std::collections::BTreeMap;

use acdit_model::{Acdit, Config, NoCache, Preset, RopeKind, TrainingBatch, timestep_sinusoid, weights};
use tch::{Device, Kind, Tensor, nn};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn config() -> Config {
    Config {
        hidden_size: 64,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 160,
        frames_per_block: 16,
        ..Config::video(Preset::B, 32, 5)
    }
}

/// Random tensors under the published names.
fn random_weights(config: &Config) -> BTreeMap<String, Tensor> {
    let vs = nn::VarStore::new(Device::Cpu);
    Acdit::new(&vs.root(), config, Kind::Float).unwrap();
    let shapes: BTreeMap<String, Vec<i64>> = vs.variables().into_iter().map(|(n, t)| (n, t.size())).collect();
    tch::manual_seed(4);
    shapes.into_iter().map(|(name, shape)| (name, Tensor::randn(&shape[..], FLOAT) * 0.1)).collect()
}

/// DiT, as its paper puts it, for tokens (1, L, p²·C) at one timestep under one label.
struct Dit<'a>(&'a BTreeMap<String, Tensor>, &'a Config);

impl Dit<'_> {
    fn linear(&self, name: &str, xs: &Tensor) -> Tensor {
        let ys = xs.matmul(&self.0[&format!("{name}.weight")].transpose(0, 1));
        self.0.get(&format!("{name}.bias")).map_or(ys.shallow_clone(), |bias| ys + bias)
    }

    fn norm(&self, name: &str, xs: &Tensor) -> Tensor {
        let mean_square = (xs * xs).mean_dim(-1, true, Kind::Float);
        xs / (mean_square + 1e-6).sqrt() * &self.0[&format!("{name}.weight")]
    }

    /// Rotates pairs (i, i + d/2) of every head by position times frequency.
    fn rotate(&self, xs: &Tensor) -> Tensor {
        let (rows, columns) = self.1.token_grid();
        let dims = self.1.axis_dims();
        let half = self.1.head_dim() / 2;
        let out = xs.copy();
        for token in 0..xs.size()[2] {
            let place = [token / (rows * columns), token / columns % rows, token % columns];
            let mut pair = 0;
            for (axis, dim) in dims.iter().enumerate() {
                let base =
                    100.0 * (8.0 * self.1.axis_lengths[axis] as f64 / (100.0 * std::f64::consts::PI)).ceil();
                for i in 0..dim / 2 {
                    let angle = place[axis] as f64 * base.powf(-2.0 * i as f64 / *dim as f64);
                    let (a, b) =
                        (xs.select(2, token).select(2, pair), xs.select(2, token).select(2, pair + half));
                    out.select(2, token).select(2, pair).copy_(&(&a * angle.cos() - &b * angle.sin()));
                    out.select(2, token).select(2, pair + half).copy_(&(&b * angle.cos() + &a * angle.sin()));
                    pair += 1;
                }
            }
        }
        out
    }

    fn attention(&self, name: &str, xs: &Tensor) -> Tensor {
        let (heads, d) = (self.1.num_attention_heads, self.1.head_dim());
        let length = xs.size()[1];
        let parts = self.linear(&format!("{name}.qkv"), xs).chunk(3, -1);
        let split = |part: &Tensor| part.view([1, length, heads, d]).transpose(1, 2);
        let q = self.rotate(&self.norm(&format!("{name}.q_norm"), &split(&parts[0])));
        let k = self.rotate(&self.norm(&format!("{name}.k_norm"), &split(&parts[1])));
        let weights = (q.matmul(&k.transpose(2, 3)) / (d as f64).sqrt()).softmax(-1, Kind::Float);
        let mixed = weights.matmul(&split(&parts[2])).transpose(1, 2).reshape([1, length, heads * d]);
        self.linear(&format!("{name}.proj"), &mixed)
    }

    fn forward(&self, tokens: &Tensor, timestep: i64, label: i64) -> Tensor {
        let t = timestep_sinusoid(&Tensor::from_slice(&[timestep]));
        let t = self.linear("t_embedder.mlp.2", &self.linear("t_embedder.mlp.0", &t).silu());
        let condition = t + self.0["y_embedder.embedding_table.weight"].narrow(0, label, 1);
        let modulation =
            |name: &str| self.linear(&format!("{name}.adaLN_modulation.1"), &condition.silu()).unsqueeze(1);
        let mut xs = self.linear("x_embedder", tokens);
        for layer in 0..self.1.num_layers {
            let name = format!("blocks.{layer}");
            let m = modulation(&name).chunk(6, -1);
            let normed = self.norm(&format!("{name}.norm1"), &xs) * (&m[1] + 1.0) + &m[0];
            xs += &m[2] * self.attention(&format!("{name}.attn"), &normed);
            let normed = self.norm(&format!("{name}.norm2"), &xs) * (&m[4] + 1.0) + &m[3];
            let hidden = self.linear(&format!("{name}.mlp.fc1"), &normed).gelu("tanh");
            xs += &m[5] * self.linear(&format!("{name}.mlp.fc2"), &hidden);
        }
        let m = modulation("final_layer").chunk(2, -1);
        self.linear("final_layer.linear", &(self.norm("final_layer.norm_final", &xs) * (&m[1] + 1.0) + &m[0]))
    }
}

#[test]
fn one_block_over_the_whole_sequence_is_a_plain_dit() {
    let _guard = tch::no_grad_guard();
    let config = config();
    assert_eq!(config.training_blocks(), 1);
    let tensors = random_weights(&config);
    let model = Acdit::from_tensors(&config, &tensors, "test".as_ref(), Device::Cpu, Kind::Float).unwrap();
    let tokens = Tensor::randn([1, config.block_tokens(), config.token_width()], FLOAT);
    let expected = Dit(&tensors, &config).forward(&tokens, 321, 2);
    let (t, y) = (Tensor::from_slice(&[321i64]), Tensor::from_slice(&[2i64]));

    let rope = model.rope().table(0, 1, Device::Cpu).unwrap();
    let steps = model.modulations(&Tensor::from_slice(&[7i64, 321]), &y).unwrap();
    let streamed = model.denoise(&tokens, &steps[1], &rope, &mut NoCache).unwrap();
    let batch = TrainingBatch {
        clean: tokens.randn_like().unsqueeze(1), // nothing attends it
        noised: tokens.unsqueeze(1),
        timesteps: t.unsqueeze(1),
        labels: y.unsqueeze(1),
    };
    let trained = model.training_forward(&batch).unwrap().squeeze_dim(1);
    for (name, got) in [("denoise", streamed), ("training_forward", trained)] {
        let error = (got - &expected).abs().max() / expected.abs().max();
        assert!(error.double_value(&[]) < 1e-5, "{name}: {}", error.double_value(&[]));
    }
}

#[test]
fn published_rope_and_bf16_run_and_agree_with_f32() {
    let _guard = tch::no_grad_guard();
    for rope in [RopeKind::Axial, RopeKind::Published] {
        let config = Config { rope, frames_per_block: 4, ..config() };
        let tensors = random_weights(&config);
        let load = |kind| Acdit::from_tensors(&config, &tensors, "test".as_ref(), Device::Cpu, kind).unwrap();
        let shape = [2, 4, config.block_tokens(), config.token_width()];
        let batch = TrainingBatch {
            clean: Tensor::randn(shape, FLOAT),
            noised: Tensor::randn(shape, FLOAT),
            timesteps: Tensor::from_slice(&[10i64, 900, 400, 999, 0, 1, 2, 3]).view([2, 4]),
            labels: Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 5, 0]).view([2, 4]),
        };
        let exact = load(Kind::Float).training_forward(&batch).unwrap();
        let rounded = load(Kind::BFloat16).training_forward(&batch).unwrap();
        let error = ((rounded - &exact).abs().max() / exact.abs().max()).double_value(&[]);
        assert!(error < 3e-2 && error > 0.0, "{rope:?}: {error}");
    }
}

#[test]
fn weights_that_do_not_fit_are_listed() {
    let config = config();
    let mut tensors = random_weights(&config);
    tensors.remove("blocks.1.attn.proj.bias");
    tensors.insert("blocks.7.norm1.weight".into(), Tensor::zeros([64], FLOAT));
    tensors.insert("x_embedder.weight".into(), Tensor::zeros([64, 15], FLOAT));
    let error =
        Acdit::from_tensors(&config, &tensors, "some/file".as_ref(), Device::Cpu, Kind::Float).unwrap_err();
    let text = error.to_string();
    for part in [
        "some/file",
        "missing: blocks.1.attn.proj.bias",
        "extra: blocks.7.norm1.weight",
        "mis-shaped: x_embedder.weight [64, 15] (expected [64, 16])",
    ] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn written_weights_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let tensors = random_weights(&config());
    weights::write(&path, &tensors, Kind::Float).unwrap();
    assert_eq!(weights::read(&path).unwrap(), tensors);
    std::fs::write(&path, b"not a safetensors file").unwrap();
    assert!(weights::read(&path).unwrap_err().to_string().contains("not a safetensors file"));
    assert!(weights::read(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
}
