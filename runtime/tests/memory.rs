//! An endless stream holds a constant amount of memory, and a block takes as long in the end as in the beginning. Alone in its
//! file: it watches the whole process.
//!
//! Always with a tiny world. With `ACDIT_SOAK_BLOCKS=10000` (`make soak-memory`) also with the shipped one, at full speed through
//! its real decoder and encoder; then time is judged as well, and both judges meet a run that they must find bad.

#![cfg(feature = "video")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use acdit_codec::vae::Vae;
use acdit_runtime::{Engine, Sampling, Settings, StreamConfig, World, stats};
use tch::{Device, Kind};

/// Blocks of the tiny world, and the growth that the last three quarters of them may show, in bytes. One block's latents,
/// pictures, packets, keys and values are some 40 KiB: kept for every block they would show as 60 MiB.
const TINY: (usize, u64) = (2_000, 4 << 20);
/// Growth that a long run of the shipped world may show, in bytes.
const GROWTH: u64 = 20_000_000;
/// Blocks that one median is taken of.
const HUNDRED: usize = 100;
/// Hundreds at the beginning: memory settles in them, and how much their medians differ is what a machine's noise comes to.
const BEGINNING: usize = 10;
/// What the bad run keeps of each block, and the threads that take each core from it after its beginning.
const LEAK: usize = 64 << 10;
const THIEVES: usize = 2;

/// What a run held and took.
struct Run {
    /// Bytes after every hundred blocks.
    resident: Vec<u64>,
    /// Median seconds of a block in every hundred.
    medians: Vec<f64>,
}

impl Run {
    /// So many blocks of a stream at full speed. `after` hears of each: it is where a bad run does its mischief.
    fn of(engine: &Engine, blocks: usize, mut after: impl FnMut(usize)) -> Self {
        let config = engine.config(1);
        let sampling = Sampling { steps: config.settings.sampling.steps.min(2), ..config.settings.sampling };
        let settings = Settings { sampling, ..config.settings };
        let config = StreamConfig { settings, max_speed: true, packets: 4096, ..config };
        let stream = engine.open(&config).unwrap();
        stream.handle.viewers(1, 1);
        let (mut resident, mut medians, mut hundred) = (Vec::new(), Vec::new(), Vec::new());
        let (mut made, mut last) = (None, Instant::now());
        while medians.len() < blocks / HUNDRED {
            let packet = stream.packets.recv().unwrap().item;
            if made.replace(packet.block).is_none_or(|before| before == packet.block) {
                continue;
            }
            after(packet.block as usize);
            hundred.push(last.elapsed().as_secs_f64());
            last = Instant::now();
            if hundred.len() == HUNDRED {
                resident.push(stats::resident_memory().unwrap());
                medians.push(acdit_runtime::bench::median(std::mem::take(&mut hundred)));
                if medians.len().is_multiple_of(BEGINNING) {
                    let (bytes, seconds) = (resident[resident.len() - 1], medians[medians.len() - 1]);
                    println!("{} blocks: {bytes} bytes, {seconds:.4} s a block", medians.len() * HUNDRED);
                }
            }
        }
        Self { resident, medians }
    }

    /// Bytes more in the end than once memory had settled.
    fn growth(&self, settled: usize) -> u64 {
        self.resident.last().unwrap().saturating_sub(self.resident[settled - 1])
    }

    /// Whether the last hundred's median is no higher than those of the first hundreds, which are the same load ten times.
    fn is_even(&self) -> bool {
        let first = &self.medians[..BEGINNING];
        self.medians.last().unwrap() <= &first.iter().copied().fold(0.0, f64::max)
    }

    fn report(&self, what: &str) {
        let first = &self.medians[..BEGINNING.min(self.medians.len())];
        let [least, most] =
            [f64::min, f64::max].map(|pick| first.iter().copied().reduce(pick).unwrap() * 1e3);
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "{what}: {} blocks; median block {least:.2} to {most:.2} ms in the first {} hundreds, {:.2} ms in the last; \
             {:.1} MB after those, {:.1} MB in the end, {:.1} MB at most",
            self.medians.len() * HUNDRED,
            first.len(),
            self.medians.last().unwrap() * 1e3,
            megabytes(self.resident[first.len() - 1]),
            megabytes(*self.resident.last().unwrap()),
            megabytes(*self.resident.iter().max().unwrap()),
        );
    }
}

#[test]
fn a_long_stream_leaves_memory_flat() {
    let (world, vae) = common::world();
    let engine = Engine::start(world, vae).unwrap();
    let (blocks, growth) = TINY;
    let run = Run::of(&engine, blocks, |_| ());
    run.report("tiny world");
    assert!(run.growth(blocks / HUNDRED / 4) < growth, "{:?}", run.resident);

    match std::env::var("ACDIT_SOAK_BLOCKS") {
        Ok(blocks) => shipped_world(blocks.parse().expect("ACDIT_SOAK_BLOCKS is a number")),
        Err(_) => {
            println!("the shipped world: skipped, because it takes many minutes: `make soak-memory` runs it")
        }
    }
}

fn shipped_world(blocks: usize) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/gravity"));
    let world = World::load(folder, Device::Cpu, Kind::BFloat16).unwrap();
    let vae = Vae::load(&folder.join("vae"), Device::Cpu, Kind::BFloat16).unwrap();
    let engine = Engine::start(world, vae).unwrap();
    let good = Run::of(&engine, blocks.max(2 * BEGINNING * HUNDRED), |_| ());
    good.report("gravity");
    let (mut kept, over) = (Vec::new(), AtomicBool::new(false));
    let steal = || {
        while !over.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let bad = std::thread::scope(|scope| {
        let bad = Run::of(&engine, 2 * BEGINNING * HUNDRED, |block| {
            kept.push(vec![1u8; LEAK]);
            if block == BEGINNING * HUNDRED {
                let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
                (0..THIEVES * cores).for_each(|_| drop(scope.spawn(steal)));
            }
        });
        over.store(true, Ordering::Relaxed);
        bad
    });
    bad.report("control: gravity, with a leak and its cores stolen");
    assert!(bad.growth(BEGINNING) > GROWTH && !bad.is_even(), "the judges see what is bad");
    assert!(good.growth(BEGINNING) <= GROWTH, "{:?}", good.resident);
    assert!(good.is_even(), "{:?}", good.medians);
}
