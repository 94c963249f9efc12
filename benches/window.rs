//! `cargo bench --bench window`: taking a clean block into a full window, exact for any weights or rolled on.

mod worlds;

use acdit_runtime::{Settings, WindowMode};
use criterion::{Criterion, criterion_group, criterion_main};

fn slide(criterion: &mut Criterion) {
    let world = worlds::small();
    let own = Settings::of(&world, 0);
    let mut group = criterion.benchmark_group("window slide");
    group.sample_size(20);
    for (name, mode) in [("recompute", WindowMode::Recompute), ("windowed", WindowMode::Windowed)] {
        let session = worlds::session(&world, Settings { mode, ..own });
        let newest = session.window().blocks().last().expect("the window is full").shallow_clone();
        group.bench_function(name, |bencher| {
            bencher.iter(|| tch::no_grad(|| session.window().appended(&world.model, &newest)));
        });
    }
}

criterion_group!(benches, slide);
criterion_main!(benches);
