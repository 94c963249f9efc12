//! `POST /api/clip` and `POST /api/sessions/ID/clip`: a video file in the request body, handed to a session to continue from.

use axum::{
    Json,
    body::{Body, HttpBody as _},
    extract::{Path, State},
    http::StatusCode,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::{
    guard::Rejection,
    server::App,
    source::{Control, Refusal, Reply, outcome},
};

/// The clip is in the stream.
#[derive(Debug, Serialize)]
pub(crate) struct Continued {
    /// First block that shows it.
    block: u64,
}

/// A clip for the main session.
pub(crate) async fn clip(State(app): State<App>, body: Body) -> Result<Json<Continued>, Rejection> {
    let _turn = turn(&app)?;
    let clip = receive(&app, body).await?;
    Ok(Json(continue_from(&app, clip).await?))
}

/// A clip for any session.
pub(crate) async fn clip_for(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Continued>, Rejection> {
    // Who names no session is told before the clip has come, and a session is not held for as long as that takes.
    drop(app.rooms.get(&id)?);
    let _turn = turn(&app)?;
    let clip = receive(&app, body).await?;
    let room = app.rooms.get(&id)?;
    Ok(Json(continue_from(&app.of(room), clip).await?))
}

/// One of the places for uploads, to be held for as long as the upload takes.
pub(crate) fn turn(app: &App) -> Result<OwnedSemaphorePermit, Rejection> {
    let turn = app.uploads.clone().try_acquire_owned();
    turn.map_err(|_| unavailable("busy", "other clips are being uploaded"))
}

fn unavailable(code: &str, error: &str) -> Rejection {
    Rejection::new(StatusCode::SERVICE_UNAVAILABLE, code, error).retry_after()
}

/// Takes a clip, whatever its declared length.
async fn receive(app: &App, body: Body) -> Result<Bytes, Rejection> {
    let late =
        |_| Rejection::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the clip took too long to arrive");
    let clip = collect(body, app.config.upload_bytes, "the clip");
    let clip = timeout(app.config.upload_deadline, clip).await.map_err(late)??;
    if clip.is_empty() {
        return Err(Rejection::new(StatusCode::BAD_REQUEST, "empty", "the request has no clip in its body"));
    }
    Ok(clip)
}

/// Hands a clip to a session and answers once that shows it.
pub(crate) async fn continue_from(app: &App, clip: Bytes) -> Result<Continued, Rejection> {
    let (reply, answer) = Reply::channel();
    app.source.control(Control::Continue { clip }, reply);
    tokio::select! {
        outcome = timeout(app.config.upload_deadline, outcome(answer)) => {
            let outcome = outcome.map_err(|_| unavailable("too_slow", "the world took too long to take the clip"))?;
            Ok(Continued { block: outcome.map_err(refused)? })
        }
        () = app.stop.cancelled() => Err(unavailable("stopping", "the session has ended, or the server is stopping")),
    }
}

/// What the world does not take, with the status that its code stands for.
fn refused(Refusal { code, message, detail }: Refusal) -> Rejection {
    let status = match code.as_str() {
        "too_slow" => StatusCode::REQUEST_TIMEOUT,
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "not_a_video" | "codec_not_accepted" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "uploads_refused" => StatusCode::FORBIDDEN,
        "busy" | "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let warn = matches!(code.as_str(), "decoder_failed" | "too_slow" | "unavailable");
    let rejection = Rejection::new(status, code, message).because(detail, warn);
    if status == StatusCode::SERVICE_UNAVAILABLE { rejection.retry_after() } else { rejection }
}

/// Gathers a body of at most `limit` bytes, counting what arrives rather than trusting Content-Length. `what` it is, for
/// whoever sent it.
pub(crate) async fn collect(body: Body, limit: usize, what: &str) -> Result<Bytes, Rejection> {
    let too_large = || {
        let message = format!("{what} may have {limit} bytes");
        Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut all = BytesMut::new();
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| {
            tracing::debug!(%error, "upload");
            Rejection::new(StatusCode::BAD_REQUEST, "incomplete", format!("{what} broke off before the end"))
        })?;
        if all.len() + part.len() > limit {
            return Err(too_large());
        }
        all.extend_from_slice(&part);
    }
    Ok(all.freeze())
}
