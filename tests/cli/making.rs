//! Verbs that make something: what they print, and what is in the files.

use acdit_codec::video::{DecodeOptions, Limits, decode};
use acdit_codec::{Frame, Size};

use crate::harness::{FPS, Folder, SIDE};

/// The frames of a film at the size and rate that it was written with.
fn frames(folder: &Folder, name: &str) -> Vec<Frame> {
    let size = Size { width: 256, height: 256 };
    let options = DecodeOptions { size, frames_per_second: FPS, limits: Limits::FILE };
    decode(folder.path(name), &options).unwrap().frames
}

#[test]
fn generate_writes_exactly_the_frames_asked_for_and_repeats_itself() {
    let folder = Folder::with_world();
    let generate = |out: &str, more: &[&str]| {
        let words =
            ["generate", "--weights", "world", "--frames", "9", "--dtype", "f32", "--json", "--out", out];
        folder.run(&[&words[..], more].concat()).json()
    };
    let made = generate("a.mp4", &["--label", "left,right", "--hold", "1"]);
    assert_eq!(made["frames"], 9);
    assert_eq!(made["block_hashes"].as_array().unwrap().len(), 3);
    let (seconds, rate) = (made["seconds"].as_f64().unwrap(), made["frames_per_second"].as_f64().unwrap());
    assert!((seconds * rate - 9.0).abs() < 1e-6);
    assert_eq!(frames(&folder, "a.mp4").len(), 9);

    let again = generate("b.mp4", &["--label", "left,right", "--hold", "1"]);
    assert_eq!(again["block_hashes"], made["block_hashes"]);
    assert_eq!(std::fs::read(folder.path("a.mp4")).unwrap(), std::fs::read(folder.path("b.mp4")).unwrap());
    let other = generate("c.mp4", &["--label", "left,right", "--hold", "1", "--seed", "1"]);
    assert_ne!(other["block_hashes"][0], made["block_hashes"][0]);
    assert_eq!(folder.names(), ["a.mp4", "b.mp4", "c.mp4", "world"]);
}

#[test]
fn a_film_in_words_replaces_an_older_one() {
    let folder = Folder::with_world();
    std::fs::write(folder.path("a.mp4"), "older").unwrap();
    let ran = folder.run(&["generate", "--weights", "world", "--frames", "4", "--out", "a.mp4"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.starts_with("a.mp4: 4 frames in "), "{ran:?}");
    assert_eq!(frames(&folder, "a.mp4").len(), 4);
}

#[test]
fn continue_opens_with_the_clips_own_pixels() {
    let folder = Folder::with_world();
    folder.clip("clip.mp4", 3.0);
    let words = ["continue", "clip.mp4", "--weights", "world", "--frames", "6", "--out", "a.mp4", "--json"];
    let made = folder.run(&words).json();
    assert_eq!((made["context_frames"].as_u64(), made["frames"].as_u64()), (Some(8), Some(6)));
    let film = frames(&folder, "a.mp4");
    assert_eq!(film.len(), 14);

    let size = Size { width: SIDE, height: SIDE };
    let options = DecodeOptions { size, frames_per_second: FPS, limits: Limits::FILE };
    let clip = decode(folder.path("clip.mp4"), &options).unwrap().frames;
    let context = &clip[clip.len() - 8..];
    for (shown, given) in film.iter().zip(context) {
        let error = mean_difference(shown, given);
        assert!(error < 6.0, "the film's pixels are {error} off on average");
    }
    assert!(mean_difference(&film[7], &context[0]) > mean_difference(&film[7], &context[7]));
}

/// Between the small frame and the middle of each of its pixels in the enlarged one, 0 to 255.
fn mean_difference(large: &Frame, small: &Frame) -> f64 {
    let (side, factor) = (SIDE as usize, large.size().width as usize / SIDE as usize);
    let mut sum = 0.0;
    for (at, pixel) in small.rgb().chunks_exact(3).enumerate() {
        let (x, y) = (at % side * factor + factor / 2, at / side * factor + factor / 2);
        let start = (y * side * factor + x) * 3;
        let enlarged = &large.rgb()[start..start + 3];
        sum += pixel.iter().zip(enlarged).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>();
    }
    sum / small.rgb().len() as f64
}

#[test]
fn picture_weights_write_a_png_of_all_their_blocks() {
    let folder = Folder::with_picture_world();
    let words = ["generate", "--weights", "world", "--label", "right", "--out", "a.png", "--json"];
    let made = folder.run(&words).json();
    assert_eq!((made["frames"].as_u64(), made["block_hashes"].as_array().unwrap().len()), (Some(1), 4));
    let png = std::fs::read(folder.path("a.png")).unwrap();
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    let side = SIDE.to_be_bytes();
    assert_eq!(png[16..24], [side, side].concat());
    assert_eq!(folder.names(), ["a.png", "world"]);
}

#[test]
fn bench_reports_every_stage() {
    let folder = Folder::with_world();
    let report =
        folder.run(&["bench", "--weights", "world", "--blocks", "1", "--sessions", "2", "--json"]).json();
    let fields = [
        "seconds_per_block",
        "denoise_seconds",
        "context_seconds",
        "decode_seconds",
        "encode_seconds",
        "frames_per_second",
        "first_frame_seconds",
        "peak_memory_bytes",
        "flops_per_block",
        "matmul_flops_per_second",
        "share_of_ceiling",
    ];
    for field in fields {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
    }
    let settings = (report["sessions"].as_u64(), report["window"].as_u64(), report["window_mode"].as_str());
    assert_eq!(settings, (Some(2), Some(2), Some("windowed")));
    assert_eq!(report["resolution"], serde_json::json!([SIDE, SIDE]));
}

#[test]
fn doctor_and_completions_need_nothing() {
    let folder = Folder::empty();
    let found = folder.run(&["doctor", "--json"]).json();
    assert!(found["device"].is_string() && found["dtypes"].is_array() && found["libraries"].is_array());
    assert_eq!(found["versions"]["acdit-world"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        let ran = folder.run(&["completions", shell]);
        assert!(ran.code == Some(0) && ran.stdout.contains("train-vae"), "{shell}");
    }
    let help = folder.run(&["generate", "--help"]);
    assert!(help.code == Some(0) && help.stdout.contains("Examples:"), "{help:?}");
}
