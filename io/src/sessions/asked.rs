//! What `POST /api/sessions` takes: fields as one JSON object, or as the parts of a form, which may bring a clip along.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use multer::{Constraints, Multipart, SizeLimit};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::{
    guard::Rejection,
    protocol::LabelInfo,
    server::App,
    source::{Fork, Wanted},
    upload,
};

/// Largest JSON body, and largest field of a form but the clip, in bytes.
const FIELDS_BYTES: usize = 16 << 10;

/// Most parts of a form: more than there are fields.
const PARTS: usize = 16;

/// What was asked for.
pub(super) struct Asked {
    pub(super) wanted: Wanted,
    /// Wait for a place if there is none.
    pub(super) wait: bool,
    /// A video file to continue from: any bytes at all.
    pub(super) clip: Option<Clip>,
}

/// A clip and its place among the uploads, which it has until the world has taken it.
pub(super) struct Clip {
    pub(super) bytes: Bytes,
    pub(super) turn: OwnedSemaphorePermit,
}

/// The fields; all of them optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fields {
    label: Option<LabelName>,
    seed: Option<u64>,
    private: bool,
    unattended: bool,
    ephemeral: bool,
    steps: Option<u32>,
    guidance: Option<f64>,
    fork: Option<Fork>,
    wait: bool,
}

/// A label by its index or by its name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum LabelName {
    Index(u32),
    Name(String),
}

/// Reads a body to its end, within the limits of its kind.
pub(super) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Asked, Rejection> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let (fields, clip) = match multer::parse_boundary(kind) {
        Ok(boundary) => {
            let turn = upload::turn(app)?;
            let form = form(body, boundary, app.config.upload_bytes);
            let form = timeout(app.config.upload_deadline, form).await;
            let (fields, clip) = form.map_err(|_| late("the form"))??;
            (fields, clip.map(|bytes| Clip { bytes, turn }))
        }
        Err(_) => {
            let fields = upload::collect(body, FIELDS_BYTES, "the session's fields");
            let body = timeout(app.config.header_deadline, fields);
            let body = body.await.map_err(|_| late("the session's fields"))??;
            let empty = || Ok(Value::Object(Map::new()));
            let read = if body.is_empty() { empty() } else { serde_json::from_slice(&body) };
            (read.map_err(|error| bad(format!("the body: {error}")))?, None)
        }
    };
    let fields: Fields = serde_json::from_value(fields).map_err(|error| bad(error.to_string()))?;
    if clip.is_some() && fields.wait {
        return Err(bad("wait: a session that begins with a clip cannot wait for a place".to_owned()));
    }
    let Fields { label, seed, private, unattended, ephemeral, steps, guidance, fork, wait } = fields;
    let label = label.map(|label| index(label, &app.source.info().labels)).transpose()?;
    let wanted = Wanted { label, seed, private, unattended, ephemeral, steps, guidance, fork };
    Ok(Asked { wanted, wait, clip })
}

/// Whether a JSON body has fields of a session, and no others.
pub(crate) fn are_fields(body: &[u8]) -> bool {
    serde_json::from_slice(body).and_then(serde_json::from_value::<Fields>).is_ok()
}

fn bad(message: String) -> Rejection {
    Rejection::new(StatusCode::BAD_REQUEST, "bad_fields", message)
}

fn late(what: &str) -> Rejection {
    let message = format!("{what} took too long to arrive");
    Rejection::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message)
}

fn index(label: LabelName, labels: &[LabelInfo]) -> Result<u32, Rejection> {
    let count = labels.len();
    match label {
        LabelName::Index(index) if (index as usize) < count => Ok(index),
        LabelName::Index(index) => Err(bad(format!("label: expected an index below {count}, got {index}"))),
        LabelName::Name(name) => {
            let found = labels.iter().position(|label| label.name == name);
            found.map(|index| index as u32).ok_or_else(|| bad(format!("label: this world has no {name:?}")))
        }
    }
}

/// The fields of a form as JSON would have them, and its clip. File names are passed over.
async fn form(body: Body, boundary: String, clip_bytes: usize) -> Result<(Value, Option<Bytes>), Rejection> {
    let (fields, clip) = (FIELDS_BYTES as u64, clip_bytes as u64);
    let whole = clip.saturating_add(PARTS as u64 * fields);
    let limits = SizeLimit::new().whole_stream(whole).per_field(fields).for_field("clip", clip);
    let constraints = Constraints::new().size_limit(limits);
    let wrong = |error: multer::Error| wrong(&error, clip_bytes);
    let mut form = Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let (mut fields, mut clip) = (Map::new(), None);
    for _ in 0..PARTS {
        let Some(part) = form.next_field().await.map_err(wrong)? else {
            return Ok((Value::Object(fields), clip));
        };
        let Some(name) = part.name().map(str::to_owned) else {
            return Err(bad("the form: a part has no name".to_owned()));
        };
        let twice = if name == "clip" {
            let bytes = part.bytes().await.map_err(wrong)?;
            if bytes.is_empty() {
                return Err(Rejection::new(StatusCode::BAD_REQUEST, "empty", "the clip has no bytes"));
            }
            clip.replace(bytes).is_some()
        } else {
            let text = part.text().await.map_err(wrong)?;
            let value = value(&name, text)?;
            fields.insert(name.clone(), value).is_some()
        };
        if twice {
            return Err(bad(format!("{name}: there are two of it")));
        }
    }
    Err(bad(format!("the form: it has more than {PARTS} parts")))
}

/// A part's text as JSON. A label is a number where it reads as one, and else a name.
fn value(name: &str, text: String) -> Result<Value, Rejection> {
    match serde_json::from_str(&text) {
        Ok(value @ Value::Number(_)) => Ok(value),
        _ if name == "label" => Ok(Value::String(text)),
        Ok(value) => Ok(value),
        Err(_) => Err(bad(format!("{name}: expected a JSON value such as 5 or true"))),
    }
}

fn wrong(error: &multer::Error, clip_bytes: usize) -> Rejection {
    use multer::Error as E;
    match error {
        E::FieldSizeExceeded { field_name: Some(name), limit } => {
            let message = format!("{name} may have {limit} bytes");
            Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        }
        E::FieldSizeExceeded { .. } | E::StreamSizeExceeded { .. } => {
            let message = format!("the clip may have {clip_bytes} bytes, every other part {FIELDS_BYTES}");
            Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        }
        E::StreamReadFailed(_)
        | E::IncompleteStream
        | E::IncompleteHeaders
        | E::IncompleteFieldData { .. } => {
            let message = "the form broke off before its end";
            Rejection::new(StatusCode::BAD_REQUEST, "incomplete", message)
        }
        _ => bad("the form: it cannot be read as multipart/form-data".to_owned()),
    }
}
