//! One libFuzzer binary for all targets: `ACDIT_FUZZ_TARGET` says which. One link instead of eighteen.
#![no_main]

#[path = "../tests/fuzz/targets/mod.rs"]
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fn chosen() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("ACDIT_FUZZ_TARGET").unwrap_or_default();
        let names = || targets::ALL.map(|(name, _)| name).join(", ");
        let found = targets::ALL.into_iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("ACDIT_FUZZ_TARGET is {name:?}, expected one of {}", names())).1
    })
}

fuzz_target!(|bytes: &[u8]| chosen()(bytes));
