//! Every input of every fuzz target's corpus, run as a test: what once crashed stays mended. `make fuzz` looks for more.

#![cfg(feature = "video")]

mod targets;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A panic of a server's task ends that task only: it has to be counted.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn corpora() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus"))
}

fn names(folder: PathBuf) -> BTreeSet<String> {
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_input_of_every_corpus_is_taken_or_refused() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        report(info);
    }));
    for (name, target) in targets::ALL {
        let inputs = names(corpora().join(name));
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in &inputs {
            let before = PANICS.load(Ordering::SeqCst);
            let bytes = std::fs::read(corpora().join(name).join(input)).unwrap();
            let ran = std::panic::catch_unwind(|| target(&bytes));
            assert!(ran.is_ok() && PANICS.load(Ordering::SeqCst) == before, "corpus/{name}/{input}");
        }
        println!("{name}: {} inputs", inputs.len());
    }
}

#[test]
fn every_corpus_belongs_to_a_target() {
    let known: BTreeSet<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(corpora()), known);
}
