//! The text of a configuration file: which verb gets which value. It knows nothing of the program but the flags it is told.

use std::collections::BTreeMap;

/// Values by flag, flags being written as on the command line.
pub(crate) type Values = BTreeMap<String, String>;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct FileValues {
    /// Keys without a table.
    pub(crate) shared: Values,
    /// Tables, by verb.
    pub(crate) verbs: BTreeMap<String, Values>,
}

/// Reads a file's text against the flags of each verb.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn read(text: &str, known: &BTreeMap<String, Vec<String>>) -> Result<FileValues, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", 1 + before.matches('\n').count(), e.message())
    })?;
    let mut values = FileValues::default();
    for (key, value) in table {
        let name = dashed(&key);
        match value {
            toml::Value::Table(entries) => {
                let Some(flags) = known.get(&name) else {
                    return Err(format!("unknown table [{key}], expected {}", list(known.keys())));
                };
                let of_verb = values.verbs.entry(name).or_default();
                for (key_of_verb, value) in entries {
                    let flag = dashed(&key_of_verb);
                    if !flags.contains(&flag) {
                        let expected = list(flags);
                        return Err(format!("unknown key {key_of_verb} in [{key}], expected {expected}"));
                    }
                    of_verb.insert(flag, plain(&value).ok_or_else(|| no_value(&key_of_verb))?);
                }
            }
            _ if !known.values().flatten().any(|flag| *flag == name) => {
                return Err(format!("unknown key {key}: no verb has a flag --{name}"));
            }
            value => {
                values.shared.insert(name, plain(&value).ok_or_else(|| no_value(&key))?);
            }
        }
    }
    Ok(values)
}

/// A value as it would stand on the command line.
pub(crate) fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Some(value.to_string()),
        toml::Value::Array(items) => Some(items.iter().map(plain).collect::<Option<Vec<_>>>()?.join(",")),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn no_value(key: &str) -> String {
    format!("{key}: expected a string, a number, true or false, or a list of these")
}

fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| underscored(name)).collect::<Vec<_>>().join(", ")
}

pub(crate) fn dashed(key: &str) -> String {
    key.replace('_', "-")
}

pub(crate) fn underscored(flag: &str) -> String {
    flag.replace('-', "_")
}
