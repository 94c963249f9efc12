//! Configuration: what stands under the command line.
//!
//! A flag's value is the first that is set of: the flag, `ACDIT_VERB_FLAG`, `ACDIT_FLAG`, the file's `flag` in `[verb]`, the
//! file's `flag` without a table, the default. A preset of `train` comes before what is meant for all verbs, `ACDIT_FLAG` and
//! the file's `flag` without a table: four sampling steps for every verb are no schedule of four steps. There is one mechanism
//! for all of it: what they say becomes clap's default before the command line is read, so precedence, parsing and help are
//! clap's own.

mod file;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, CommandFactory};

use self::file::{Values, dashed, plain, underscored};
use crate::args::{Cli, is_switch};
use crate::failure::Refused;

const PREFIX: &str = "ACDIT_";
const DEFAULT_FILE: &str = "acdit-world.toml";
/// The flag that names the file cannot stand in it.
const FILE_FLAG: &str = "config";
/// Flags of `train` that belong together, by name.
const PRESETS: [(&str, &str); 5] = [
    ("gravity", include_str!("presets/gravity.toml")),
    ("maze", include_str!("presets/maze.toml")),
    ("ucf101-b", include_str!("presets/ucf101-b.toml")),
    ("ucf101-xl", include_str!("presets/ucf101-xl.toml")),
    ("ucf101-h", include_str!("presets/ucf101-h.toml")),
];
/// The verb that has them, and its flag.
const TRAIN: &str = "train";
const PRESET_FLAG: &str = "preset";

/// The environment and the file.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    file: Option<PathBuf>,
    /// Variables beginning with `ACDIT_`.
    variables: BTreeMap<String, String>,
    /// The file's keys without a table.
    shared: Values,
    /// The file's tables.
    verbs: BTreeMap<String, Values>,
    /// The name and values of the preset.
    preset: Option<(&'static str, Values)>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// An environment variable of this name.
    Variable(String),
    /// A key of the file, with its table.
    File(PathBuf, String),
    /// A preset of this name.
    Preset(&'static str),
    /// Nothing was set.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File(path, key) => write!(f, "{}: {key}", path.display()),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Layers {
    /// The file that the command line names. Everything else on it may be wrong: that is for the real parse to say.
    pub(crate) fn named_by(command: Command, words: &[OsString]) -> Option<PathBuf> {
        let matches = command.ignore_errors(true).try_get_matches_from(words).ok()?;
        matches.get_one::<PathBuf>(FILE_FLAG).cloned()
    }

    /// Reads `file`; without one, the file that `ACDIT_CONFIG` names; without that, `acdit-world.toml` in the current
    /// folder if it exists.
    pub(crate) fn read(
        file: Option<PathBuf>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Refused> {
        let variables: BTreeMap<String, String> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
            .map(|(name, value)| match value.into_string() {
                Ok(value) => Ok((name, value)),
                Err(_) => Err(Refused::Config(format!("{name}: not UTF-8"))),
            })
            .collect::<Result<_, _>>()?;
        let named = file.or_else(|| variables.get(&variable(FILE_FLAG)).map(PathBuf::from));
        let standing = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        let layers = Self { variables, ..Self::default() };
        match named.or_else(standing) {
            Some(path) => layers.with_file(path),
            None => Ok(layers),
        }
    }

    fn with_file(mut self, path: PathBuf) -> Result<Self, Refused> {
        let refused = |what: String| Refused::Config(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|e| refused(e.to_string()))?;
        let values = file::read(&text, &flags_by_verb()).map_err(refused)?;
        (self.shared, self.verbs) = (values.shared, values.verbs);
        self.file = Some(path);
        Ok(self)
    }

    /// With the preset that the command line `words`, the environment or the file names, if any does and there is such a one.
    pub(crate) fn with_preset(mut self, words: &[OsString]) -> Self {
        let matches = self.command().ignore_errors(true).try_get_matches_from(words).ok();
        let on_the_line = matches.as_ref().and_then(|matches| {
            matches.subcommand_matches(TRAIN)?.get_one::<String>(PRESET_FLAG).map(String::as_str)
        });
        let named = on_the_line.or_else(|| Some(self.find(TRAIN, PRESET_FLAG)?.0));
        let preset = PRESETS.into_iter().find(|&(name, _)| Some(name) == named);
        self.preset = preset.map(|(name, text)| (name, preset_values(text)));
        self
    }

    /// The file that was read.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What is set for a flag of a verb, and where.
    pub(crate) fn find(&self, verb: &str, flag: &str) -> Option<(&str, Origin)> {
        let preset = self.preset.as_ref().filter(|_| verb == TRAIN);
        let preset =
            preset.and_then(|(name, values)| Some((values.get(flag)?.as_str(), Origin::Preset(name))));
        let own = self.variable(variable(&format!("{verb}-{flag}")));
        let own_key = || {
            let key = format!("[{verb}] {}", underscored(flag));
            self.key(self.verbs.get(verb)?.get(flag)?, key)
        };
        let shared = || self.variable(variable(flag));
        let shared_key = || self.key(self.shared.get(flag)?, underscored(flag));
        match preset {
            Some(preset) => own.or_else(own_key).or(Some(preset)),
            None => own.or_else(shared).or_else(own_key).or_else(shared_key),
        }
    }

    fn variable(&self, name: String) -> Option<(&str, Origin)> {
        Some((self.variables.get(&name)?, Origin::Variable(name)))
    }

    fn key<'a>(&'a self, value: &'a str, key: String) -> Option<(&'a str, Origin)> {
        Some((value, Origin::File(self.file.clone()?, key)))
    }

    /// The command line, with what is set as its defaults.
    pub(crate) fn command(&self) -> Command {
        Cli::command().mut_args(|arg| self.preset("", arg)).mut_subcommands(|verb| {
            let name = verb.get_name().to_owned();
            verb.mut_args(|arg| self.preset(&name, arg))
        })
    }

    fn preset(&self, verb: &str, arg: Arg) -> Arg {
        let set = arg.get_long().filter(|flag| *flag != FILE_FLAG).and_then(|flag| self.find(verb, flag));
        let Some((value, _)) = set else { return arg };
        let value = match value {
            "1" if is_switch(&arg) => "true",
            "0" if is_switch(&arg) => "false",
            value => value,
        };
        let value = value.to_owned();
        arg.default_value(value).required(false)
    }

    /// Names the variable or key that holds the value clap refused, unless it stood on the command line.
    pub(crate) fn blame(&self, error: clap::Error, verb: &str, words: &[OsString]) -> Refused {
        let flag = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(usage)) => {
                usage.strip_prefix("--").and_then(|u| u.split([' ', '=']).next())
            }
            _ => None,
        };
        let on_the_line = |flag: &str| {
            let flag = format!("--{flag}");
            words.iter().any(|word| word.to_str().is_some_and(|w| w.split('=').next() == Some(&flag)))
        };
        match flag.filter(|flag| !on_the_line(flag)).and_then(|flag| self.find(verb, flag)) {
            Some((_, origin)) => Refused::Config(format!("{origin}: {}", Refused::Clap(error))),
            None => Refused::Clap(error),
        }
    }
}

