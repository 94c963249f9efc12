//! `config`: what the environment and the configuration file come to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::config::{Layers, Origin};
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each flag's value as the verbs would see it, and where it came from
    Check,
}

/// A flag's value.
#[derive(Debug, Serialize)]
struct Resolved {
    /// Null where the verb decides by itself, such as by what the weights say.
    value: Value,
    source: String,
}

#[derive(Debug, Serialize)]
struct Checked {
    /// The configuration file, if there is one.
    file: Option<PathBuf>,
    /// By verb and flag.
    values: BTreeMap<String, BTreeMap<String, Resolved>>,
}

impl Config {
    pub(crate) fn run(self, layers: &Layers, output: Output) -> anyhow::Result<()> {
        let Action::Check = self.action;
        let mut values = BTreeMap::new();
        for verb in layers.command().get_subcommands() {
            let name = verb.get_name();
            // Nothing is missing here, and what is set is read as it would be.
            let lenient = verb.clone().mut_args(|arg| arg.required(false)).subcommand_required(false);
            let parsed = lenient.arg_required_else_help(false).try_get_matches_from([name]);
            parsed.map_err(|error| anyhow::anyhow!("{}", layers.blame(error, name, &[])))?;
            let flags = verb.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
            let resolved: BTreeMap<_, _> = flags
                .map(|(flag, arg)| {
                    let origin = layers.find(name, flag).map_or(Origin::Default, |(_, origin)| origin);
                    let defaults: Vec<_> =
                        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
                    let value = match defaults.join(",").as_str() {
                        "" => Value::Null,
                        // It may be a secret, and what is printed is passed on and kept.
                        _ if arg.is_hide_default_value_set() => "(not shown)".into(),
                        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
                    };
                    (flag.to_owned(), Resolved { value, source: origin.to_string() })
                })
                .collect();
            if !resolved.is_empty() {
                values.insert(name.to_owned(), resolved);
            }
        }
        let checked = Checked { file: layers.file().map(Into::into), values };
        output.print(&checked, || checked.text())
    }
}

impl Checked {
    fn text(&self) -> String {
        let mut text = match &self.file {
            Some(file) => format!("file: {}", file.display()),
            None => "file: none".to_owned(),
        };
        for (verb, flags) in &self.values {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n\n[{verb}]");
            for (flag, Resolved { value, source }) in flags {
                let value = match value {
                    Value::Null => "-".to_owned(),
                    Value::String(value) => value.clone(),
                    other => other.to_string(),
                };
                let _ = write!(text, "\n{flag:18} {value:20} {source}");
            }
        }
        text
    }
}
