//! `train` and `train-vae`, by the smallest runs that go all the way; what they learn is tested in their crate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use acdit_codec::Size;
use acdit_codec::video::{Limits, probe};
use acdit_model::weights;
use acdit_train::checkpoint;
use acdit_train::procedural::FRAMES_PER_SECOND;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tch::Tensor;

use crate::harness::{Folder, ran};

const TINY: [&str; 24] = [
    "train",
    "--dataset",
    "gravity",
    "--vae",
    "world/vae",
    "--out",
    "run",
    "--resolution",
    "16",
    "--patch",
    "1",
    "--hidden",
    "32",
    "--layers",
    "1",
    "--heads",
    "2",
    "--frames",
    "16",
    "--clips",
    "2",
    "--batch",
    "2",
    "--json",
];

#[test]
fn a_run_is_stopped_resumed_and_played() {
    let folder = Folder::with_world();
    let train = |more: &[&str]| folder.run(&[&TINY[..], more].concat());
    let stopped = train(&["--steps", "6", "--stop-at", "2"]).json();
    assert_eq!(stopped["step"], 2);
    let again = train(&["--steps", "6"]);
    assert!(again.code == Some(2) && again.stderr.contains("holds a run already"), "{again:?}");
    let other = train(&["--steps", "6", "--rate", "1e-4", "--resume"]);
    assert!(other.code == Some(2) && other.stderr.contains("made with another recipe"), "{other:?}");
    let whole = train(&["--steps", "6", "--resume"]).json();
    assert_eq!(whole["step"], 6);
    assert!(whole["loss"].as_f64().is_some_and(|loss| loss > 0.0 && loss < 10.0), "{whole}");

    let plotted = folder.run(&["plot", "run", "--out", "loss.svg", "--json"]).json();
    assert_eq!((&plotted["runs"][0]["last_step"], &plotted["runs"][0]["points"]), (&6.into(), &2.into()));
    assert_eq!(plotted["runs"][0]["last_loss"], whole["loss"]);
    let picture = std::fs::read_to_string(folder.path("loss.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("polyline") && picture.contains(">\nrun\n<"));
    assert_eq!(folder.run(&["plot", "run", "--out", "loss.png"]).code, Some(0));
    let picture = std::fs::read(folder.path("loss.png")).unwrap();
    assert_eq!(
        (&picture[..8], &picture[16..24]),
        (&b"\x89PNG\r\n\x1a\n"[..], &[0, 0, 3, 132, 0, 0, 2, 28][..])
    );

    let words = ["generate", "--weights", "run/weights", "--frames", "4", "--label", "down", "--steps", "2"];
    let made = folder.run(&[&words[..], &["--out", "a.mp4", "--json"]].concat()).json();
    assert_eq!(made["frames"], 4);
    assert!(folder.path("run/checkpoints/step-00000006.safetensors").is_file());
    let info = probe(folder.path("run/samples/step-00000006.mp4"), &Limits::FILE).unwrap();
    assert_eq!(
        (info.size, info.frames_per_second),
        (Size { width: 256, height: 256 }, Some(FRAMES_PER_SECOND))
    );
    let names =
        std::fs::read_dir(folder.path("run")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("events.out.tfevents.")).count(), 2, "one a process");
}

#[test]
fn a_run_goes_on_from_weights() {
    let folder = Folder::with_world();
    folder.run(&[&TINY[..], &["--steps", "2"]].concat()).json();
    let from = |weights: &str, out: &str| {
        let words = ["train", "--dataset", "gravity", "--from", weights, "--out", out, "--resolution", "16"];
        let sizes = ["--frames", "16", "--clips", "2", "--batch", "2", "--steps", "2", "--json"];
        folder.run(&[&words[..], &sizes, &["--self-context", "0"]].concat())
    };
    let same = from("run/weights", "same");
    assert!(same.json()["step"] == 2 && same.stderr.is_empty(), "{same:?}");
    let config =
        |name: &str| std::fs::read(folder.path(name).join("weights/transformer/config.json")).unwrap();
    assert_eq!(config("same"), config("run"));
    // that world has three labels, this one five
    let relabelled = from("world", "relabelled");
    assert!(relabelled.json()["step"] == 2, "{relabelled:?}");
    assert!(relabelled.stderr.contains("their table is learnt anew"), "{relabelled:?}");
}

#[test]
fn a_run_that_learns_from_its_own_streams_resumes_bit_for_bit() {
    let folder = Folder::with_world();
    folder.run(&[&TINY[..], &["--steps", "2"]].concat()).json();
    let world = folder.path("run/weights/world.json");
    let text = std::fs::read_to_string(&world).unwrap().replace("\"guidance\": 1.0", "\"guidance\": 1.5");
    std::fs::write(&world, text).unwrap();
    let train = |out: &str, streams: &str, more: &[&str]| {
        let words = ["train", "--dataset", "gravity", "--from", "run/weights", "--out", out];
        let sizes = ["--resolution", "16", "--frames", "16", "--clips", "2", "--batch", "2", "--steps", "4"];
        folder.run(&[&words[..], &sizes, &["--dagger", streams, "--json"], more].concat())
    };
    assert_eq!(train("whole", "2", &[]).json()["step"], 4);
    assert_eq!(train("parts", "2", &["--stop-at", "2"]).json()["step"], 2);
    let other = train("parts", "3", &["--resume"]);
    assert!(other.code == Some(2) && other.stderr.contains("learnt from other data"), "{other:?}");
    assert_eq!(train("parts", "2", &["--resume"]).json()["step"], 4);
    let state = ["whole", "parts"].map(|out| newest_state(&folder, out));
    assert_eq!(state[0], state[1]);
    let described = std::fs::read_to_string(folder.path("whole/weights/world.json")).unwrap();
    assert!(described.contains("\"guidance\": 1.5"), "sampled as before: {described}");
}

#[test]
fn an_interrupt_saves_first() {
    let folder = Folder::with_world();
    // As a pipe, the log tells when the loop runs.
    std::fs::create_dir(folder.path("run")).unwrap();
    let log = folder.path("run/log.jsonl");
    assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
    let words = [&TINY[..], &["--steps", "1000000"]].concat();
    let run = folder.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(File::open(log).unwrap());
    log.read_line(&mut String::new()).unwrap();
    assert!(Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap().success());
    let step = ran(run.wait_with_output().unwrap()).json()["step"].as_u64().unwrap();
    assert!(
        step >= 1 && folder.path(&format!("run/checkpoints/step-{step:08}.safetensors")).is_file(),
        "{step}"
    );
}

/// Five times, or as often as `ACDIT_SOAK_KILLS` says (`make soak-training`).
#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_weights() {
    let kills =
        std::env::var("ACDIT_SOAK_KILLS").map_or(5, |kills| kills.parse().expect("a number of kills"));
    let folder = Folder::with_world();
    let words = |out: &'static str| {
        let words = TINY.map(|word| if word == "run" { out } else { word });
        [&words[..], &["--steps", "30", "--save-every", "1"]].concat()
    };
    let started = Instant::now();
    folder.run(&words("whole")).json();
    let whole = started.elapsed();

    let checkpoints = folder.path("killed/checkpoints");
    let go_on = || {
        let resume = checkpoint::latest(&checkpoints).unwrap().map_or(&[][..], |_| &["--resume"]);
        [&words("killed")[..], resume].concat()
    };
    let mut random = StdRng::seed_from_u64(kills);
    for kill in 0..kills {
        let mut run = folder.command(&go_on()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // any moment: from before the first step to after the last
        std::thread::sleep(whole.mul_f64(random.random_range(0.0..1.0)));
        run.kill().unwrap();
        let ended = run.wait_with_output().unwrap();
        assert!(ended.status.code().is_none_or(|code| code == 0), "kill {kill}: {ended:?}");
    }
    assert_eq!(folder.run(&go_on()).json()["step"], 30);
    let state = |out: &str| {
        let newest = checkpoint::latest(&folder.path(out).join("checkpoints")).unwrap().unwrap();
        weights::read(&newest).unwrap()
    };
    assert_eq!(state("killed"), state("whole"));
    folder.run(&["plot", "killed", "--out", "loss.svg", "--json"]).json();
}

