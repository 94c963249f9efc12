//! `/api/recordings`: what was recorded, and is being recorded, to look at and to take away.
//!
//! Whoever records puts `NAME.mp4`, and at the end `NAME.json`, into one folder. Only files that the listing names are
//! handed out, under the very names that it gives: nothing that a request says becomes a path.

use std::{
    fmt, fs,
    io::{self, BufReader, Read},
    path::Path,
};

use axum::{
    Json,
    extract::{self, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{
    Deserializer as _, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

use crate::{guard::Rejection, protocol::Recording, server::App};

/// A film of a session.
#[derive(Debug, Serialize)]
pub(crate) struct Recorded {
    name: String,
    session: String,
    /// The first block and the one after the last; none if it broke off before its end was written.
    blocks: Option<[u64; 2]>,
    bytes: u64,
    /// It is still being made.
    open: bool,
    /// Why it ended before it was asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Of what lies beside a film, the part that a listing tells. The log stands at its end, may be long, and is not read.
#[derive(Debug, Default)]
struct Head {
    blocks: Option<[u64; 2]>,
    error: Option<String>,
    /// The log begins: all before it was there.
    whole: bool,
}

impl Head {
    fn read(sidecar: impl Read) -> Option<Self> {
        let mut head = Self::default();
        // That the object does not end where the reading does is an error, too, and none that matters.
        let _ = serde_json::Deserializer::from_reader(BufReader::new(sidecar)).deserialize_map(&mut head);
        head.whole.then_some(head)
    }
}

impl<'de> Visitor<'de> for &mut Head {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what lies beside a film")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "blocks" => self.blocks = Some(fields.next_value()?),
                "error" => self.error = fields.next_value()?,
                "log" => {
                    self.whole = true;
                    break;
                }
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<Recorded>>, Rejection> {
    let folder = app.config.recordings.clone().ok_or_else(none_kept)?;
    let open = app.rooms.recordings();
    let listed = tokio::task::spawn_blocking(move || listed(&folder, &open)).await;
    listed.map_err(|_| failed())?.map(Json).map_err(|error| {
        tracing::error!(%error, "recordings");
        failed()
    })
}

pub(crate) async fn file(
    State(app): State<App>,
    extract::Path(asked): extract::Path<String>,
    request: Request,
) -> Result<Response, Rejection> {
    let folder = app.config.recordings.clone().ok_or_else(none_kept)?;
    let found = tokio::task::spawn_blocking(move || {
        let names = names(&folder).ok()?;
        let name = names.into_iter().find_map(|name| {
            ["mp4", "json"]
                .map(|extension| format!("{name}.{extension}"))
                .into_iter()
                .find(|file| *file == asked)
        })?;
        Some(folder.join(name)).filter(|path| path.is_file())
    });
    let path = found
        .await
        .map_err(|_| failed())?
        .ok_or_else(|| Rejection::new(StatusCode::NOT_FOUND, "no_recording", "there is no such recording"))?;
    // It answers ranges, by which players seek.
    let served = ServeFile::new(path).oneshot(request).await;
    Ok(served.unwrap_or_else(|never| match never {}).into_response())
}

fn none_kept() -> Rejection {
    let message = "this server keeps no recordings: it runs without --recordings";
    Rejection::new(StatusCode::CONFLICT, "no_recordings", message)
}

fn failed() -> Rejection {
    Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the recordings could not be read")
}

/// Names of films.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".mp4"));
        names.extend(name.filter(|name| is_ours(name)).map(str::to_owned));
    }
    Ok(names)
}

/// A session's id and a number, as `main-2`.
fn is_ours(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    name.split_once('-').is_some_and(|(session, number)| plain(session) && number.parse::<u32>().is_ok())
}

fn number(name: &str) -> (String, u32) {
    let (session, number) = name.split_once('-').unwrap_or((name, ""));
    (session.to_owned(), number.parse().unwrap_or_default())
}

fn listed(folder: &Path, open: &[(Recording, u64)]) -> io::Result<Vec<Recorded>> {
    let mut names = names(folder)?;
    let unwritten = open.iter().map(|(recording, _)| &recording.name).filter(|name| !names.contains(name));
    names.extend(unwritten.cloned().collect::<Vec<_>>());
    names.sort_by_key(|name| number(name));
    let listed = names.into_iter().filter_map(|name| {
        let bytes = fs::metadata(folder.join(format!("{name}.mp4"))).map(|file| file.len());
        let session = number(&name).0;
        if let Some((recording, next)) = open.iter().find(|(recording, _)| recording.name == name) {
            let blocks = Some([recording.since, *next]);
            let bytes = bytes.unwrap_or_default();
            return Some(Recorded { name, session, blocks, bytes, open: true, error: None });
        }
        // It may have been removed since.
        let bytes = bytes.ok()?;
        let sidecar = fs::File::open(folder.join(format!("{name}.json"))).ok();
        let Head { blocks, error, .. } = sidecar.and_then(Head::read).unwrap_or_default();
        Some(Recorded { name, session, blocks, bytes, open: false, error })
    });
    Ok(listed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_not_read_however_long_it_is() {
        let told = |text: &'static str| Head::read(text.as_bytes().chain(io::repeat(b' ')));
        let head = told(r#"{"version":1,"film":[{"turn":0}],"blocks":[4,9],"error":"full","log":["#).unwrap();
        assert_eq!((head.blocks, head.error.as_deref()), (Some([4, 9]), Some("full")));
        for broken in [r#"{"blocks":[4,9]}"#, r#"{"blocks":[4],"log":["#, r#"{"blocks":[4,9],"#, "[]", ""] {
            assert!(Head::read(broken.as_bytes()).is_none(), "{broken}");
        }
    }
}
