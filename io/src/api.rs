//! A server's sessions over HTTP, from the outside: what `loadtest` begins and ends.

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, Uri, header},
};
use hyper::{Response, body::Incoming, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::{Error, client::Caller, tls};

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
pub async fn begin_session(caller: &Caller, url: &str, fields: &serde_json::Value) -> Result<Begun, Error> {
    let answer = ask(caller, url, Method::POST, "/api/sessions", fields.to_string()).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Ends a session.
///
/// # Errors
/// As [`begin_session`].
pub async fn end_session(caller: &Caller, url: &str, session: &str) -> Result<(), Error> {
    ask(caller, url, Method::DELETE, &format!("/api/sessions/{session}"), String::new()).await.map(drop)
}

/// One request on a connection of its own.
async fn ask(caller: &Caller, url: &str, method: Method, path: &str, body: String) -> Result<Vec<u8>, Error> {
    let unusable = || Error::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| unusable())?;
    let (secure, usual) = match uri.scheme_str() {
        Some("ws") => (false, 80),
        Some("wss") => (true, 443),
        _ => return Err(unusable()),
    };
    let host = uri.host().ok_or_else(unusable)?;
    let port = uri.port_u16().unwrap_or(usual);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONTENT_TYPE, "application/json")
        // Otherwise the server waits for another request, and we for the server.
        .header(header::CONNECTION, "close")
        .body(Body::from(body))
        .map_err(|_| unusable())?;
    request.headers_mut().extend(caller.authorization.clone().map(|value| (header::AUTHORIZATION, value)));

    let stream = TcpStream::connect((bare, port)).await?;
    let (status, body) = if secure {
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| unusable())?;
        let connector = TlsConnector::from(tls::client_config(&caller.roots)?);
        answer(connector.connect(name, stream).await?, request).await?
    } else {
        answer(stream, request).await?
    };
    match status {
        StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(body),
        status => {
            let Rejected { error, code } = serde_json::from_slice(&body)
                .unwrap_or_else(|_| Rejected { error: status.to_string(), code: "unknown".to_owned() });
            Err(Error::Refused { code, message: error })
        }
    }
}

/// Sends a request and reads its answer to the end.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> Result<(StatusCode, Vec<u8>), Error> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response: Response<Incoming> = sender.send_request(request).await?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), ANSWER_BYTES).await;
        Ok::<_, Error>((status, body.map_err(std::io::Error::other)?.to_vec()))
    };
    // The connection does the work, and ends with the answer.
    let (answered, _) = tokio::join!(answer, connection);
    answered
}
