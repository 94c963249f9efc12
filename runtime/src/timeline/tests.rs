//! Logs replay, the way back is exact, and what was saved goes on as if nothing had been.

use acdit_model::{Config, Preset, diffusion::SolverKind};
use proptest::prelude::*;
use tch::{Device, Kind};

use super::*;
use crate::batch::Stage;
use crate::batch::tests::with_fault;

fn world(context_window: Option<i64>) -> World {
    let config = Config {
        hidden_size: 32,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        patch_size: 2,
        context_window,
        ..Config::video(Preset::B, 32, 3)
    };
    World::random(&config, 7, Device::Cpu, Kind::Float).unwrap()
}

fn sampling(steps: usize) -> Sampling {
    Sampling { steps, guidance: 1.5, solver: SolverKind::Ddim, guided: 1.0 }
}

fn begin(world: &World, seed: u64) -> Timeline {
    let settings = Settings { sampling: sampling(1), ..Settings::of(world, seed) };
    Timeline::new(world, settings, 0).unwrap()
}

fn latents(seed: u64, frames: i64) -> Tensor {
    (Tensor::arange(frames * 64, (Kind::Float, Device::Cpu)) * (0.7 + seed as f64))
        .sin()
        .view([frames, 4, 4, 4])
}

fn hash(timeline: &Timeline) -> blake3::Hash {
    timeline.session().state_hash().unwrap()
}

fn row(batch: u32, slot: u32) -> Row {
    Row { batch, slot }
}

/// The hashes of the log's blocks, in order.
fn hashes(timeline: &Timeline) -> Vec<blake3::Hash> {
    let blocks = timeline.log().iter().filter_map(|entry| match entry {
        Entry::Block { hash, .. } => Some(*hash),
        _ => None,
    });
    blocks.collect()
}

#[derive(Clone, Debug)]
enum Deed {
    Step(u32, u32),
    Inject(u64, i64),
    Label(i64),
    Seed(u64),
    Sampling(usize),
    Rewind(f64),
    Fork(f64),
    Restart(u64),
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (1u32..4).prop_flat_map(|batch| (Just(batch), 0..batch)).prop_map(|(b, s)| Deed::Step(b, s)),
        2 => (any::<u8>(), 1i64..5).prop_map(|(seed, frames)| Deed::Inject(seed.into(), frames)),
        2 => (0i64..4).prop_map(Deed::Label),
        1 => (0u64..9).prop_map(Deed::Seed),
        1 => (1usize..4).prop_map(Deed::Sampling),
        2 => (0.0..1.0).prop_map(Deed::Rewind),
        2 => (0.0..1.0).prop_map(Deed::Fork),
        1 => (0u64..9).prop_map(Deed::Restart),
    ]
}

