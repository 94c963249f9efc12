//! Messages, packets and headers.

use acdit_io::{ClientMessage, Packet, ServerMessage, Size, testing};

/// What a viewer says.
pub(super) fn client_message(bytes: &[u8]) {
    const CODES: [&str; 3] = ["malformed", "unknown_type", "bad_fields"];
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match testing::client_message(text) {
        Ok(message) => {
            let again = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<ClientMessage>(&again).unwrap(), message);
        }
        Err((id, code)) => assert!(CODES.contains(&code) && id.is_none() == (code == "malformed"), "{code}"),
    }
}

/// What a server says to `watch`.
pub(super) fn server_message(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<ServerMessage>(bytes) else { return };
    let again = serde_json::to_string(&message).unwrap();
    assert_eq!(serde_json::from_str::<ServerMessage>(&again).unwrap(), message);
}

/// What a server sends to `watch`.
pub(super) fn packet(bytes: &[u8]) {
    let Ok(packet) = Packet::decode(bytes.to_vec().into()) else { return };
    let again = packet.encode();
    // Unknown flags and the reserved byte are ignored.
    assert_eq!((&again[..2], &again[4..]), (&bytes[..2], &bytes[4..]));
    assert_eq!(Packet::decode(again).unwrap(), packet);
}

/// Frames that a viewer puts into the stream.
pub(super) fn inject(bytes: &[u8]) {
    const SIZE: Size = Size { width: 2, height: 2 };
    const MOST: u32 = 4;
    let Some((id, frames)) = testing::frames(bytes.to_vec().into(), SIZE, MOST) else { return };
    assert_eq!(bytes[8..16], id.to_le_bytes());
    match frames {
        Ok(frames) => {
            assert!(frames.len() == usize::from(bytes[2]) && (1..=MOST as usize).contains(&frames.len()));
            assert_eq!(frames.concat(), bytes[16..]);
        }
        Err(error) => assert!(!error.is_empty()),
    }
}

/// Who is answered: `Host`, and on the next line `Origin`.
pub(super) fn headers(bytes: &[u8]) {
    const NAMES: [&str; 3] = ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"];
    let mut lines = bytes.splitn(2, |&byte| byte == b'\n');
    let (host, origin) = (lines.next().unwrap_or_default(), lines.next());
    let Some((answered, trusted)) = testing::admitted(([127, 0, 0, 1], 8080).into(), host, origin) else {
        return;
    };
    let ours = |name: &[u8]| NAMES.iter().any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()));
    assert_eq!(answered, ours(host));
    let trusts = |origin: &[u8]| origin.strip_prefix(b"http://").is_some_and(ours);
    assert_eq!(trusted, origin.is_none_or(trusts));
}

/// The body of `POST /api/sessions`.
pub(super) fn session_fields(bytes: &[u8]) {
    let taken = testing::session_fields(bytes);
    let is_json = serde_json::from_slice::<serde_json::Value>(bytes).is_ok();
    assert!(is_json || !taken);
}
