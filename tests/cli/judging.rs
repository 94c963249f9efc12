//! `eval`, on the weights that ship: the judge tells them, the truth and a broken network apart.

use crate::harness::Folder;

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
    assert!(films[1]["measured"].as_u64().unwrap() > 30, "{evaluation}");
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
