//! The shipped world in real Chromium, through the real binary: `tests/browser/scenarios/` says what is checked.

use std::{path::Path, process::Command};

#[test]
fn the_page_does_everything_that_it_offers() {
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
    let picture = folder.path().join("picture.png");
    film(&clip, &["-i", "testsrc=size=160x120:rate=10:duration=3", "-pix_fmt", "yuv420p"]);
    film(&picture, &["-i", "testsrc=size=320x240:rate=1:duration=1", "-frames:v", "1"]);

    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    let output = Command::new("node")
        .arg(root.join("tests/browser/page.mjs"))
        .args([&shots, &clip, &picture])
        .args(["--", env!("CARGO_BIN_EXE_acdit-world"), "serve", "--port", "{port}"])
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("what it looked like: {}", shots.display());
}

/// Makes a test picture or film with FFmpeg.
fn film(path: &Path, options: &[&str]) {
    let made = Command::new("ffmpeg").args(["-v", "error", "-f", "lavfi"]).args(options).arg(path).status();
    assert!(made.unwrap().success());
}
