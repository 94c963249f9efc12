//! `watch` and `loadtest` against a real server.

use acdit_codec::Size;
use acdit_codec::video::{DecodeOptions, Limits, decode};

use crate::harness::{FPS, Folder, SIDE};
use crate::serving::{end, serve};

#[test]
fn viewers_measure_what_reaches_them_and_keep_it() {
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &[]);
    let url = format!("ws://{address}/ws");

    let seen = folder.run(&["watch", &url, "--seconds", "3", "--out", "seen.mp4", "--json"]).json();
    assert_eq!((&seen["world"], &seen["dropped"]), (&"tiny".into(), &0.into()));
    let frames = seen["frames"].as_u64().unwrap();
    assert!((8..60).contains(&frames), "{seen}");
    let gap = |name: &str| seen["gap_seconds"][name].as_f64().unwrap();
    assert!(
        0.0 < gap("p50") && gap("p50") <= gap("p95") && gap("p99") <= gap("max") && gap("max") < 3.0,
        "{seen}"
    );
    assert!(seen["first_frame_seconds"].as_f64().unwrap() < 3.0 && seen["bytes"].as_u64().unwrap() > frames);
    let options = DecodeOptions {
        size: Size { width: SIDE, height: SIDE },
        frames_per_second: FPS,
        limits: Limits::FILE,
    };
    assert_eq!(decode(folder.path("seen.mp4"), &options).unwrap().frames.len() as u64, frames);

    let words =
        ["loadtest", &url, "--viewers", "5", "--ramp", "0.2", "--seconds", "1.5", "--stalled", "1", "--json"];
    let loaded = folder.run(&words).json();
    assert_eq!(
        (&loaded["viewers"], &loaded["stalled"], &loaded["failed"]),
        (&5.into(), &1.into(), &0.into())
    );
    let each = loaded["each"].as_array().unwrap();
    let sum: u64 = each.iter().map(|viewer| viewer["frames"].as_u64().unwrap()).sum();
    assert!(each.len() == 5 && each.iter().all(|viewer| viewer["frames"].as_u64().unwrap() > 0), "{loaded}");
    assert_eq!(loaded["frames"], sum);
    end(server, "-TERM");

    let gone = folder.run(&["watch", &url]);
    assert!(
        gone.code == Some(2) && gone.stderr.contains(&url) && gone.stderr.contains("refused"),
        "{gone:?}"
    );
    let lonely = folder.run(&["loadtest", &url, "--viewers", "2", "--ramp", "0"]);
    assert_eq!(lonely.code, Some(1));
    assert!(lonely.stderr.contains("2 of 2 viewers failed, the first: "), "{lonely:?}");
    for (words, needle) in [
        (&["watch", "nowhere"][..], "nowhere"),
        (&["watch", "--seconds", "nan"], "expected seconds, 0 or more"),
        (&["loadtest", "--viewers", "0"], "--viewers"),
    ] {
        let refused = folder.run(words);
        assert!(refused.code == Some(2) && refused.stderr.contains(needle), "{refused:?}");
    }
}
