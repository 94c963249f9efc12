//! Bad input and a bad environment: exit status 2, one clear line, nothing left behind.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::harness::Folder;

/// Runs `words`, which must be refused with a line that holds `needle`.
pub(crate) fn refused(folder: &Folder, words: &[&str], needle: &str) {
    let before = folder.names();
    let ran = folder.run(words);
    assert_eq!(ran.code, Some(2), "{words:?}: {ran:?}");
    assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(needle), "{words:?}: {ran:?}");
    assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{words:?}: {ran:?}");
    assert_eq!(ran.stdout, "", "{words:?}");
    assert_eq!(folder.names(), before, "{words:?} left something behind");
}

#[test]
fn generate_says_what_is_wrong() {
    let folder = Folder::with_world();
    let generate = |more: &[&str], needle: &str| {
        refused(&folder, &[&["generate", "--weights", "world"], more].concat(), needle);
    };
    generate(&["--frames", "0", "--out", "a.mp4"], "'0' for '--frames <N>'");
    generate(&["--frames", "-1", "--out", "a.mp4"], "'-1'");
    generate(&["--out", "a.mp4"], "--frames N is missing");
    generate(&["--frames", "4"], "--out <FILE>");
    generate(&["--frames", "4", "--out", "a.avi"], "a.avi: expected a name ending in .mp4");
    generate(&["--frames", "4", "--out", "no/a.mp4"], "the folder no does not exist");
    let labels = "unknown label \"up\"; this world has: still, left, right";
    generate(&["--frames", "4", "--out", "a.mp4", "--label", "left,up"], labels);
    generate(&["--frames", "4", "--out", "a.mp4", "--hold", "0"], "--hold");
    generate(&["--frames", "4", "--out", "a.mp4", "--steps", "0"], "steps");
    generate(&["--frames", "4", "--out", "a.mp4", "--solver", "euler"], "expected \"dpm++\" or \"ddim\"");
    generate(&["--frames", "4", "--out", "a.mp4", "--guidance", "nan"], "guidance NaN");
    generate(&["--frames", "4", "--out", "a.mp4", "--window", "0"], "at least 1 block");
    let window = "trained with a window of 2 blocks, not 3";
    generate(&["--frames", "4", "--out", "a.mp4", "--window", "3", "--window-mode", "windowed"], window);
    generate(&["--frames", "4", "--out", "a.mp4", "--device", "gpu"], "unknown device \"gpu\"");
    generate(&["--frames", "4", "--out", "a.mp4", "--dtype", "f16"], "unknown dtype \"f16\"");
    generate(&["--frames", "4", "--out", "a.mp4", "--fast"], "unexpected argument '--fast'");

    std::fs::write(folder.path("world/prompts.safetensors"), "not this").unwrap();
    generate(&["--frames", "4", "--out", "a.mp4"], "world/prompts.safetensors: not a safetensors file");
    std::fs::remove_file(folder.path("world/prompts.safetensors")).unwrap();

    let missing = ["generate", "--weights", "nowhere", "--frames", "4", "--out", "a.mp4"];
    refused(&folder, &missing, "nowhere: no such folder");
    std::fs::remove_file(folder.path("world/transformer/config.json")).unwrap();
    generate(
        &["--frames", "4", "--out", "a.mp4"],
        "world/transformer/config.json: No such file or directory",
    );
}

#[test]
fn pictures_are_no_films() {
    let folder = Folder::with_picture_world();
    let generate = |more: &[&str], needle: &str| {
        refused(&folder, &[&["generate", "--weights", "world"], more].concat(), needle);
    };
    generate(&["--frames", "8", "--out", "a.png"], "single pictures");
    generate(&["--out", "a.mp4"], "expected a name ending in .png");
    generate(&["--out", "no/a.png"], "the folder no does not exist");
    refused(&folder, &["serve", "--weights", "world", "--port", "0"], "cannot be streamed");
}

#[test]
fn continue_says_what_is_wrong_with_the_clip() {
    let folder = Folder::with_world();
    folder.clip("short.mp4", 0.2);
    std::fs::write(folder.path("text.mp4"), "this is no video").unwrap();
    std::fs::write(folder.path("empty.mp4"), "").unwrap();
    let continued = |clip: &str, needle: &str| {
        let words = ["continue", clip, "--weights", "world", "--frames", "4", "--out", "a.mp4"];
        refused(&folder, &words, needle);
    };
    continued("none.mp4", "none.mp4: ");
    continued("text.mp4", "text.mp4: not a video");
    continued("empty.mp4", "empty.mp4: not a video");
    continued("world", "world: ");
    continued("short.mp4", "short.mp4: too short, 4 frames at 8 per second are needed");
}

