//! A server's sessions over HTTP, from the outside: what `loadtest` begins and ends.

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, Uri, header},
};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::Error;

/// Largest answer that is read, in bytes.
const ANSWER_BYTES: usize = 1 << 20;

/// A session that [`begin_session`] began.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Begun {
    /// Its id.
    pub session: String,
    /// Its WebSocket.
    pub ws: String,
}

#[derive(Deserialize)]
struct Rejected {
    error: String,
    code: String,
}

/// Begins a session on the server that has the WebSocket `url`, with fields as `docs/protocol.md` has them.
///
/// # Errors
/// [`Error::Refused`] in the server's words; the server is not reached, or answers with something else.
pub async fn begin_session(url: &str, fields: &serde_json::Value) -> Result<Begun, Error> {
    let answer = ask(url, Method::POST, "/api/sessions", fields.to_string()).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Ends a session.
///
/// # Errors
/// As [`begin_session`].
pub async fn end_session(url: &str, session: &str) -> Result<(), Error> {
    ask(url, Method::DELETE, &format!("/api/sessions/{session}"), String::new()).await.map(drop)
}

/// One request on a connection of its own.
async fn ask(url: &str, method: Method, path: &str, body: String) -> Result<Vec<u8>, Error> {
    let unusable = || Error::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| unusable())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("ws")).ok_or_else(unusable)?;
    let port = uri.port_u16().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONTENT_TYPE, "application/json")
        // Otherwise the server waits for another request, and we for the server.
        .header(header::CONNECTION, "close")
        .body(Body::from(body))
        .map_err(|_| unusable())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), ANSWER_BYTES).await;
        Ok::<_, Error>((status, body.map_err(std::io::Error::other)?))
    };
    // The connection does the work, and ends with the answer.
    let (answered, _) = tokio::join!(answer, connection);
    let (status, body) = answered?;
    match status {
        StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(body.to_vec()),
        status => {
            let Rejected { error, code } = serde_json::from_slice(&body)
                .unwrap_or_else(|_| Rejected { error: status.to_string(), code: "unknown".to_owned() });
            Err(Error::Refused { code, message: error })
        }
    }
}
