//! `POST /api/clip`: a video file in the request body, handed to the world to continue from.

use axum::{
    Json,
    body::{Body, HttpBody as _},
    extract::State,
    http::StatusCode,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::time::timeout;

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

/// Takes a clip, whatever its declared length, and answers once the world shows it.
pub(crate) async fn clip(State(app): State<App>, body: Body) -> Result<Json<Continued>, Rejection> {
    let unavailable =
        |code, error: &str| Rejection::new(StatusCode::SERVICE_UNAVAILABLE, code, error).retry_after();
    let _turn =
        app.uploads.try_acquire().map_err(|_| unavailable("busy", "other clips are being uploaded"))?;
    let deadline = app.config.upload_deadline;
    let late =
        |_| Rejection::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the clip took too long to arrive");
    let clip =
        timeout(deadline, collect(body, app.config.upload_bytes, "the clip")).await.map_err(late)??;
    if clip.is_empty() {
        return Err(Rejection::new(StatusCode::BAD_REQUEST, "empty", "the request has no clip in its body"));
    }

    let (reply, answer) = Reply::channel();
    app.source.control(Control::Continue { clip }, reply);
    tokio::select! {
        outcome = timeout(deadline, outcome(answer)) => {
            let outcome = outcome.map_err(|_| unavailable("too_slow", "the world took too long to take the clip"))?;
            Ok(Json(Continued { block: outcome.map_err(refused)? }))
        }
        () = app.stop.cancelled() => Err(unavailable("stopping", "the server is stopping")),
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