#[test]
fn a_full_disk_is_an_error_and_the_checkpoint_before_it_stays() {
    let folder = Folder::with_world();
    folder.run(&[&TINY[..], &["--steps", "4", "--stop-at", "2"]].concat()).json();
    let newest = || checkpoint::latest(&folder.path("run/checkpoints")).unwrap().unwrap();
    let before = newest();
    // no file may grow beyond 64 kB: as on a full disk, writing fails halfway
    let words = [&TINY[..], &["--steps", "4", "--resume"]].concat();
    let run = folder.command(&words);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\""])
        .arg(run.get_program())
        .args(run.get_args());
    let failed = ran(limited.current_dir(folder.path("")).env("OMP_NUM_THREADS", "1").output().unwrap());
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{failed:?}");
    assert!(failed.stderr.contains("step-00000004.safetensors: File too large"), "{failed:?}");
    assert_eq!(newest(), before);
    assert_eq!(folder.run(&words).json()["step"], 4);
}

#[test]
fn a_diverged_run_has_failed_and_writes_no_weights() {
    let folder = Folder::with_world();
    let words = [&TINY[..], &["--steps", "40", "--warmup", "0", "--rate", "1e20"]].concat();
    let diverged = folder.run(&words);
    assert_eq!((diverged.code, diverged.stdout.as_str()), (Some(1), ""), "{diverged:?}");
    assert!(diverged.stderr.starts_with("error: training diverged at step "), "{diverged:?}");
    assert!(!folder.path("run/weights").exists());
}

