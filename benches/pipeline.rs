//! `cargo bench --bench pipeline`: a block from the engine to the last of its packets, stages overlapping as in `serve`.

mod worlds;

use acdit_codec::vae::{Config, Vae, tiny};
use acdit_runtime::{Engine, Sampling, StreamConfig};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tch::{Device, Kind};

fn blocks(criterion: &mut Criterion) {
    let config = Config::AutoencoderTiny(tiny::Config::default());
    let vae = Vae::random(&config, Device::Cpu, Kind::Float).expect("the config is valid");
    let engine = Engine::start(worlds::small(), vae).expect("the world fits the VAE");
    let own = engine.config(0);
    let mut settings = own.settings;
    settings.sampling = Sampling { steps: 4, ..settings.sampling };
    let config = StreamConfig { settings, max_speed: true, ..own };
    let stream = engine.open(&config).expect("the config fits the world");
    stream.handle.viewers(1, 0);
    let frames = engine.frames_per_block();
    let mut group = criterion.benchmark_group("pipeline");
    group.sample_size(20).throughput(Throughput::Elements(frames as u64));
    group.bench_function("block", |bencher| {
        bencher.iter(|| (0..frames).for_each(|_| drop(stream.packets.recv().expect("the engine runs"))));
    });
}

criterion_group!(benches, blocks);
criterion_main!(benches);
