//! The shipped world in real Chromium, through the real binary: `tests/browser/page.mjs` says what is checked.

use std::{path::Path, process::Command};

#[test]
fn the_page_plays_steers_rewinds_forks_continues_and_reconnects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    for needed in
        [Path::new(&chromium), &root.join("tests/browser/node_modules"), &root.join("weights/gravity")]
    {
        if !needed.exists() {
            println!("skipped: {} is missing; `make test` sets up what can be set up", needed.display());
            return;
        }
    }
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

    let output = Command::new("node")
        .arg(root.join("tests/browser/page.mjs"))
        .arg(&clip)
        .args(["--", env!("CARGO_BIN_EXE_acdit-world"), "serve", "--port", "{port}"])
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