#[test]
fn serve_takes_only_a_free_port_of_this_machine() {
    let folder = Folder::with_world();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(
        &folder,
        &["serve", "--weights", "world", "--port", &port],
        &format!("127.0.0.1:{port}: Address already in use"),
    );
    refused(&folder, &["serve", "--weights", "world", "--host", "0.0.0.0"], "without a token");
    refused(&folder, &["serve", "--weights", "world", "--port", "99999"], "99999");
    let comma = "srt://127.0.0.1:9?streamid=r=live,m=publish";
    refused(&folder, &["serve", "--weights", "world", "--port", "0", "--publish", comma], "%2C");
}

#[test]
fn the_other_verbs_say_what_is_missing() {
    let folder = Folder::with_world();
    refused(&folder, &["verify", "--golden", "world"], "world holds neither");
    refused(&folder, &["verify", "--golden", "none"], "none");
    refused(&folder, &["convert", "none.pt", "--out", "w"], "none.pt");
    refused(
        &folder,
        &["bench", "--preset", "b", "--resolution", "100"],
        "--resolution 100: expected a multiple of 16",
    );
    refused(&folder, &["bench", "--preset", "b", "--weights", "world"], "--weights");
    refused(
        &folder,
        &["eval", "--world", "gravity", "--weights", "world"],
        "world: labels [\"still\", \"left\", \"right\"]",
    );
    refused(&folder, &["eval", "--world", "gravity", "--frames", "0"], "'0' for '--frames <N>'");
    refused(&folder, &["eval", "--world", "gravity", "--of", "lies"], "'lies' for '--of");
    refused(&folder, &["eval"], "--world or --dataset is missing");
    refused(&folder, &["plot", "world", "--out", "a.svg"], "world/log.jsonl: No such file");
    refused(&folder, &["plot", "world", "--out", "a.jpg"], "a.jpg: expected a name ending in .svg or .png");
    for (log, needle) in [
        ("", "world/log.jsonl: nothing has been logged yet"),
        ("{\"step\":1,\"loss\":0.5}\nnonsense", "world/log.jsonl: line 2"),
        ("{\"step\":1,\"loss\":-0.5}", "world/log.jsonl: line 1: a loss of -0.5"),
    ] {
        std::fs::write(folder.path("world/log.jsonl"), log).unwrap();
        refused(&folder, &["plot", "world", "--out", "a.svg"], needle);
    }
    let vae = "world/vae";
    let gravity = ["train", "--dataset", "gravity", "--vae", vae, "--out", "run"];
    refused(&folder, &[&gravity[..], &["--resolution", "60"]].concat(), "expected a multiple of 32");
    refused(&folder, &[&gravity[..], &["--frames", "6"]].concat(), "--frames 6: expected a multiple of 4");
    refused(&folder, &[&gravity[..], &["--heads", "3"]].concat(), "num_attention_heads 3");
    for (flag, value, needle) in [
        ("--self-context", "2", "share of own context 2: expected 0 to 1"),
        ("--first-block-weight", "0", "first block's weight 0: expected a number above 0"),
        ("--first-block-weight", "nan", "first block's weight NaN"),
        ("--context-noise", "-1", "context noise -1: expected 0 to below 10"),
        ("--decay", "2", "decay 2: expected 0 to 1"),
        ("--prediction", "foo", "'foo' for '--prediction"),
        ("--from", "none", "none/transformer/config.json: No such file or directory"),
    ] {
        let words: &[&str] =
            if flag == "--from" { &["train", "--dataset", "gravity", "--out", "run"] } else { &gravity };
        refused(&folder, &[words, &[flag, value]].concat(), needle);
    }
    let from = ["train", "--dataset", "gravity", "--from", "world", "--out", "run"];
    refused(&folder, &from, "--from: a network for 16x16 in blocks of 4 frames; here are --resolution 64");
    refused(&folder, &[&from[..], &["--hidden", "64"]].concat(), "cannot be used with");
    refused(&folder, &[&from[..], &["--vae", vae]].concat(), "--vae: world has a VAE of its own");
    refused(&folder, &[&gravity[..], &["--dagger", "2"]].concat(), "--from <DIR>");
    let dagger = ["--resolution", "16", "--dagger", "2"];
    refused(
        &folder,
        &[&from[..], &dagger].concat(),
        "--dagger: weights with other labels than the clips cannot stream",
    );
    let maze = ["train", "--dataset", "maze", "--from", "world", "--out", "run"];
    refused(&folder, &[&maze[..], &dagger].concat(), "only of gravity do frames tell");
    refused(&folder, &[&from[..], &["--dagger", "0"]].concat(), "0 is not in 1..=524288");
    let own = ["--prediction", "epsilon", "--self-context", "0.5"];
    refused(&folder, &[&gravity[..], &own].concat(), "own context needs a network that predicts");
    let ucf = ["train", "--dataset", "ucf101", "--vae", vae, "--out", "run"];
    refused(&folder, &ucf, "--data-dir <DIR>");
    refused(&folder, &[&ucf[..], &["--data-dir", "none"]].concat(), "none: no such folder");
    let any = ["train", "--dataset", "folder", "--vae", vae, "--out", "run"];
    refused(&folder, &any, "--data-dir <DIR>");
    refused(&folder, &[&any[..], &["--data-dir", "world"]].concat(), "world: expected CLASS/CLIP");
    refused(&folder, &[&ucf[..], &["--data-dir", "world"]].concat(), "classInd.txt");
    refused(&folder, &[&gravity[..], &["--fold", "2"]].concat(), "--fold: --dataset gravity has no lists");
    refused(
        &folder,
        &[&any[..], &["--data-dir", "world", "--splits-dir", "x"]].concat(),
        "folder has no lists",
    );
    refused(&folder, &[&gravity[..], &["--data-dir", "world"]].concat(), "gravity is computed, not filmed");
    refused(&folder, &[&gravity[..], &["--flip"]].concat(), "gravity has no mirror image");
    refused(&folder, &["train", "--out", "run"], "--dataset NAME, or --latents DIR");
    refused(&folder, &["train", "--latents", "world", "--out", "run"], "world: no manifest.json");
    refused(&folder, &[&gravity[..], &["--latents", "world"]].concat(), "cannot be used with");
    let encode = ["encode", "--dataset", "gravity", "--vae", vae, "--out", "run"];
    for (flag, value, needle) in [
        ("--resolution", "60", "--resolution 60: expected a multiple of 8, the VAE's"),
        ("--frames", "6", "--frames 6: expected a multiple of 4"),
        ("--frame-interval", "3", "a frame interval of 1"),
        ("--split", "test", "no list of clips for tests"),
        ("--shard-size", "0", "--shard-size 0: expected a number above 0"),
        ("--workers", "0", "'0' for '--workers"),
        ("--fold", "4", "'4' for '--fold"),
    ] {
        refused(&folder, &[&encode[..], &[flag, value]].concat(), needle);
    }
    refused(&folder, &["encode", "--vae", vae, "--out", "run"], "--dataset is missing");
    refused(
        &folder,
        &["encode", "--dataset", "gravity", "--vae", "none", "--out", "run"],
        "none/config.json",
    );
    refused(
        &folder,
        &["train-vae", "--dataset", "gravity", "--resolution", "60", "--out", "run"],
        "multiples of 8",
    );
}