#[test]
fn a_vae_is_trained_for_a_world() {
    let folder = Folder::empty();
    let words =
        ["train-vae", "--dataset", "gravity", "--resolution", "16", "--frames", "8", "--held-out", "4"];
    let more = ["--width", "4", "--batch", "2", "--steps", "2", "--out", "run", "--json"];
    let made = folder.run(&[&words[..], &more].concat()).json();
    assert_eq!(made["step"], 2);
    assert!(made["psnr"].as_f64().is_some_and(|psnr| psnr > 0.0) && made["loss"].is_number(), "{made}");
    assert!(folder.path("run/weights/vae/config.json").is_file());
}

/// Two processes of one run, started with what a launcher tells them; each has half the batch.
fn two_processes(folder: &Folder, words: &[&str]) -> [Child; 2] {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    [0, 1].map(|rank| {
        let mut command = folder.command(words);
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2");
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    })
}

fn newest_state(folder: &Folder, out: &str) -> BTreeMap<String, Tensor> {
    let newest = checkpoint::latest(&folder.path(out).join("checkpoints")).unwrap().unwrap();
    weights::read(&newest).unwrap()
}

#[test]
fn two_processes_learn_what_one_does_with_twice_the_batch() {
    let folder = Folder::with_world();
    let words = |out: &'static str, batch: &'static str| {
        let words = TINY.map(|word| if word == "run" { out } else { word });
        let words = [&words[..words.len() - 3], &["--batch", batch, "--json", "--steps", "10"]].concat();
        // Adam's first steps divide by the gradient's own size, so that rounding would show
        [&words[..], &["--warmup", "10", "--self-context", "0.5", "--dtype", "f32"]].concat()
    };
    folder.run(&words("one", "6")).json();
    let together = |more: &[&str]| {
        two_processes(&folder, &[&words("two", "3")[..], more].concat())
            .map(|child| ran(child.wait_with_output().unwrap()))
    };
    let [first, second] = together(&["--stop-at", "5"]);
    assert_eq!(
        (first.json()["step"].as_u64(), second.code, second.stdout.as_str()),
        (Some(5), Some(0), ""),
        "{second:?}"
    );
    let [first, second] = together(&["--resume", "--accumulate", "3", "--recompute"]);
    assert_eq!((first.json()["step"].as_u64(), second.code), (Some(10), Some(0)), "{second:?}");
    folder.run(&words("half", "3")).json();

    let state = ["one", "two", "half"].map(|out| newest_state(&folder, out));
    for name in ["parameters", "ema"] {
        let off = |other: usize| (&state[0][name] - &state[other][name]).abs().max().double_value(&[]);
        assert!(
            off(1) < 1e-5 && off(2) > 1e-4,
            "{name} is off by {}, with half the batch by {}",
            off(1),
            off(2)
        );
    }
    let log = std::fs::read_to_string(folder.path("two/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 2, "of the first process alone: {log}");
}

#[test]
fn a_signal_to_one_process_saves_and_ends_all_and_a_kill_ends_all() {
    let folder = Folder::with_world();
    std::fs::create_dir(folder.path("run")).unwrap();
    let log = folder.path("run/log.jsonl");
    let words = |more: &[&'static str]| [&TINY[..], &["--steps", "1000000"], more].concat();
    let started = |words: &[&str]| {
        // As a pipe, the log tells when the loop runs.
        let _ = std::fs::remove_file(&log);
        assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
        let processes = two_processes(&folder, words);
        let mut log = BufReader::new(File::open(&log).unwrap());
        log.read_line(&mut String::new()).unwrap();
        (processes, log)
    };
    let signal = |name: &str, process: &Child| {
        assert!(Command::new("kill").args([name, &process.id().to_string()]).status().unwrap().success());
    };
    let (processes, _log) = started(&words(&[]));
    signal("-TERM", &processes[1]);
    let [first, second] = processes.map(|process| ran(process.wait_with_output().unwrap()));
    let step = first.json()["step"].as_u64().unwrap();
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(folder.path(&format!("run/checkpoints/step-{step:08}.safetensors")).is_file(), "{step}");

    let (processes, _log) = started(&words(&["--resume"]));
    signal("-KILL", &processes[1]);
    let [first, _] = processes.map(|process| ran(process.wait_with_output().unwrap()));
    assert_eq!((first.code, first.stdout.as_str()), (Some(1), ""), "{first:?}");
    assert!(first.stderr.contains("error: process 0 of 2 lost the others, one of which ended"), "{first:?}");
}

#[test]
fn processes_that_do_not_fit_together_are_refused() {
    let folder = Folder::with_world();
    let alone = |name: &str, value: &str| ran(folder.command(&TINY).env(name, value).output().unwrap());
    let error = alone("WORLD_SIZE", "2");
    assert!(
        error.code == Some(2) && error.stderr.contains("WORLD_SIZE is set, but RANK is not"),
        "{error:?}"
    );

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let processes = ["1e-3", "2e-3"].into_iter().enumerate().map(|(rank, rate)| {
        let mut command = folder.command(&[&TINY[..], &["--steps", "2", "--rate", rate]].concat());
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("MASTER_ADDR", "127.0.0.1");
        command.env("MASTER_PORT", &port).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let processes: Vec<Child> = processes.collect();
    let ended: Vec<_> =
        processes.into_iter().map(|process| ran(process.wait_with_output().unwrap())).collect();
    for process in &ended {
        assert_eq!(process.code, Some(2), "{ended:?}");
        assert!(
            process.stderr.contains("the 2 processes were not all started with the same flags"),
            "{ended:?}"
        );
    }
    assert!(!folder.path("run").exists());
}
