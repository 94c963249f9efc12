//! Flags over the environment over the file.

use crate::harness::{Folder, Ran, ran};

fn check(folder: &Folder, words: &[&str], variables: &[(&str, &str)]) -> Ran {
    let words = [words, &["config", "check", "--json"]].concat();
    ran(folder.command(&words).envs(variables.iter().copied()).output().unwrap())
}

#[test]
fn each_value_says_where_it_came_from() {
    let folder = Folder::empty();
    let text =
        "device = \"cpu\"\nport = 1000\n[serve]\nport = 2000\n[generate]\nlabel = [\"left\", \"up\"]\n";
    std::fs::write(folder.path("acdit-world.toml"), text).unwrap();
    let checked = check(&folder, &[], &[("ACDIT_STEPS", "7"), ("ACDIT_GENERATE_SEED", "5")]).json();
    assert_eq!(checked["file"], "acdit-world.toml");
    let value = |verb: &str, flag: &str| {
        let resolved = &checked["values"][verb][flag];
        (resolved["value"].clone(), resolved["source"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(value("serve", "port"), (2000.into(), "acdit-world.toml: [serve] port".into()));
    assert_eq!(value("bench", "device"), ("cpu".into(), "acdit-world.toml: device".into()));
    assert_eq!(value("continue", "steps"), (7.into(), "ACDIT_STEPS".into()));
    assert_eq!(value("generate", "seed"), (5.into(), "ACDIT_GENERATE_SEED".into()));
    assert_eq!(value("continue", "seed"), (0.into(), "default".into()));
    assert_eq!(value("generate", "label"), ("left,up".into(), "acdit-world.toml: [generate] label".into()));
    assert_eq!(value("serve", "guidance"), (serde_json::Value::Null, "default".into()));

    std::fs::write(folder.path("other.toml"), "port = 3000").unwrap();
    let other = check(&folder, &["--config", "other.toml"], &[("ACDIT_CONFIG", "none.toml")]).json();
    assert_eq!(other["values"]["serve"]["port"]["value"], 3000);
    let named = check(&folder, &[], &[("ACDIT_CONFIG", "other.toml")]).json();
    assert_eq!(named["file"], "other.toml");
    let words = folder.run(&["config", "check"]);
    assert!(
        words.stdout.contains("[serve]") && words.stdout.contains("acdit-world.toml: [serve] port"),
        "{words:?}"
    );
}

#[test]
fn what_is_set_is_used_and_the_flag_wins() {
    let folder = Folder::with_world();
    let text = "json = true\nweights = \"world\"\n[generate]\nframes = 5\nout = \"file.mp4\"\n";
    std::fs::write(folder.path("acdit-world.toml"), text).unwrap();
    assert_eq!(folder.run(&["generate"]).json()["frames"], 5);
    let mut command = folder.command(&["generate", "--out", "flag.mp4"]);
    let made = ran(command.env("ACDIT_FRAMES", "6").env("ACDIT_OUT", "variable.mp4").output().unwrap());
    assert_eq!(made.json()["frames"], 6);
    assert_eq!(folder.names(), ["acdit-world.toml", "file.mp4", "flag.mp4", "world"]);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let folder = Folder::empty();
    let refused = |text: &str, variables: &[(&str, &str)], needle: &str| {
        std::fs::write(folder.path("acdit-world.toml"), text).unwrap();
        let checked = check(&folder, &[], variables);
        assert_eq!((checked.code, checked.stdout.as_str()), (Some(2), ""), "{checked:?}");
        assert!(checked.stderr.contains(needle), "{checked:?}");
        assert_eq!(checked.stderr.trim_end().lines().count(), 1, "{checked:?}");
    };
    refused("prot = 1", &[], "acdit-world.toml: unknown key prot");
    refused("[generate]\nport = 1", &[], "unknown key port in [generate]");
    refused("[server]\nport = 1", &[], "unknown table [server]");
    refused("port = 70000", &[], "acdit-world.toml: port: invalid value '70000'");
    refused("\n\nport = [", &[], "acdit-world.toml: line 3");
    refused("", &[("ACDIT_SERVE_PORT", "many")], "ACDIT_SERVE_PORT: invalid value 'many'");
    refused("", &[("ACDIT_CONFIG", "none.toml")], "none.toml: No such file");
    let mut command = folder.command(&["serve"]);
    let served = ran(command.env("ACDIT_PORT", "many").output().unwrap());
    assert!(
        served.code == Some(2) && served.stderr.contains("ACDIT_PORT: invalid value 'many'"),
        "{served:?}"
    );
}
