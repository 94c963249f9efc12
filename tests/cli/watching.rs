//! `watch` and `loadtest` against a real server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use acdit_codec::Size;
use acdit_codec::video::{DecodeOptions, Limits, decode};

use acdit_io::{Client, Event, Kind, Request};

use crate::harness::{FPS, Folder, SIDE, ran};
use crate::serving::{end, serve};

fn get(url: &str) -> serde_json::Value {
    let got = Command::new("curl").args(["-s", url]).output().unwrap();
    serde_json::from_slice(&got.stdout).unwrap()
}

#[test]
fn viewers_measure_what_reaches_them_and_keep_it() {
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &["--max-sessions", "3"]);
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

    let words = [
        "loadtest",
        &url,
        "--viewers",
        "5",
        "--sessions",
        "2",
        "--ramp",
        "0.2",
        "--seconds",
        "2.5",
        "--stalled",
        "1",
        "--json",
    ];
    let ran = folder.run(&words);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (loaded, seconds) = lines.split_last().unwrap();
    for (second, line) in (1..).zip(seconds) {
        assert_eq!((&line["type"], &line["second"]), (&"second".into(), &second.into()), "{line}");
        assert!(line["viewers"].as_u64() <= Some(7) && line["sessions"].as_u64() <= Some(2), "{line}");
    }
    assert!(seconds.len() >= 2 && seconds.iter().any(|line| line["frames"].as_u64() > Some(0)), "{ran:?}");
    assert_eq!(
        [&loaded["viewers"], &loaded["sessions"], &loaded["stalled"], &loaded["failed"]],
        [5, 2, 1, 0],
        "{loaded}"
    );
    let each = loaded["each"].as_array().unwrap();
    let sum: u64 = each.iter().map(|viewer| viewer["frames"].as_u64().unwrap()).sum();
    assert!(each.len() == 7 && each.iter().all(|viewer| viewer["frames"].as_u64().unwrap() > 0), "{loaded}");
    assert_eq!((&loaded["frames"], &loaded["type"]), (&sum.into(), &"summary".into()));
    assert_eq!(each.iter().filter(|viewer| viewer["session"].is_string()).count(), 2);
    let sessions = get(&format!("http://{address}/api/sessions"));
    assert_eq!(sessions.as_array().unwrap().len(), 1, "those of the test have ended: {sessions}");

    let crowded = folder.run(&["loadtest", &url, "--viewers", "1", "--sessions", "3", "--seconds", "1"]);
    assert!(crowded.code == Some(1) && crowded.stderr.contains("all sessions are taken"), "{crowded:?}");
    let steered = folder.run(&["watch", &url, "--seconds", "4", "--steer", "--json"]).json();
    let steered = &steered["steered"];
    let changes = steered["changes"].as_u64().unwrap();
    let blocks = steered["blocks"].as_object().unwrap();
    assert!(changes >= 1 && !blocks.contains_key("0"), "{steered}");
    assert_eq!(blocks.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), changes);
    let least = |name: &str| steered[name]["p50"].as_f64().unwrap();
    assert!(least("answer_seconds") <= least("screen_seconds"), "{steered}");

    let plain = folder.run(&["watch", &url, "--seconds", "2", "--glass"]);
    assert!(plain.code == Some(1) && plain.stderr.contains("serve --barcode"), "{plain:?}");
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
        (&["loadtest", "--viewers", "0"], "nobody to watch"),
    ] {
        let refused = folder.run(words);
        assert!(refused.code == Some(2) && refused.stderr.contains(needle), "{refused:?}");
    }
}

#[test]
fn barcodes_tell_where_the_time_went() {
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &["--barcode"]);
    let url = format!("ws://{address}/ws");
    let seen = folder.run(&["watch", &url, "--seconds", "4", "--glass", "--json"]).json();
    end(server, "-TERM");
    let glass = &seen["glass"];
    let of = |part: &str, rank: &str| glass[part][rank].as_f64().unwrap_or_else(|| panic!("{part}: {seen}"));
    assert!(glass["frames"].as_u64().unwrap() >= 8, "{seen}");
    for part in ["total", "denoise", "vae", "encode", "decode"] {
        assert!(0.0 < of(part, "p50") && of(part, "p99") <= of(part, "max"), "{part}: {seen}");
    }
    // Both are differences of clocks that count milliseconds.
    assert!(of("queue", "p50") > -0.003 && of("network", "p50") > -0.003, "{seen}");
    let parts: f64 =
        ["queue", "denoise", "vae", "encode", "network", "decode"].map(|part| of(part, "max")).iter().sum();
    assert!(of("total", "max") <= parts + 1e-9, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_a_stream_goes_on_through_rewinds() {
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &[]);
    let url = format!("ws://{address}/ws");
    let mut watch = folder.command(&["watch", &url, "--out", "seen.mp4", "--json"]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut client = Client::connect(&url, Kind::H264).await.unwrap();
    while get(&format!("http://{address}/info"))["stream"]["viewers"] != 2 {}
    let mut generation = client.state().generation;
    for request in [Request::Rewind { block: 0 }, Request::Restart { seed: Some(7) }] {
        client.request(request).await.unwrap();
        let before = generation;
        while generation == before {
            if let Event::Packet(packet) = client.next().await.unwrap()
                && packet.header.generation > before
                && packet.header.block >= 2
            {
                generation = packet.header.generation;
            }
        }
    }
    let sent = Command::new("kill").args(["-INT", &watch.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let seen = ran(watch.wait_with_output().unwrap()).json();
    end(server, "-TERM");
    let words = ["-v", "error", "-show_entries", "packet=pts,dts", "-of", "csv=p=0"];
    let probed = Command::new("ffprobe").args(words).arg(folder.path("seen.mp4")).output().unwrap();
    let text = String::from_utf8(probed.stdout).unwrap();
    let times: Vec<i64> = text.lines().map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(times.len() as u64, seen["frames"].as_u64().unwrap(), "{seen}");
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[test]
fn the_python_example_watches_and_steers() {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let Some(websockets) =
        cache.map(|cache| cache.join("acdit-world/websockets-17.4")).filter(|at| at.exists())
    else {
        println!("skipped: websockets for Python is missing; `make test` sets it up");
        return;
    };
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &[]);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/watch_client.py");
    let out = folder.path("seen.h264");
    let mut python = Command::new("python3");
    python.arg(example).args([&format!("ws://{address}/ws"), "--seconds", "4", "--out"]).arg(&out);
    python.env("PYTHONPATH", websockets).env("PYTHONDONTWRITEBYTECODE", "1");
    let said = ran(python.output().unwrap());
    end(server, "-TERM");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.starts_with("tiny: still, left, right; 8.0 frames/s\n"), "{said:?}");
    assert!(said.stdout.contains("applied at block"), "{said:?}");
    let frames: usize = said.stdout.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    let words = ["-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"];
    let probed = Command::new("ffprobe").args(words).arg(&out).output().unwrap();
    assert_eq!(String::from_utf8(probed.stdout).unwrap().trim(), frames.to_string(), "{said:?}");
}
