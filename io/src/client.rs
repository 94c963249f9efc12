//! The same protocol from the viewer's end: what the tests and the `watch_client` example speak.

use std::path::Path;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, header},
        protocol::WebSocketConfig,
    },
};

use crate::{
    Error,
    auth::Token,
    protocol::{
        ClientMessage, Inject, Kind, MAX_PACKET, Packet, Request, ServerMessage, State, VERSION, WorldInfo,
    },
    tls,
};

/// What the server sends after its hello.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A frame.
    Packet(Packet),
    /// A text message.
    Message(ServerMessage),
}

/// How a client makes itself known. The default says nothing.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    authorization: Option<HeaderValue>,
    roots: Vec<CertificateDer<'static>>,
}

impl Caller {
    /// The same with a token to show.
    ///
    /// # Errors
    /// [`Error::BadToken`] for what no server would take.
    pub fn with_token(self, token: &str) -> Result<Self, Error> {
        Token::new(token)?;
        let header = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut header = header.map_err(|error| Error::BadToken(error.to_string()))?;
        // Not printed by whoever prints headers.
        header.set_sensitive(true);
        Ok(Self { authorization: Some(header), ..self })
    }

    /// The same, trusting the authorities in a PEM file beside those that this machine trusts.
    ///
    /// # Errors
    /// [`Error::Tls`] if the file holds none.
    pub fn trusting(mut self, authorities: &Path) -> Result<Self, Error> {
        self.roots.extend(tls::certificates(authorities)?);
        Ok(self)
    }
}

/// A viewer.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    info: WorldInfo,
    state: State,
    next_id: u64,
}

impl Client {
    /// Connects to `url` (`ws://127.0.0.1:8080/ws`), exchanges hellos and starts the stream.
    ///
    /// # Errors
    /// The connection fails, or the server's first message is not a hello of our version.
    pub async fn connect(url: &str, kind: Kind) -> Result<Self, Error> {
        Self::connect_as(&Caller::default(), url, kind).await
    }

    /// As [`connect`](Self::connect), to a server that asks who calls.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_as(caller: &Caller, url: &str, kind: Kind) -> Result<Self, Error> {
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_PACKET)).max_frame_size(Some(MAX_PACKET));
        let mut request = url.into_client_request()?;
        request
            .headers_mut()
            .extend(caller.authorization.clone().map(|value| (header::AUTHORIZATION, value)));
        let connector = match request.uri().scheme_str() {
            Some("wss") => Some(Connector::Rustls(tls::client_config(&caller.roots)?)),
            _ => None,
        };
        let (socket, _) = connect_async_tls_with_config(request, Some(config), true, connector).await?;
        let mut client = Self { socket, info: WorldInfo::default(), state: State::default(), next_id: 1 };
        let Event::Message(ServerMessage::Hello { version, info, state, .. }) = client.next().await? else {
            return Err(Error::NoHello);
        };
        if version != u32::from(VERSION) {
            return Err(Error::Version { expected: VERSION.into(), got: version });
        }
        (client.info, client.state) = (*info, *state);
        client.request(Request::Hello { version: VERSION.into(), kind }).await?;
        Ok(client)
    }

    /// What is streamed.
    pub fn info(&self) -> &WorldInfo {
        &self.info
    }

    /// Where the world stood when this client connected.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Sends a request; its answers carry the returned id.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn request(&mut self, request: Request) -> Result<u64, Error> {
        let id = self.next_id;
        self.next_id += 1;
        self.socket.send(Message::text(serde_json::to_string(&ClientMessage { id, request })?)).await?;
        Ok(id)
    }

    /// Sends `count` frames of [`WorldInfo::input`]'s size, packed RGB, the oldest first, for the next block. Its answers
    /// carry the returned id.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn inject(&mut self, count: u8, pixels: Bytes) -> Result<u64, Error> {
        let id = self.next_id;
        self.next_id += 1;
        self.socket.send(Message::binary(Inject { id, count, pixels }.encode())).await?;
        Ok(id)
    }

    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Closed`] at the end of the connection; a message that is not of the protocol.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.socket.next().await.transpose()? {
                Some(Message::Binary(bytes)) => return Ok(Event::Packet(Packet::decode(bytes)?)),
                Some(Message::Text(text)) => return Ok(Event::Message(serde_json::from_str(&text)?)),
                Some(Message::Close(Some(frame))) => {
                    let reason = frame.reason.as_str().to_owned();
                    return Err(Error::Closed { code: frame.code.into(), reason });
                }
                Some(Message::Close(None)) | None => {
                    return Err(Error::Closed { code: 1006, reason: "no close frame".into() });
                }
                Some(_) => {}
            }
        }
    }

    /// Waits for the answer to request `id`: the block it was applied at. Packets that arrive meanwhile are dropped.
    ///
    /// # Errors
    /// [`Error::Refused`] if the world does not do it; otherwise as [`next`](Self::next).
    pub async fn applied(&mut self, id: u64) -> Result<u64, Error> {
        loop {
            match self.next().await? {
                Event::Message(ServerMessage::Applied { id: to, block, .. }) if to == id => return Ok(block),
                Event::Message(ServerMessage::Refused { id: Some(to), code, message }) if to == id => {
                    return Err(Error::Refused { code, message });
                }
                _ => {}
            }
        }
    }

    /// Closes the connection and waits for the server to agree.
    ///
    /// # Errors
    /// The connection was gone already.
    pub async fn close(mut self) -> Result<(), Error> {
        self.socket.close(None).await?;
        while let Some(Ok(_)) = self.socket.next().await {}
        Ok(())
    }
}
