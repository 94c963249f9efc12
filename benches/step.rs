//! `cargo bench --bench step`: one block of a session, guided and not.

mod worlds;

use acdit_runtime::{Sampling, Settings};
use criterion::{Criterion, criterion_group, criterion_main};

fn step(criterion: &mut Criterion) {
    let world = worlds::small();
    let own = Settings::of(&world, 0);
    let mut group = criterion.benchmark_group("step");
    group.sample_size(20);
    for (name, guidance) in [("guided", 2.5), ("unguided", 1.0)] {
        let sampling = Sampling { guidance, ..own.sampling };
        let mut session = worlds::session(&world, Settings { sampling, ..own });
        group.bench_function(name, |bencher| bencher.iter(|| session.step(&world, &worlds::INPUT)));
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
