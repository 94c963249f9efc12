//! Private parts, for programs that try them from outside: what strangers' bytes meet first, for the fuzz targets; the
//! WebSocket as the server has it, for `examples/echo.rs`. No part of the interface.

use std::net::SocketAddr;

use axum::{
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, header},
};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};

use crate::{
    guard::Names,
    peer::Peer,
    protocol::{ClientMessage, Inject, Misread, Size},
    sessions::asked,
    socket,
};

/// Reads a viewer's text message; what cannot be read gives the id that its refusal carries, and the refusal's code.
pub fn client_message(text: &str) -> Result<ClientMessage, (Option<u64>, &'static str)> {
    ClientMessage::parse(text).map_err(|Misread { id, code, .. }| (id, code))
}

/// Whether a server at `address` answers to this `Host`, and to this `Origin`. `None` for values that HTTP does not allow.
pub fn admitted(address: SocketAddr, host: &[u8], origin: Option<&[u8]>) -> Option<(bool, bool)> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_bytes(host).ok()?);
    if let Some(origin) = origin {
        headers.insert(header::ORIGIN, HeaderValue::from_bytes(origin).ok()?);
    }
    let names = Names::new(address, Vec::new(), Vec::new());
    let peer = Peer::new(address.ip(), false);
    Some((names.host(&headers), names.origin(&headers, peer)))
}

/// Reads a binary message to a world with frames of this size, at most `most` of them: the id, and the frames or what is
/// wrong with them.
pub fn frames(message: Bytes, size: Size, most: u32) -> Option<(u64, Result<Vec<Bytes>, String>)> {
    let inject = Inject::decode(message)?;
    Some((inject.id, inject.frames(size, most)))
}

/// Whether this is a body that asks for a session.
pub fn session_fields(body: &[u8]) -> bool {
    asked::are_fields(body)
}

/// The server's WebSocket, for messages of up to `bytes` bytes both ways.
pub fn limited(upgrade: WebSocketUpgrade, bytes: usize) -> WebSocketUpgrade {
    socket::limited(upgrade, bytes, bytes + socket::FRAMING)
}

/// Says back every message, and ends as the server ends a viewer's connection.
pub async fn echo(websocket: WebSocket) {
    let (mut sink, mut stream) = websocket.split();
    let ending = loop {
        match stream.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => break socket::ending_of(error),
            None => return,
        }
    };
    socket::part(&mut sink, &mut stream, ending).await;
}
