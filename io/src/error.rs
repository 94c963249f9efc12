//! What can go wrong at the edges: binding, the wire, and the client's end of it.

use std::{net::SocketAddr, path::PathBuf};

use tokio_tungstenite::tungstenite;

/// Errors of this crate. What a viewer does wrong is answered on the wire and never becomes one of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The listener's address can be reached from other machines, and nobody needs a token.
    #[error(
        "refusing to serve on {0} without a token: only loopback addresses (127.0.0.1, [::1]) go without"
    )]
    NotLoopback(SocketAddr),
    /// A token cannot be one. It is not repeated.
    #[error("token: {0}")]
    BadToken(String),
    /// A host or an origin that no request could ever have.
    #[error("{name}: expected {expected}")]
    BadName {
        /// As it was given.
        name: String,
        /// What would do.
        expected: &'static str,
    },
    /// Certificates or a key cannot be used.
    #[error("{}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Expected and got.
        reason: String,
    },
    /// A socket operation failed.
    #[error("network: {0}")]
    Network(#[from] std::io::Error),
    /// A binary message is shorter than its header.
    #[error("packet: expected at least {expected} bytes, got {got}")]
    PacketTooShort {
        /// Bytes that the header takes.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The other side speaks another version of the protocol.
    #[error("protocol version: expected {expected}, got {got}")]
    Version {
        /// [`VERSION`](crate::VERSION).
        expected: u32,
        /// What the other side said.
        got: u32,
    },
    /// A packet's kind byte is unknown.
    #[error("packet: expected kind 1 (h264) or 2 (jpeg), got {0}")]
    UnknownKind(u8),
    /// A text message is not one that the server sends.
    #[error("server message: {0}")]
    Message(#[from] serde_json::Error),
    /// The first message was not a hello.
    #[error("expected the server's hello as its first message")]
    NoHello,
    /// The WebSocket failed or could not be opened.
    #[error("websocket: {0}")]
    WebSocket(Box<tungstenite::Error>),
    /// An HTTP exchange failed.
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    /// Not the address of a server's WebSocket.
    #[error("{0:?}: expected the address of a server's WebSocket, such as ws://127.0.0.1:8080/ws")]
    Url(String),
    /// The world does not do what was asked.
    #[error("refused: {message} ({code})")]
    Refused {
        /// For programs; listed in `docs/protocol.md`.
        code: String,
        /// For people.
        message: String,
    },
    /// The server closed the connection.
    #[error("closed by the server: {code} {reason}")]
    Closed {
        /// WebSocket close code; 1006 when the connection ended without one.
        code: u16,
        /// The server's words.
        reason: String,
    },
}

impl From<tungstenite::Error> for Error {
    fn from(error: tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}
