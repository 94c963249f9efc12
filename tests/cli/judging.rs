//! `eval`: the judges tell the weights that ship, the truth and a broken network apart, and films are compared with clips.

use std::path::Path;

use crate::harness::Folder;
use crate::refusals::refused;

/// Stand-ins for the networks of FVD and LPIPS.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/evaluation/");

fn fixture(name: &str) -> String {
    Path::new(FIXTURES).join(name).to_str().unwrap().to_owned()
}

#[test]
fn the_shipped_world_is_judged_beside_its_bounds() {
    let folder = Folder::empty();
    let words = ["eval", "--world", "gravity", "--frames", "400", "--seed", "1", "--dtype", "f32", "--json"];
    let evaluation = folder.run(&words).json();
    let films = evaluation["films"].as_array().unwrap();
    let names: Vec<_> = films.iter().map(|film| film["film"].as_str().unwrap()).collect();
    assert_eq!(names, ["weights", "truth", "vae", "broken"]);
    for film in films {
        assert_eq!((film["frames"].as_u64(), film["windows"].as_array().unwrap().len()), (Some(400), 4));
    }
    let share = |film: usize, figure: &str| films[film][figure].as_f64().unwrap();
    assert_eq!((share(1, "two_balls"), share(1, "obeyed")), (1.0, 1.0));
    assert!(share(2, "two_balls") >= 0.98 && share(2, "obeyed") >= 0.95, "{evaluation}");
    assert!(share(0, "two_balls") > share(3, "two_balls") + 0.2, "{evaluation}");
    assert!(films[1]["measured"].as_u64().unwrap() > 10, "{evaluation}");
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn a_judgement_in_words_compares_what_was_asked_for() {
    let folder = Folder::empty();
    let words = ["eval", "--world", "gravity", "--frames", "2000", "--of", "truth,weights"];
    let ran = folder.run(&words);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let names: Vec<_> = ran.stdout.lines().map(|line| line.chars().take(16).collect::<String>()).collect();
    let expected = ["", "weights", "  first thousand", "  last thousand", "truth"];
    assert_eq!(names.iter().map(|name| name.trim_end()).collect::<Vec<_>>(), expected, "{ran:?}");
}

#[test]
fn the_maze_is_judged_without_weights() {
    let folder = Folder::empty();
    let words = ["eval", "--world", "maze", "--of", "truth", "--frames", "800", "--json"];
    let evaluation = folder.run(&words).json();
    let [film] = &evaluation["films"].as_array().unwrap()[..] else { panic!("{evaluation}") };
    assert_eq!((&film["film"], &film["frames"]), (&"truth".into(), &800.into()));
    assert_eq!(film["windows"].as_array().unwrap().len(), 8);
    let figure = |name: &str| film[name].as_f64().unwrap();
    assert!(figure("turned") >= 0.97 && film["turns"].as_u64().unwrap() > 40, "{evaluation}");
    assert!((0.95..1.05).contains(&figure("angle")), "{evaluation}");
    assert!(figure("frozen") < 0.2 && (0.7..1.3).contains(&figure("sharpness")), "{evaluation}");
}

#[test]
fn weights_that_never_learnt_the_maze_do_not_pass() {
    let folder = Folder::with_world_of(&["stay", "forward", "left", "right"]);
    let words = ["eval", "--world", "maze", "--weights", "world", "--frames", "400", "--json"];
    let evaluation = folder.run(&words).json();
    let films = evaluation["films"].as_array().unwrap();
    let names: Vec<_> = films.iter().map(|film| film["film"].as_str().unwrap()).collect();
    assert_eq!(names, ["weights", "truth", "vae", "broken"]);
    let turned = |film: usize| films[film]["turned"].as_f64().unwrap();
    assert!(turned(1) > 0.9 && turned(0) < 0.8 && turned(3) < 0.8, "{evaluation}");
    refused(&folder, &["eval", "--world", "maze"], "--weights DIR is missing: none of maze ship");
    refused(&folder, &["eval", "--world", "gravity", "--weights", "world"], "gravity has");
}

/// Clips that a VAE left are nearer to the real ones than films of the shipped weights, and those nearer than a broken one's.
#[test]
fn films_are_compared_with_held_out_clips() {
    let folder = Folder::empty();
    let (features, distances) = (fixture("features.pt"), fixture("distances.pt"));
    let words = ["eval", "--dataset", "gravity", "--of", "weights,vae,broken", "--frames", "16"];
    let networks = ["--fvd", &features, "--lpips", &distances, "--window-frames", "8", "--context", "3"];
    let amount = [
        "--clips",
        "4",
        "--seeds",
        "2",
        "--seed",
        "5",
        "--dtype",
        "f32",
        "--steps",
        "3",
        "--plot",
        "figures.svg",
    ];
    let compared = folder.run(&[&words[..], &networks, &amount, &["--json"]].concat()).json();
    let protocol = &compared["protocol"];
    assert_eq!((&protocol["seeds"], &protocol["split"]), (&[5, 6].into(), &"test".into()));
    assert_eq!((&protocol["clips"], &protocol["context_frames"]), (&4.into(), &12.into()));
    assert_eq!((&protocol["kind"], &protocol["sampling"]["steps"]), (&"f32".into(), &3.into()));
    assert_eq!((&protocol["fvd"]["features"], &protocol["size"]), (&12.into(), &[64, 64].into()));
    assert_eq!(protocol["fvd"]["sha256"].as_str().unwrap(), sha256(&features));
    assert_eq!(protocol["lpips"]["sha256"].as_str().unwrap(), sha256(&distances));

    let window = |film: usize, window: usize| &compared["films"][film]["windows"][window];
    let mean = |film, index, figure: &str| window(film, index)[figure]["mean"].as_f64().unwrap();
    for index in [0, 1] {
        assert_eq!(window(0, index)["first_frame"], index * 8);
        for (better, worse) in [(1, 0), (0, 2)] {
            for figure in ["psnr", "ssim"] {
                assert!(mean(better, index, figure) > mean(worse, index, figure), "{compared}");
            }
            assert!(mean(better, index, "lpips") < mean(worse, index, "lpips"), "{compared}");
        }
        assert!(mean(0, index, "fvd") < mean(2, index, "fvd"), "{compared}");
        assert_eq!(window(0, index)["compared"], 2 * 4 * 8);
    }
    assert!(mean(0, 0, "psnr") > mean(0, 1, "psnr") + 2.0, "films part from the clip: {compared}");
    assert!(mean(1, 0, "psnr") > 35.0, "{compared}");
    let of_seeds = window(0, 0)["psnr"]["seeds"].as_array().unwrap();
    assert_ne!(of_seeds[0], of_seeds[1]);
    let picture = std::fs::read_to_string(folder.path("figures.svg")).unwrap();
    for text in ["PSNR (dB)", "SSIM", "LPIPS", "FVD", "weights", "vae", "broken"] {
        assert!(picture.contains(text), "{text}");
    }
}

/// In the order of their names, the classes are the tiny world's labels in another order, which would be another action.
#[test]
fn fvd_of_films_from_nothing_prints_its_protocol() {
    let folder = Folder::with_world_of(&["left", "right", "still"]);
    for (clip, seconds) in
        [("left/a", 1.0), ("left/b", 0.2), ("right/a", 1.0), ("right/b", 1.0), ("still/a", 1.0)]
    {
        std::fs::create_dir_all(folder.path("clips").join(clip).parent().unwrap()).unwrap();
        folder.clip(&format!("clips/{clip}.avi"), seconds);
    }
    let features = fixture("features.pt");
    let base =
        ["eval", "--dataset", "folder", "--data-dir", "clips", "--weights", "world", "--fvd", &features];
    let amount = ["--clips", "4", "--seeds", "2", "--window-frames", "6", "--frame-interval", "3"];
    let ran = folder.run(&[&base[..], &amount].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let expected = "4 training clips of clips for each seed, classes balanced, 16x16, one frame in 3, windows of 6 frames";
    assert_eq!(lines[0], expected);
    assert!(lines[1].starts_with("films from nothing"), "{ran:?}");
    assert!(lines[3].contains(&sha256(&features)) && lines[3].starts_with("FVD: 12 features"), "{ran:?}");
    assert_eq!(lines[4], "mean ± standard deviation over seeds 0, 1");
    assert!(lines[5].ends_with("FVD") && lines[6].starts_with("weights     1-6  "), "{ran:?}");
    assert_eq!(lines.len(), 7, "{ran:?}");
    // one of the clips has two frames in three steps
    assert!(ran.stderr.contains("1 clips are left out") && ran.stderr.contains("left/b.avi"), "{ran:?}");

    let common = [&base[..7], &["--frame-interval", "3", "--window-frames", "6", "--seeds", "1"]].concat();
    let compare = |more: &[&str], needle: &str| refused(&folder, &[&common[..], more].concat(), needle);
    compare(&["--fvd", &features, "--clips", "9"], "--clips 9: clips lists 5");
    compare(&["--fvd", &features, "--clips", "5"], "--clips 5: only 4 of clips can be used");
    compare(&["--fvd", &features, "--clips", "1"], "FVD needs at least 2");
    compare(&["--fvd", "none.pt", "--clips", "2"], "none.pt: No such file");
    let maps = fixture("maps.pt");
    compare(&["--fvd", &maps, "--clips", "2"], "maps.pt: its features are [2, 3, 6], expected [2, D]");
    let pairs = fixture("distances.pt");
    compare(&["--fvd", &pairs, "--clips", "2"], "distances.pt: its forward failed");
    compare(&["--lpips", "world/world.json", "--clips", "2"], "world.json: not a TorchScript file");
    compare(&["--context", "0"], "--context 0: films from nothing");
    compare(&["--frames", "20"], "--frames 20: expected a multiple of --window-frames 6");
    compare(&["--split", "test"], "--split test: clips has no list of held-out clips");
    compare(&["--of", "truth"], "--of truth");
    compare(&["--plot", "figures.gif"], "figures.gif: expected a name ending in .svg or .png");
    compare(&["--plot", "none/figures.svg"], "the folder none does not exist");
    std::fs::rename(folder.path("clips/still"), folder.path("clips/stay")).unwrap();
    compare(&[], "world: a label \"still\" where clips has \"stay\"");
    std::fs::remove_dir_all(folder.path("clips/stay")).unwrap();
    compare(&[], "world: 3 labels, clips has 2");
    refused(&folder, &["eval", "--world", "gravity", "--fvd", &features], "--world with --fvd");
    refused(&folder, &["eval", "--dataset", "ucf101", "--weights", "world"], "--data-dir <DIR>");
    let interval = ["eval", "--dataset", "gravity", "--frame-interval", "3"];
    refused(&folder, &interval, "a frame interval of 1");
}

fn sha256(path: &str) -> String {
    let summed = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(summed.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}
