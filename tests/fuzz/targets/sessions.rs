//! What a session's folder holds.

use std::fmt::Write as _;

use acdit_runtime::{Entry, Row, Sampling, Stamp, Timeline, World, read_log, write_log};

use super::{parts, tiny};

/// Blocks that a replayed log may have: more would only be slow.
const MOST_BLOCKS: usize = 6;

/// A log, read and written.
pub(super) fn event_log(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match read_log(text) {
        Ok(entries) => {
            let again = write_log(&entries);
            // what is no number equals nothing, itself included
            assert_eq!(write_log(&read_log(&again).unwrap()), again);
        }
        Err(error) => assert!(error.to_string().starts_with("event log, line ")),
    }
}

/// A log of the tiny world, computed again. Wherever it comes from, it is taken for one of this machine.
pub(super) fn replay(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(mut entries) = read_log(text) else { return };
    let blocks = entries.iter().filter(|entry| matches!(entry, Entry::Block { .. })).count();
    let dear = entries.iter().any(|entry| match entry {
        Entry::Start { settings, .. } => settings.sampling.steps > 4,
        Entry::Sampling { sampling, .. } => sampling.steps > 4,
        _ => false,
    });
    if blocks > MOST_BLOCKS || dear {
        return;
    }
    tiny::with_world(|world, _| {
        if let Some(Entry::Start { stamp, .. }) = entries.first_mut() {
            **stamp = Stamp::of(world);
        }
        match Timeline::replay(world, &entries) {
            Ok(timeline) => goes_on(world, &timeline),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

/// Whether a session of any origin can be gone back in and made to go on, or says why not.
fn goes_on(world: &World, timeline: &Timeline) {
    let (reach, index) = (timeline.reach(), timeline.index());
    assert!(reach <= index);
    for block in [reach, index] {
        let stepped = timeline.fork(world, block).and_then(|mut fork| {
            let sampling = Sampling { steps: 1, ..fork.session().settings().sampling };
            fork.set_sampling(world, sampling)?;
            fork.step(world, None, Row::ALONE)
        });
        if let Err(error) = stepped {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// A saved session: its JSON, its log, its tensors. The JSON may say `STAMP` for what this machine is.
pub(super) fn snapshot(bytes: &[u8]) {
    let [manifest, log, tensors] = parts::<3>(bytes);
    if log.windows(14).filter(|window| window == br#""type":"block""#).count() > 2 * MOST_BLOCKS {
        return;
    }
    tiny::with_world(|world, _| {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let stamp = serde_json::to_string(&Stamp::of(world)).unwrap();
        let manifest = String::from_utf8_lossy(manifest).replace("\"STAMP\"", &stamp);
        write("session.json", manifest.as_bytes());
        let log = String::from_utf8_lossy(log).lines().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        });
        write("log.jsonl", log.as_bytes());
        write("tensors.safetensors", tensors);
        match Timeline::restore(world, folder.path()) {
            Ok(timeline) => goes_on(world, &timeline),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
