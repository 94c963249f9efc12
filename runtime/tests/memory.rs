//! An endless stream holds a constant amount of memory. Alone in its file: it watches the whole process.

#![cfg(feature = "video")]

mod common;

use std::time::Instant;

use acdit_runtime::{Engine, Sampling, Settings, StreamConfig, stats};

/// Growth that 1,500 blocks may show, in bytes. One block's latents, pictures, packets, keys and values are some 40 KiB:
/// kept for every block they would show as 60 MiB.
const GROWTH: u64 = 4 << 20;
const BLOCKS: u64 = 2_000;
const SETTLED: u64 = 500;

#[test]
fn two_thousand_blocks_leave_memory_flat() {
    let (world, vae) = common::world();
    let engine = Engine::start(world, vae).unwrap();
    let config = engine.config(1);
    let sampling = Sampling { steps: 2, ..config.settings.sampling };
    let settings = Settings { sampling, ..config.settings };
    let stream = engine.open(&StreamConfig { settings, max_speed: true, packets: 4096, ..config }).unwrap();
    stream.handle.viewers(1, 1);

    let (mut resident, mut times) = (Vec::new(), Vec::new());
    let mut started = Instant::now();
    loop {
        let packet = stream.packets.recv().unwrap().item;
        let made = packet.block + 1;
        if made.is_multiple_of(SETTLED) && times.len() as u64 == made / SETTLED - 1 {
            resident.push(stats::resident_memory().unwrap());
            times.push(started.elapsed() / SETTLED as u32);
            started = Instant::now();
        }
        if made == BLOCKS {
            break;
        }
    }
    println!("resident bytes after every {SETTLED} blocks: {resident:?}");
    println!("time per block in every {SETTLED} blocks: {times:?}");
    assert!(resident.last().unwrap() < &(resident[0] + GROWTH), "{resident:?}");
}
