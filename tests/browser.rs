//! The shipped world in real Chromium, through the real binary: `tests/browser/page.mjs` says what is checked.

use std::{path::Path, process::Command};

/// The repository, if Chromium and all else is there that the page needs.
fn ready() -> Option<&'static Path> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    for needed in
        [Path::new(&chromium), &root.join("tests/browser/node_modules"), &root.join("weights/gravity")]
    {
        if !needed.exists() {
            println!("skipped: {} is missing; `make test` sets up what can be set up", needed.display());
            return None;
        }
    }
    Some(root)
}

/// Runs a script, which has to succeed.
fn run(script: &mut Command) {
    let output = script.output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_a_secure_context_the_page_plays_through_media_source() {
    let Some(root) = ready() else { return };
    let server = [env!("CARGO_BIN_EXE_acdit-world"), "serve", "--port", "0"];
    run(Command::new("node").arg(root.join("tests/browser/mse.mjs")).args(server));
}

#[test]
fn the_page_plays_steers_rewinds_forks_continues_and_reconnects() {
    let Some(root) = ready() else { return };
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=160x120:rate=10:duration=3",
            "-pix_fmt",
            "yuv420p",
        ])
        .arg(&clip)
        .status()
        .unwrap();
    assert!(made.success());

    run(Command::new("node").arg(root.join("tests/browser/page.mjs")).arg(&clip).args([
        "--",
        env!("CARGO_BIN_EXE_acdit-world"),
        "serve",
        "--port",
        "{port}",
    ]));
}
