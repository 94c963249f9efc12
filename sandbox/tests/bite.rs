//! Whether confinement bites: each act works in a free process, and not in a confined one.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

/// What seccomp kills with.
const SIGSYS: i32 = 31;
const SIGKILL: i32 = 9;

fn escape(words: &[&str], file: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_escape")).args(words).arg(file).output().unwrap()
}

/// A file that may be opened and removed.
struct Bait(std::path::PathBuf);

impl Bait {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("acdit-{}-{name}", std::process::id()));
        std::fs::write(&path, "bait").unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        // Some tests succeed in removing it.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn all_layers_are_put_on_here() {
    let free = escape(&["--confined", "nothing"], "");
    let said = String::from_utf8_lossy(&free.stdout).into_owned();
    assert_eq!(free.status.code(), Some(0), "{free:?}");
    assert!(said.contains("rlimits, no_new_privs") && said.contains(", seccomp"), "{said}");
}

#[test]
fn what_a_decoder_has_no_business_with_kills_it() {
    for act in ["open", "look", "remove", "socket", "execute", "thread", "fork", "trace", "signal", "code"] {
        let bait = Bait::new(act);
        let confined = escape(&["--confined", act], bait.path());
        assert_eq!(confined.status.signal(), Some(SIGSYS), "{act}: {confined:?}");
        let free = escape(&[act], bait.path());
        assert_eq!(free.status.code(), Some(0), "{act}: {free:?}");
    }
}

#[test]
fn what_it_may_use_up_is_bounded() {
    for act in ["memory", "environment"] {
        assert_eq!(escape(&["--confined", act], "").status.code(), Some(1), "{act}");
        assert_eq!(escape(&[act], "").status.code(), Some(0), "{act}");
    }
    assert_eq!(escape(&["--confined", "compute"], "").status.signal(), Some(SIGKILL));
    assert_eq!(escape(&["compute"], "").status.code(), Some(0));
}

#[test]
fn an_inherited_file_is_closed() {
    let bait = Bait::new("inherited");
    let escape = |confined: &str| {
        let script =
            format!("exec 9<{}; exec {} {confined} inherited", bait.path(), env!("CARGO_BIN_EXE_escape"));
        Command::new("/bin/sh").args(["-c", &script]).output().unwrap()
    };
    let confined = escape("--confined");
    assert_eq!(confined.status.code(), Some(1), "{confined:?}");
    assert!(String::from_utf8_lossy(&confined.stderr).contains("Bad file descriptor"));
    assert_eq!(escape("").status.code(), Some(0));
}

#[test]
fn without_seccomp_the_other_layers_still_refuse() {
    for act in ["open", "remove", "socket", "execute"] {
        let bait = Bait::new(act);
        let confined = escape(&["--without", "seccomp", "--confined", act], bait.path());
        let said = String::from_utf8_lossy(&confined.stdout).into_owned();
        assert!(said.contains("landlock") && said.contains("no seccomp"), "{act}: {confined:?}");
        assert_eq!(confined.status.code(), Some(1), "{act}: {confined:?}");
        let free = escape(&["--without", "seccomp", act], bait.path());
        assert_eq!(free.status.code(), Some(0), "{act}: {free:?}");
    }
}

#[test]
fn a_kernel_without_either_layer_is_noticed() {
    let words = ["--without", "seccomp", "--without", "landlock", "--confined", "remove"];
    let bait = Bait::new("bare");
    let confined = escape(&words, bait.path());
    let said = String::from_utf8_lossy(&confined.stdout).into_owned();
    assert!(said.contains("no landlock, no seccomp"), "{said}");
    assert_eq!(confined.status.code(), Some(0), "nothing is left that would refuse: {confined:?}");
}
