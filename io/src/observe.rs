//! What is told of every request: an id in each of its log lines, in its answer and in its errors, and its place in the metrics.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{task_local, time::Instant};
use tracing::Instrument as _;

use crate::{
    guard::{Code, Rejection},
    metrics::Metrics,
};

/// Carries a request's id in its answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest error text that a library wrote.
const WORDS: usize = 300;

task_local! {
    static ID: String;
}

/// The id of the request that this task answers.
pub(crate) fn request_id() -> String {
    ID.try_with(String::clone).unwrap_or_else(|_| fresh())
}

/// 64 random bits: ids of several servers and of several starts can be told apart in one log.
fn fresh() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Names a request, logs how it ended, and sees that every refusal is one of ours. The path is logged without its query, which
/// may hold a token.
pub(crate) async fn observe(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let (id, began) = (fresh(), Instant::now());
    let uploads = brings_a_clip(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::error_span!("request", request_id = %id); // there for every line that is logged
    let answered = async {
        let response = in_our_words(next.run(request).await).await;
        let (status, seconds) = (response.status().as_u16(), began.elapsed().as_secs_f64());
        tracing::info!(%method, path, status, seconds, "answered");
        response
    };
    let mut response = ID.scope(id.clone(), answered.instrument(span)).await;
    metrics.answered(response.status());
    if uploads {
        let refused = response.extensions().get::<Code>().map(|Code(code)| code.as_str());
        metrics.upload(refused.unwrap_or("accepted"));
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A clip by itself, or with a session's fields.
fn brings_a_clip(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let form = kind.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/"));
    request.method() == Method::POST && (path.ends_with("/clip") || (path == "/api/sessions" && form))
}

/// An error of the library's, which is plain text or nothing at all, as one of ours.
async fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let ours = kind.is_some_and(|kind| !kind.starts_with("text/plain"));
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let words = to_bytes(body, WORDS).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    let reason = status.canonical_reason().unwrap_or("refused");
    let words = if words.is_empty() { reason } else { &words };
    let code = match status {
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::UPGRADE_REQUIRED => "no_websocket",
        _ if status.is_client_error() => "bad_request",
        _ => "failed",
    };
    let mut ours = Rejection::new(status, code, words).into_response();
    // Such as Allow; the body's own describe the one that is gone.
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    ours.headers_mut().extend(parts.headers);
    ours
}