#[test]
fn files_that_ask_for_more_than_they_hold_are_refused() {
    let folder = Folder::with_world();
    let refuse = |name: &str, changes: &[(&str, Value)], needle: &str| {
        let path = folder.path(name);
        let whole = std::fs::read_to_string(&path).unwrap();
        let mut json: Value = serde_json::from_str(&whole).unwrap();
        changes.iter().for_each(|(key, value)| json[key] = value.clone());
        std::fs::write(&path, json.to_string()).unwrap();
        let words = ["generate", "--weights", "world", "--frames", "4", "--out", "a.mp4"];
        refused(&folder, &words, needle);
        std::fs::write(&path, whole).unwrap();
    };
    let network = "world/transformer/config.json";
    refuse(network, &[("hidden_size", json!(1 << 20))], "its config makes ");
    refuse(network, &[("num_layers", json!(1 << 20))], "its config makes ");
    let side = json!(1 << 20);
    let sides = [("sample_height", side.clone()), ("sample_width", side)];
    refuse(network, &sides, "expected at most 1048576");
    refuse(network, &[("context_window", json!(1i64 << 40))], "context_window 1099511627776");
    let wide = json!([4096, 4096, 4096, 4096]);
    let widths = [("encoder_block_out_channels", wide.clone()), ("decoder_block_out_channels", wide)];
    refuse("world/vae/config.json", &widths, "world/vae/config.json: makes at least ");
}

#[test]
fn a_folder_of_sessions_that_is_damaged_is_named() {
    let folder = Folder::with_world();
    std::fs::create_dir_all(folder.path("state/some")).unwrap();
    let serve = |needle: &str| {
        refused(&folder, &["serve", "--weights", "world", "--port", "0", "--state", "state"], needle);
    };
    std::fs::write(folder.path("state/some/served.json"), "[").unwrap();
    serve("session some: state/some/served.json: EOF");
    let served = r#"{"private":false,"unattended":false,"weights":"other"}"#;
    std::fs::write(folder.path("state/some/served.json"), served).unwrap();
    serve("session some: state/some/served.json: made with other weights");
    std::fs::remove_dir_all(folder.path("state")).unwrap();
    std::fs::write(folder.path("state"), "").unwrap();
    serve("--state state: File exists");
}
