//! `cargo bench --bench vae`: a block of four frames through TAESD's and Stable Diffusion's autoencoder, at 64x64 pixels.

use acdit_codec::vae::{Config, Vae, kl, tiny};
use criterion::{Criterion, criterion_group, criterion_main};
use tch::{Device, Kind, Tensor};

fn block(criterion: &mut Criterion) {
    let configs = [
        ("tiny", Config::AutoencoderTiny(tiny::Config::default())),
        ("kl", Config::AutoencoderKL(kl::Config::stable_diffusion())),
    ];
    let mut group = criterion.benchmark_group("vae");
    group.sample_size(10);
    for (name, config) in configs {
        let vae = Vae::random(&config, Device::Cpu, Kind::Float).expect("the config is valid");
        let latents = Tensor::randn([4, 4, 8, 8], (Kind::Float, Device::Cpu));
        let pixels = Tensor::randn([4, 3, 64, 64], (Kind::Float, Device::Cpu));
        group.bench_function(format!("{name} decode"), |bencher| {
            bencher.iter(|| vae.decoder.decode(&latents))
        });
        group
            .bench_function(format!("{name} encode"), |bencher| bencher.iter(|| vae.encoder.encode(&pixels)));
    }
}

criterion_group!(benches, block);
criterion_main!(benches);
