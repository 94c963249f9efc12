//! As much of OpenAPI and JSON Schema as `docs/openapi.yaml` uses. A keyword that is not known here fails, so that none is
//! there without being checked.

use serde_json::{Map, Value};

pub(crate) struct Document(Value);

impl Document {
    pub(crate) fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        Self(serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// What a JSON pointer leads to.
    pub(crate) fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"))
    }

    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref") {
            Some(place) => self.at(place.as_str().unwrap().strip_prefix('#').unwrap()),
            None => value,
        }
    }

    /// Every `$ref` leads somewhere.
    pub(crate) fn check_references(&self) {
        fn walk(document: &Document, value: &Value) {
            document.follow(value);
            match value {
                Value::Object(fields) => fields.values().for_each(|field| walk(document, field)),
                Value::Array(items) => items.iter().for_each(|item| walk(document, item)),
                _ => {}
            }
        }
        walk(self, &self.0);
    }

    /// Panics unless a response of this status, type and shape is described.
    pub(crate) fn check_answer(&self, method: &str, path: &str, status: u16, head: &str, body: &str) {
        let what = format!("{method} {path}: {status} {body}");
        let responses = &self.at("/paths")[path][method.to_lowercase()]["responses"];
        let class = format!("{}XX", status / 100);
        let found = responses.get(status.to_string()).or_else(|| responses.get(class));
        let response = self.follow(found.unwrap_or_else(|| panic!("{what}: not described")));
        let Some(content) = response.get("content") else {
            return assert_eq!(body, "", "{what}");
        };
        let kind = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-type: ").map(str::to_owned));
        let kind = kind.unwrap_or_else(|| panic!("{what}: no content-type"));
        let kind = kind.split(';').next().unwrap();
        let schema =
            &content.get(kind).unwrap_or_else(|| panic!("{what}: {kind} is not described"))["schema"];
        let problem = match kind {
            "application/json" => self.problem(schema, &serde_json::from_str(body).unwrap()),
            "application/jsonl" => {
                let mut lines =
                    unchunked(head, body).lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
                lines.find_map(|line| self.problem(schema, &serde_json::from_str(&line).unwrap()))
            }
            _ => self.problem(schema, &body.into()),
        };
        assert_eq!(problem, None, "{what}");
    }

    /// What is wrong with a value, if anything.
    pub(crate) fn problem(&self, schema: &Value, value: &Value) -> Option<String> {
        let schema = self.follow(schema).as_object().expect("a schema is an object");
        let wrong = |what: &str| Some(format!("{value}: {what}"));
        for (keyword, rule) in schema {
            let problem = match keyword.as_str() {
                "description" | "required" | "format" => None,
                "type" => {
                    let types = rule.as_array().map_or(std::slice::from_ref(rule), Vec::as_slice);
                    let fits = types.iter().any(|kind| is(value, kind.as_str().unwrap()));
                    if fits { None } else { wrong(&format!("expected {rule}")) }
                }
                "const" if value != rule => wrong(&format!("expected {rule}")),
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    wrong(&format!("expected one of {rule}"))
                }
                "minimum" if value.as_f64() < rule.as_f64() => wrong(&format!("expected at least {rule}")),
                "const" | "enum" | "minimum" => None,
                "items" => {
                    let items = value.as_array().map_or(&[][..], Vec::as_slice);
                    items.iter().find_map(|item| self.problem(rule, item))
                }
                "oneOf" => {
                    let fit =
                        rule.as_array().unwrap().iter().filter(|one| self.problem(one, value).is_none());
                    if fit.count() == 1 { None } else { wrong("expected one of several shapes") }
                }
                "properties" => rule
                    .as_object()
                    .unwrap()
                    .iter()
                    .find_map(|(name, rule)| self.problem(rule, value.get(name)?)),
                "additionalProperties" => {
                    let known =
                        schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
                    let fields = value.as_object().into_iter().flat_map(Map::keys);
                    let more = fields.into_iter().find(|name| !known.contains_key(*name));
                    more.and_then(|name| wrong(&format!("{name} is not described")))
                }
                unknown => Some(format!("{unknown}: a keyword that is not checked")),
            };
            if problem.is_some() {
                return problem;
            }
        }
        let (fields, names) = (value.as_object()?, schema.get("required")?.as_array()?);
        let missing = names.iter().find(|name| !fields.contains_key(name.as_str().unwrap()))?;
        wrong(&format!("{missing} is missing"))
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("{other}: no type"),
    }
}

/// A body without the lengths of its chunks. Lines of JSON begin with a brace, lengths do not.
fn unchunked(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    body.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect()
}