/// Names of the presets.
pub(crate) fn preset_names() -> [&'static str; PRESETS.len()] {
    PRESETS.map(|(name, _)| name)
}

fn preset_values(text: &str) -> Values {
    let table: toml::Table = text.parse().expect("presets are well-formed, as a test makes sure");
    let value = |value: &toml::Value| plain(value).expect("presets hold plain values");
    table.iter().map(|(key, item)| (dashed(key), value(item))).collect()
}

/// All verbs with their flags.
fn flags_by_verb() -> BTreeMap<String, Vec<String>> {
    let root = Cli::command();
    let flags = |command: &Command| -> Vec<String> {
        command.get_arguments().filter_map(|arg| Some(arg.get_long()?.to_owned())).collect()
    };
    let shared: Vec<String> = flags(&root).into_iter().filter(|flag| flag != FILE_FLAG).collect();
    root.get_subcommands()
        .map(|verb| (verb.get_name().to_owned(), [flags(verb), shared.clone()].concat()))
        .collect()
}

fn variable(name: &str) -> String {
    format!("{PREFIX}{}", underscored(name).to_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn layers(file: &str, variables: &[(&str, &str)]) -> Result<Layers, Refused> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        Layers::read(Some(path), variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn the_nearest_layer_wins() {
        let file = "port = 1\ndevice = \"cpu\"\n[serve]\nport = 2\n";
        let value = |variables: &[(&str, &str)]| {
            let layers = layers(file, variables).unwrap();
            layers.find("serve", "port").map(|(value, _)| value.to_owned()).unwrap()
        };
        assert_eq!(value(&[]), "2");
        assert_eq!(value(&[("ACDIT_PORT", "3")]), "3");
        assert_eq!(value(&[("ACDIT_PORT", "3"), ("ACDIT_SERVE_PORT", "4")]), "4");
        assert_eq!(value(&[("ACDIT_PORT", "")]), "2");
        let layers = layers(file, &[]).unwrap();
        assert_eq!(layers.find("generate", "device").unwrap().0, "cpu");
        assert_eq!(layers.find("generate", "seed"), None);
    }

    #[test]
    fn presets_stand_under_everything_and_hold_flags_of_train_that_parse() {
        let flags = &flags_by_verb()[TRAIN];
        for (name, text) in PRESETS {
            let values = preset_values(text);
            for key in values.keys() {
                assert!(flags.contains(key), "{name}: train has no flag --{key}");
            }
            let words = ["acdit-world", "train", "--preset", name, "--out", "x", "--data-dir", "x"]
                .map(OsString::from);
            let layers = Layers::default().with_preset(&words);
            let matches = layers.command().try_get_matches_from(words).unwrap();
            let train = matches.subcommand_matches(TRAIN).unwrap();
            assert_eq!(train.get_one::<i64>("hidden").unwrap().to_string(), values["hidden"]);
            assert_eq!(
                layers.find("train", "hidden").unwrap(),
                (values["hidden"].as_str(), Origin::Preset(name))
            );
            assert_eq!(layers.find("bench", "hidden"), None);
        }
        let words = ["acdit-world", "train", "--out", "x"].map(OsString::from);
        let file = "steps = 3\ndevice = \"cpu\"\n[train]\npreset = \"maze\"\nbatch = 3\n";
        let variables = [("ACDIT_TRAIN_RATE", "1"), ("ACDIT_STEPS", "4")];
        let layers = layers(file, &variables).unwrap().with_preset(&words);
        let value = |flag| layers.find(TRAIN, flag).unwrap();
        assert_eq!((value("batch").0, value("rate").0, value("device").0), ("3", "1", "cpu"));
        // meant for all verbs, they are no recipe's
        assert_eq!((value("steps").0, layers.find("serve", "steps").unwrap().0), ("20000", "4"));
        assert_eq!(value("dataset"), ("maze", Origin::Preset("maze")));
    }

    #[test]
    fn lists_and_switches_are_written_as_on_the_command_line() {
        let layers =
            layers("json = true\n[generate]\nlabel = [\"left\", \"up\"]\nframes = 8\n", &[]).unwrap();
        assert_eq!(layers.find("generate", "label").unwrap().0, "left,up");
        let words = ["acdit-world", "generate", "--out", "a.mp4"];
        let matches = layers.command().try_get_matches_from(words).unwrap();
        assert!(matches.get_flag("json"));
        let (_, verb) = matches.subcommand().unwrap();
        assert_eq!(verb.get_many::<String>("label").unwrap().collect::<Vec<_>>(), ["left", "up"]);
    }

    proptest! {
        #[test]
        fn any_value_of_any_flag_is_taken_or_refused_in_one_line(pick: Index, value in "\\PC{0,12}") {
            let flags = flags_by_verb();
            let all: Vec<_> = flags.iter().flat_map(|(verb, flags)| flags.iter().map(move |f| (verb, f))).collect();
            let (verb, flag) = pick.get(&all);
            let file = format!("[{verb}]\n{flag} = {}", toml::Value::from(value));
            let layers = layers(&file, &[]).unwrap();
            let words = ["acdit-world", verb].map(OsString::from);
            if let Err(error) = layers.command().try_get_matches_from(&words) {
                let said = layers.blame(error, verb, &words).to_string();
                prop_assert!(!said.is_empty() && !said.contains('\n'), "{}", said);
            }
        }
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        let message = |file: &str| layers(file, &[]).unwrap_err().to_string();
        assert!(message("prot = 1").contains("unknown key prot"));
        assert!(message("[serv]\nport = 1").contains("unknown table [serv], expected bench, "));
        assert!(message("[serve]\nprot = 1").contains("unknown key prot in [serve], expected host, port"));
        assert!(message("port = ").contains("line 1"));
        assert!(message("[serve]\nport = 1979-05-27").contains("port: expected a string"));
        assert!(message("config = \"x\"").contains("unknown key config"));
    }
}
