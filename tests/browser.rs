//! The shipped world in real Chromium, through the real binary: `tests/browser/scenarios/` says what is checked.

use std::{path::Path, process::Command};

/// The repository, if Chromium and all else is there that the page needs.
fn ready() -> Option<&'static Path> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    for needed in [
        Path::new(&chromium),
        &root.join("tests/browser/node_modules/axe-core"),
        &root.join("weights/gravity"),
    ] {
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
fn the_page_does_everything_that_it_offers() {
    let Some(root) = ready() else { return };
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    let picture = folder.path().join("picture.png");
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    film(&clip, &["-i", "testsrc=size=160x120:rate=10:duration=3", "-pix_fmt", "yuv420p"]);
    film(&picture, &["-i", "testsrc=size=320x240:rate=1:duration=1", "-frames:v", "1"]);

    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    run(Command::new("node")
        .arg(root.join("tests/browser/page.mjs"))
        .args([&shots, &clip, &picture])
        .args(["--", env!("CARGO_BIN_EXE_acdit-world"), "serve", "--port", "{port}"])
        .args([Path::new("--recordings"), &folder.path().join("recordings")])
        .args([Path::new("--state"), &state]));
    println!("what it looked like: {}", shots.display());
}

/// Makes a test picture or film with FFmpeg.
fn film(path: &Path, options: &[&str]) {
    let made = Command::new("ffmpeg").args(["-v", "error", "-f", "lavfi"]).args(options).arg(path).status();
    assert!(made.unwrap().success());
}