fn act(world: &World, timeline: &mut Timeline, deed: &Deed) {
    let back = |part: f64| (timeline.index() as f64 * part) as u64;
    match *deed {
        Deed::Step(batch, slot) => timeline.step(world, None, row(batch, slot)).map(|_| ()).unwrap(),
        Deed::Inject(seed, frames) => {
            timeline.step(world, Some(latents(seed, frames)), Row::ALONE).map(|_| ()).unwrap();
        }
        Deed::Label(label) => timeline.set_label(world, label).unwrap(),
        Deed::Seed(seed) => timeline.set_seed(seed),
        Deed::Sampling(steps) => timeline.set_sampling(world, sampling(steps)).unwrap(),
        Deed::Rewind(part) => timeline.rewind(world, back(part)).unwrap(),
        Deed::Fork(part) => *timeline = timeline.fork(world, back(part)).unwrap(),
        Deed::Restart(seed) => timeline.restart(world, seed).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_happens_the_log_replays_to_the_same_state(
        windowed: bool, deeds in prop::collection::vec(deeds(), 1..24),
    ) {
        let world = world(windowed.then_some(3));
        let mut timeline = begin(&world, 5);
        deeds.iter().for_each(|deed| act(&world, &mut timeline, deed));
        let read = read_log(&write_log(timeline.log().iter())).unwrap();
        prop_assert_eq!(&Log::from_iter(read.iter().cloned()), timeline.log());
        let replayed = Timeline::replay(&world, &read).unwrap();
        prop_assert_eq!(replayed.log(), timeline.log());
        prop_assert_eq!((hash(&replayed), replayed.label()), (hash(&timeline), timeline.label()));
    }
}

proptest! {
    /// As a crash leaves it, or a disk.
    #[test]
    fn a_log_cut_anywhere_is_its_whole_lines_or_an_error_that_names_the_cut_one(
        entries in prop::collection::vec(entries(), 1..12), part in 0.0..1.0,
    ) {
        let text = write_log(&entries);
        prop_assert_eq!(read_log(&text).unwrap(), entries.clone());
        let cut = &text[..(text.len() as f64 * part) as usize];
        let whole = cut.matches('\n').count();
        match read_log(cut) {
            Ok(read) => prop_assert_eq!(&read[..], &entries[..read.len()]),
            Err(Error::Log { line, .. }) => prop_assert_eq!(line, whole + 1),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

fn entries() -> impl Strategy<Value = Entry> {
    let (block, seed, label) = (any::<u64>(), any::<u64>(), any::<i64>());
    prop_oneof![
        (block, label).prop_map(|(block, label)| Entry::Label { block, label }),
        (block, seed).prop_map(|(block, seed)| Entry::Seed { block, seed }),
        (block, 1usize..99).prop_map(|(block, s)| Entry::Sampling { block, sampling: sampling(s) }),
        (block, 0u64..9, 1i64..4)
            .prop_map(|(block, seed, n)| Entry::Inject { block, latents: Latents::new(&latents(seed, n)) }),
        (block, any::<[u8; 32]>(), any::<(u32, u32)>()).prop_map(|(block, hash, (b, s))| Entry::Block {
            block,
            hash: hash.into(),
            row: row(b, s)
        }),
        block.prop_map(|block| Entry::Rewind { block }),
        block.prop_map(|block| Entry::Fork { block }),
        seed.prop_map(|seed| Entry::Restart { seed }),
        block.prop_map(|block| Entry::Pause { block }),
        block.prop_map(|block| Entry::Resume { block }),
    ]
}

/// Far enough that the oldest blocks are let go, with labels, seeds and rows that change on the way.
#[test]
fn every_block_that_can_be_gone_back_to_is_made_again_bit_for_bit() {
    for window in [Some(3), None] {
        let world = world(window);
        let mut timeline = begin(&world, 5);
        let mut states = Vec::new();
        let rows: Vec<Row> = (0..600).map(|block| row(1 + block % 3, block % (1 + block % 3))).collect();
        for (block, &row) in rows.iter().enumerate() {
            timeline.set_label(&world, block as i64 / 7 % 3).unwrap();
            if block % 50 == 49 {
                timeline.set_seed(block as u64);
            }
            states.push(hash(&timeline));
            timeline.step(&world, None, row).unwrap();
        }
        let made = hashes(&timeline);
        let reach = timeline.reach();
        assert!((1..=600 - KEPT as u64).contains(&reach), "{reach}");
        assert!(timeline.rewind(&world, reach - 1).is_err() && timeline.rewind(&world, 601).is_err());
        for block in [reach, reach + 1, 255, 256, 257, 330, 599] {
            let mut fork = timeline.fork(&world, block).unwrap();
            assert_eq!(hash(&fork), states[block as usize], "{window:?}, block {block}");
            let again = fork.step(&world, None, rows[block as usize]).unwrap();
            assert_eq!(again.hash, made[block as usize]);
        }
        let untouched = hash(&timeline);
        timeline.rewind(&world, 400).unwrap();
        assert_ne!(hash(&timeline), untouched);
        assert!(timeline.rewind(&world, 401).is_err(), "what came after is gone");
    }
}

#[test]
fn a_fork_shares_its_prefix_and_then_goes_its_own_way() {
    let world = world(Some(3));
    let mut parent = begin(&world, 1);
    for _ in 0..8 {
        parent.step(&world, None, Row::ALONE).unwrap();
    }
    let mut fork = parent.fork(&world, 5).unwrap();
    for (own, shared) in parent.kept.iter().zip(&fork.kept) {
        assert_eq!(own.tokens.data_ptr(), shared.tokens.data_ptr());
    }
    let before = hash(&parent);
    fork.set_label(&world, 2).unwrap();
    fork.step(&world, None, Row::ALONE).unwrap();
    assert_eq!(hash(&parent), before);
    assert_ne!(hashes(&fork)[8], hashes(&parent)[5]);
}

#[test]
fn a_log_that_was_tampered_with_is_noticed() {
    let world = world(Some(3));
    let mut timeline = begin(&world, 5);
    for label in [0, 1, 1] {
        timeline.set_label(&world, label).unwrap();
        timeline.step(&world, None, Row::ALONE).unwrap();
    }
    let text = write_log(timeline.log().iter());
    let replay = |text: &str| Timeline::replay(&world, &read_log(text)?).map(|_| ());
    replay(&text).unwrap();
    let error = |from: &str, to: &str| replay(&text.replace(from, to)).unwrap_err().to_string();
    assert!(
        error(r#""type":"label","block":1,"label":1"#, r#""type":"label","block":1,"label":2"#)
            .starts_with("replay: block 1 is")
    );
    assert!(error(r#""seed":5"#, r#""seed":6"#).starts_with("replay: block 0 is"));
    assert!(error(r#""batch":1,"slot":0"#, r#""batch":1,"slot":1"#).contains("row 1 of a batch of 1"));
    assert!(error(r#""batch":1,"#, r#""batch":4000000000,"#).contains("row 0 of a batch of 4000000000"));
    assert!(error(r#""dtype":"f32""#, r#""dtype":"bf16""#).contains("bf16"));
    assert!(
        error(r#""type":"start""#, r#""type":"begin""#).starts_with("event log, line 1: unknown variant")
    );
    assert!(error(r#""label":0"#, r#""label":9"#).contains("label 9"));
    assert!(replay("").is_err());
}

#[test]
fn a_saved_session_goes_on_as_if_nothing_had_been() {
    for window in [Some(3), None] {
        let world = world(window);
        let stamp = Stamp::of(&world);
        let folder = tempfile::tempdir().unwrap();
        let mut timeline = begin(&world, 5);
        let mut saver = Saver::new(folder.path().into());
        for blocks in [0, 2, 40] {
            for _ in 0..blocks {
                timeline.step(&world, None, row(2, 1)).unwrap();
            }
            timeline.set_paused(blocks == 2);
            std::fs::write(folder.path().join("failed.partial"), "").unwrap();
            assert!(saver.save(&timeline, &stamp).unwrap() || blocks == 0);
            assert!(!saver.save(&timeline, &stamp).unwrap(), "nothing has happened since");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "the snapshot before is gone");
            let mut restored = Timeline::restore(&world, folder.path()).unwrap();
            assert_eq!((hash(&restored), restored.log()), (hash(&timeline), timeline.log()));
            assert_eq!((restored.reach(), restored.is_paused()), (timeline.reach(), blocks == 2));
            assert!(!restored.fork(&world, restored.index()).unwrap().is_paused());
            let back = restored.index() / 2;
            assert_eq!(
                hash(&restored.fork(&world, back).unwrap()),
                hash(&timeline.fork(&world, back).unwrap())
            );
            let next = |timeline: &mut Timeline| timeline.step(&world, None, Row::ALONE).unwrap().hash;
            assert_eq!(next(&mut restored), next(&mut timeline.clone()));
        }
    }
}

#[test]
fn lines_since_the_snapshot_are_done_again() {
    let world = world(Some(3));
    let folder = tempfile::tempdir().unwrap();
    let mut timeline = begin(&world, 5);
    timeline.step(&world, None, Row::ALONE).unwrap();
    let mut saver = Saver::new(folder.path().into());
    assert!(saver.save(&timeline, &Stamp::of(&world)).unwrap());
    for (label, row) in [(1, row(3, 2)), (2, Row::ALONE)] {
        timeline.set_label(&world, label).unwrap();
        timeline.step(&world, Some(latents(1, 2)), row).unwrap();
        timeline.set_paused(true);
        saver.save_log(&timeline).unwrap();
    }
    let same = |restored: &Timeline, other: &Timeline| {
        assert_eq!((hash(restored), restored.log()), (hash(other), other.log()));
        assert_eq!(restored.is_paused(), other.is_paused());
    };
    same(&Timeline::restore(&world, folder.path()).unwrap(), &timeline);

    let lines = folder.path().join("log.jsonl");
    let text = std::fs::read_to_string(&lines).unwrap();
    // the last line is of the last block
    std::fs::write(&lines, &text[..text.len() - 9]).unwrap();
    assert_eq!(Timeline::restore(&world, folder.path()).unwrap().index(), timeline.index() - 1);
    std::fs::write(&lines, text.replace(r#""batch":3,"slot":2"#, r#""batch":3,"slot":3"#)).unwrap();
    assert_eq!(Timeline::restore(&world, folder.path()).unwrap().index(), 1, "as it was when it was saved");

    // a write that stopped within a line is taken back by the next
    std::fs::write(&lines, format!("{text}{{\"type\":\"bl")).unwrap();
    timeline.step(&world, None, Row::ALONE).unwrap();
    saver.save_log(&timeline).unwrap();
    same(&Timeline::restore(&world, folder.path()).unwrap(), &timeline);
    std::fs::write(&lines, "").unwrap();
    let refused = Timeline::restore(&world, folder.path()).unwrap_err().to_string();
    assert!(refused.contains("0 lines, the snapshot has seen 2"), "{refused}");
    assert!(Saver::new(folder.path().into()).save(&timeline, &Stamp::of(&world)).unwrap());
    same(&Timeline::restore(&world, folder.path()).unwrap(), &timeline);
}

#[test]
fn sessions_that_were_made_side_by_side_are_done_again_side_by_side() {
    let world = world(Some(3));
    let folders = [0; 4].map(|_| tempfile::tempdir().unwrap());
    // three of one batch, the second with other steps, and one by itself
    let rows = [row(3, 0), row(3, 1), row(3, 2), Row::ALONE];
    let timelines: Vec<Timeline> = (folders.iter().zip(rows).zip(0..))
        .map(|((folder, row), seed)| {
            let mut timeline = begin(&world, seed);
            let mut saver = Saver::new(folder.path().into());
            timeline.step(&world, None, row).unwrap();
            saver.save(&timeline, &Stamp::of(&world)).unwrap();
            timeline.set_sampling(&world, sampling(if seed == 1 { 2 } else { 1 })).unwrap();
            for block in 0..4 {
                timeline.set_label(&world, (block + seed as i64) % 3).unwrap();
                timeline.step(&world, None, row).unwrap();
            }
            saver.save_log(&timeline).unwrap();
            timeline
        })
        .collect();
    let restored = || {
        let passes = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = passes.clone();
        let count = move |stage| {
            counted.set(counted.get() + u32::from(stage == Stage::Context));
            Ok(())
        };
        let folders: Vec<_> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        (with_fault(count, || Timeline::restore_all(&world, &folders)), passes.get())
    };
    let (whole, passes) = restored();
    for (restored, timeline) in whole.iter().zip(&timelines) {
        let restored = restored.as_ref().unwrap();
        assert_eq!((hash(restored), restored.log()), (hash(timeline), timeline.log()));
    }
    assert_eq!(passes, 12, "four blocks of three kinds of batch");

    // one whose log is of something else, one that is none: the others go on
    let log = folders[0].path().join("log.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replace(r#""label":2"#, r#""label":1"#)).unwrap();
    std::fs::write(folders[3].path().join("session.json"), "{}").unwrap();
    let (partly, _) = restored();
    assert_eq!(partly[0].as_ref().unwrap().index(), 1, "as it was when it was saved");
    for at in [1, 2] {
        assert_eq!(hash(partly[at].as_ref().unwrap()), hash(&timelines[at]));
    }
    assert!(partly[3].is_err());
}

#[test]
fn the_past_tells_labels_and_what_came_from_outside() {
    let world = world(Some(3));
    let folder = tempfile::tempdir().unwrap();
    let mut timeline = begin(&world, 5);
    for (label, inject) in [(1, None), (2, Some(latents(1, 1))), (0, None), (2, None)] {
        timeline.set_label(&world, label).unwrap();
        timeline.step(&world, inject, Row::ALONE).unwrap();
    }
    let told = |timeline: &Timeline| -> Vec<_> {
        timeline.past().map(|Past { block, label, injected }| (block, label, injected)).collect()
    };
    assert_eq!(told(&timeline), [(0, 1, 0), (1, 2, 1), (2, 0, 0), (3, 2, 0)]);
    assert!(Saver::new(folder.path().into()).save(&timeline, &Stamp::of(&world)).unwrap());
    assert_eq!(told(&Timeline::restore(&world, folder.path()).unwrap()), told(&timeline));
    timeline.rewind(&world, 2).unwrap();
    assert_eq!(told(&timeline), [(0, 1, 0), (1, 2, 1)]);
    for _ in 2..KEPT as u64 + 3 * ANCHOR_EVERY {
        timeline.step(&world, None, Row::ALONE).unwrap();
    }
    assert!(told(&timeline)[0].0 > 0);
    assert_eq!(told(&timeline).last().unwrap().0, timeline.index() - 1);
}

#[test]
fn a_session_goes_on_where_other_bits_are_computed() {
    let world = world(Some(3));
    let folder = tempfile::tempdir().unwrap();
    let mut timeline = begin(&world, 5);
    for _ in 0..3 {
        timeline.step(&world, None, Row::ALONE).unwrap();
    }
    let here = Stamp::of(&world);
    let elsewhere = Stamp { threads: here.threads + 1, ..here.clone() };
    let mut saver = Saver::new(folder.path().into());
    assert!(saver.save(&timeline, &elsewhere).unwrap());
    let mut ahead = timeline.clone();
    ahead.step(&world, None, Row::ALONE).unwrap();
    saver.save_log(&ahead).unwrap();

    let mut moved = Timeline::restore(&world, folder.path()).unwrap();
    assert_eq!(hash(&moved), hash(&timeline), "as it was saved: what came then has the bits of elsewhere");
    let last = moved.log().iter().last().unwrap();
    assert_eq!(*last, Entry::Moved { block: 3, stamp: Box::new(here.clone()) });
    moved.step(&world, None, Row::ALONE).unwrap();
    let log: Vec<Entry> = read_log(&write_log(moved.log().iter())).unwrap();
    assert_eq!(Timeline::replay(&world, &log).unwrap().log(), moved.log());
    let mut other = log;
    other[4] = Entry::Moved { block: 3, stamp: Box::new(elsewhere) };
    let refused = Timeline::replay(&world, &other).unwrap_err().to_string();
    assert!(refused.starts_with("a log from Stamp"), "{refused}");

    assert!(Saver::new(folder.path().into()).save(&moved, &here).unwrap());
    assert_eq!(Timeline::restore(&world, folder.path()).unwrap().log(), moved.log(), "at home now");

    let rounded = World::random(world.model.config(), 3, Device::Cpu, Kind::BFloat16).unwrap();
    let mut rounded_timeline = Timeline::restore(&rounded, folder.path()).unwrap();
    let stamps: Vec<_> = rounded_timeline.log().iter().filter_map(Entry::stamp).collect();
    assert_eq!(stamps.last().unwrap().dtype, "bf16");
    rounded_timeline.rewind(&rounded, 1).unwrap();
    assert_eq!(rounded_timeline.step(&rounded, None, Row::ALONE).unwrap().index, 1);
}

#[test]
fn snapshots_that_are_not_whole_are_refused() {
    let world = world(Some(3));
    let folder = tempfile::tempdir().unwrap();
    let mut timeline = begin(&world, 5);
    for _ in 0..3 {
        timeline.step(&world, None, Row::ALONE).unwrap();
    }
    assert!(Saver::new(folder.path().into()).save(&timeline, &Stamp::of(&world)).unwrap());
    let path = folder.path().join("session.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Timeline::restore(&world, folder.path()).unwrap_err().to_string()
    };
    assert!(refused(&whole[..whole.len() / 2]).contains("session.json: EOF"));
    assert!(
        refused(&whole.replacen(r#""version":1"#, r#""version":9"#, 1)).contains("version 9, expected 1")
    );
    assert!(refused(&whole.replace(r#""index":3"#, r#""index":4"#)).contains("do not lead to its session"));
    assert!(refused(&whole.replace(r#""layers":2"#, r#""layers":1"#)).contains("do not fit"));
    assert!(refused(&whole.replace(r#""tensors":""#, r#""tensors":"../"#)).contains("outside its folder"));
    // what is read only when somebody goes back
    assert!(refused(&whole.replace(r#""batch":1"#, r#""batch":0"#)).contains("row 0 of a batch of 0"));
    assert!(refused(&whole.replace(r#""batch":1"#, r#""batch":4000000000"#)).contains("batch of 4000000000"));
    assert!(refused(&whole.replace(r#""steps":1"#, r#""steps":0"#)).contains("0 steps"));
    assert!(refused(&whole.replace(r#""label":0"#, r#""label":-5"#)).contains("label -5"));
    assert!(refused(&whole.replace(r#""index":3"#, r#""index":9223372036854775813"#)).contains("do not fit"));
    let other = begin(&world, 6);
    assert!(
        refused(&whole.replace(&hash(&timeline).to_hex()[..], &hash(&other).to_hex()[..]))
            .contains("tensors")
    );
    assert!(Timeline::restore(&world, &folder.path().join("none")).is_err());
}

#[test]
fn an_hour_of_a_log_takes_little() {
    // 14,400 blocks an hour of the shipped world; docs/reliability.md has the sum
    assert!(size_of::<Entry>() <= 80, "{} bytes", size_of::<Entry>());
}

#[test]
fn a_long_log_is_read_from_any_line() {
    let entries: Vec<Entry> = (0..2500).map(|seed| Entry::Restart { seed }).collect();
    let log: Log = entries.iter().cloned().collect();
    assert_eq!((log.len(), log.is_empty(), Log::default().is_empty()), (2500, false, true));
    for first in [0, 1, 1023, 1024, 1025, 2047, 2048, 2499, 2500, 9000] {
        assert!(log.since(first).eq(entries.iter().skip(first)), "from {first}");
    }
    assert_ne!(log, entries[1..].iter().cloned().collect());
}
