//! `encode`, killed at any file that it writes, and `train --latents`, which needs nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use acdit_train::checkpoint;

use crate::harness::{Folder, ran};

const ENCODE: [&str; 13] = [
    "encode",
    "--dataset",
    "gravity",
    "--vae",
    "world/vae",
    "--resolution",
    "16",
    "--frames",
    "16",
    "--clips",
    "3",
    "--shard-size",
    "0.03", // a clip
];

/// The contents of all files below a folder, but for what a kill leaves half written.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found
                .extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if !name.ends_with(".partial") {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn killed_while_it_writes_whichever_file_it_goes_on_to_the_same_shards() {
    let folder = Folder::with_world();
    let encode = |out: &str| folder.command(&[&ENCODE[..], &["--out", out, "--json"]].concat());
    let encoded = |out: &str| ran(encode(out).output().unwrap()).json();
    let whole = encoded("whole");
    assert_eq!((&whole["clips"], &whole["shards"], &whole["skipped"]), (&3.into(), &3.into(), &0.into()));
    for partial in ["vae/config", "manifest", "latents-00001"] {
        let out = partial.replace('/', "-");
        // Whoever opens a pipe to write waits for a reader, so this is the moment. No pipe can be synced: it ends here.
        let pipe = folder.path(&out).join(format!("{partial}.partial"));
        fs::create_dir_all(pipe.parent().unwrap()).unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut running = encode(&out).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let reader = fs::File::open(&pipe).unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
        drop(reader);
        fs::remove_file(&pipe).unwrap();
        fs::write(&pipe, "half").unwrap();
        // A shard that was renamed into place before its manifest was written is written again.
        let next =
            (0..3).find(|shard| !folder.path(&out).join(format!("latents-{shard:05}.safetensors")).exists());
        fs::write(folder.path(&out).join(format!("latents-{:05}.safetensors", next.unwrap())), "not counted")
            .unwrap();

        assert_eq!(encoded(&out)["shards"], 3, "{partial}");
        assert!(contents(&folder.path(&out)) == contents(&folder.path("whole")), "{partial}");
    }
    assert_eq!(encoded("whole"), whole);

    let manifest = folder.path("whole/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(manifest, text.replace("\"complete\": true", "\"complete\": false")).unwrap();
    let early = folder.run(&["train", "--latents", "whole", "--out", "run"]);
    assert!(early.code == Some(2) && early.stderr.contains("whole: 3 clips so far: `encode`"), "{early:?}");
}

#[test]
fn latents_train_the_network_that_their_clips_would() {
    let folder = Folder::with_world();
    folder.run(&[&ENCODE[..], &["--out", "latents"]].concat());
    let network = ["--patch", "1", "--hidden", "32", "--layers", "1", "--heads", "2"];
    let train = |data: &[&str], more: &[&str]| {
        let schedule = ["train", "--frames", "16", "--batch", "2", "--steps", "3", "--json"];
        folder.run(&[&schedule[..], &network, data, more].concat())
    };
    let dataset = [
        "--dataset",
        "gravity",
        "--clips",
        "3",
        "--resolution",
        "16",
        "--vae",
        "world/vae",
        "--out",
        "of-clips",
    ];
    let of_clips = train(&dataset, &[]).json();
    // the clips' VAE is not needed any more, nor is a video library: there is nothing to decode
    fs::rename(folder.path("world"), folder.path("elsewhere")).unwrap();
    let latents = ["--latents", "latents", "--out", "of-latents"];
    assert_eq!(train(&latents, &["--stop-at", "1"]).json()["step"], 1);
    let of_latents = train(&latents, &["--resume"]).json();
    assert_eq!((&of_latents["step"], &of_clips["step"]), (&3.into(), &3.into()));
    let tensors = |run: &str| {
        let newest = checkpoint::latest(&folder.path(run).join("checkpoints")).unwrap().unwrap();
        acdit_model::weights::read(&newest).unwrap()
    };
    assert_eq!(tensors("of-latents"), tensors("of-clips"));
    let files = |run: &str| contents(&folder.path(run).join("weights")).into_keys().collect::<Vec<_>>();
    assert_eq!(files("of-latents"), files("of-clips"));
    let log = fs::read_to_string(folder.path("of-latents/log.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let of = |name: &str| last[name].as_f64().unwrap();
    assert!((0.0..=of("seconds_per_step")).contains(&of("data_wait")), "{last}");

    // other latents are noticed, and the same ones are welcome wherever they come from
    let more = train(&["--latents", "latents", "--out", "of-clips"], &["--resume"]);
    assert_eq!(more.code, Some(0), "{more:?}");
    fs::rename(folder.path("elsewhere"), folder.path("world")).unwrap();
    folder.run(&[&ENCODE[..], &["--seed", "5", "--out", "others"]].concat());
    let refused = train(&["--latents", "others", "--out", "of-latents"], &["--resume"]);
    assert!(refused.code == Some(2), "{refused:?}");
    assert!(refused.stderr.contains("learnt from other data: seed 0 there, 5 here"), "{refused:?}");
    let from = ["train", "--latents", "latents", "--from", "world", "--frames", "16", "--out", "on"];
    let on = folder.run(&[&from[..], &["--batch", "1", "--steps", "1", "--json"]].concat());
    assert_eq!(on.json()["step"], 1);
    let config = folder.path("world/vae/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, text.replace("\"scaling_factor\": 1.0", "\"scaling_factor\": 2.0")).unwrap();
    let other_vae = folder.run(&[&from[..from.len() - 1], &["on-2"]].concat());
    assert_eq!(other_vae.code, Some(2), "{other_vae:?}");
    assert!(
        other_vae.stderr.contains("world: its network knows the latents of another VAE"),
        "{other_vae:?}"
    );
}
