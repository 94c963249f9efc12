//! Viewers on real sockets: acknowledgements, refusals, joining late, falling behind, and every way to be closed.

use std::time::Duration;

use acdit_io::{
    Client, ClientMessage, Control, Error, Event, Inject, Kind, Request, ServerConfig, ServerMessage, State,
    VERSION,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest, http::StatusCode},
};

use crate::harness::{Served, info, next_message, next_packet, packet, packet_of};

type Raw = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A bare WebSocket that has read the server's hello and said nothing.
async fn raw(served: &Served) -> Raw {
    let (mut socket, _) = connect_async(served.url()).await.unwrap();
    let hello = socket.next().await.unwrap().unwrap();
    assert!(matches!(serde_json::from_str(hello.to_text().unwrap()).unwrap(), ServerMessage::Hello { .. }));
    socket
}

async fn raw_viewer(served: &Served) -> Raw {
    let mut socket = raw(served).await;
    let request = Request::Hello { version: VERSION.into(), kind: Kind::H264 };
    let hello = serde_json::to_string(&ClientMessage { id: 1, request }).unwrap();
    socket.send(Message::text(hello)).await.unwrap();
    assert_eq!(answer(&mut socket).await, ServerMessage::Received { id: 1 });
    socket
}

fn applied(id: u64, block: u64) -> ServerMessage {
    ServerMessage::Applied { id, block, session: None, sessions: None }
}

async fn answer(socket: &mut Raw) -> ServerMessage {
    let message = socket.next().await.unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

async fn close_code(socket: &mut Raw) -> u16 {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            end => panic!("expected a close frame, got {end:?}"),
        }
    }
}

#[tokio::test]
async fn hello_tells_what_is_streamed_and_where_it_stands() {
    let served = Served::start(ServerConfig::default()).await;
    let state = State { generation: 3, block: 17, label: 2, seed: 42, paused: true, ..State::default() };
    served.hub.announce(state.clone());
    let client = served.connect(Kind::H264).await;
    assert_eq!((client.info(), client.state()), (&info(), &state));
}

#[tokio::test]
async fn a_control_is_received_and_then_applied_at_a_block_or_refused() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut client = served.connect(Kind::H264).await;
    assert_eq!(next_message(&mut client).await, ServerMessage::Received { id: 1 });

    let id = client.request(Request::Label { index: 2 }).await.unwrap();
    assert_eq!(next_message(&mut client).await, ServerMessage::Received { id });
    let (control, reply) = served.control().await;
    assert_eq!(control, Control::Label { index: 2 });
    reply.applied(412);
    assert_eq!(next_message(&mut client).await, applied(id, 412));

    let id = client.request(Request::Step).await.unwrap();
    assert_eq!(next_message(&mut client).await, ServerMessage::Received { id });
    served.control().await.1.refused("not_paused", "pause first");
    let refused =
        ServerMessage::Refused { id: Some(id), code: "not_paused".into(), message: "pause first".into() };
    assert_eq!(next_message(&mut client).await, refused);
}

#[tokio::test]
async fn every_request_reaches_the_world_and_answers_may_come_in_any_order() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut client = served.connect(Kind::H264).await;
    let requests = [
        (Request::Pause, Control::Pause),
        (Request::Resume, Control::Resume),
        (Request::Restart { seed: Some(u64::MAX) }, Control::Restart { seed: Some(u64::MAX) }),
        (Request::Restart { seed: None }, Control::Restart { seed: None }),
        (Request::Seed { seed: 9 }, Control::Seed { seed: 9 }),
        (Request::Rewind { block: 4 }, Control::Rewind { block: 4 }),
        (
            Request::Sampling { steps: Some(6), guidance: None },
            Control::Sampling { steps: Some(6), guidance: None },
        ),
        (
            Request::Sampling { steps: None, guidance: Some(1.5) },
            Control::Sampling { steps: None, guidance: Some(1.5) },
        ),
        (Request::Record { on: true }, Control::Record { on: true }),
    ];
    let mut replies = Vec::new();
    for (request, control) in requests {
        let id = client.request(request).await.unwrap();
        let (got, reply) = served.control().await;
        assert_eq!(got, control);
        replies.push((id, reply));
    }
    for (id, reply) in replies.into_iter().rev() {
        reply.applied(id * 10);
        assert_eq!(client.applied(id).await.unwrap(), id * 10);
    }
}

#[tokio::test]
async fn a_dropped_reply_reads_as_refused() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut client = served.connect(Kind::H264).await;
    let id = client.request(Request::Pause).await.unwrap();
    drop(served.control().await);
    let refused = client.applied(id).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { ref code, .. } if code == "unavailable"), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_and_the_connection_lives_on() {
    let served = Served::start(ServerConfig::default()).await;
    let mut socket = raw_viewer(&served).await;
    let recorded: serde_json::Value =
        serde_json::from_str(include_str!("../fixtures/messages.json")).unwrap();
    for case in recorded["refused"].as_array().unwrap() {
        socket.send(Message::text(case["text"].as_str().unwrap())).await.unwrap();
        let ServerMessage::Refused { id, code, .. } = answer(&mut socket).await else { panic!("{case}") };
        assert_eq!((id, code.as_str()), (case["id"].as_u64(), case["code"].as_str().unwrap()), "{case}");
    }
    for (text, expected) in [
        (r#"{"type":"label","id":2,"index":3}"#, "unknown_label"),
        (r#"{"type":"futures","id":2,"block":0,"each":[{"label":2},{"label":3}]}"#, "unknown_label"),
        (r#"{"type":"futures","id":2,"block":0,"each":[{"label":-1},{}]}"#, "bad_fields"),
        (r#"{"type":"hello","id":2,"version":1}"#, "unexpected"),
    ] {
        socket.send(Message::text(text)).await.unwrap();
        let ServerMessage::Refused { id, code, .. } = answer(&mut socket).await else { panic!("{text}") };
        assert_eq!((id, code.as_str()), (Some(2), expected));
    }
    socket.send(Message::text(r#"{"type":"ping","id":9}"#)).await.unwrap();
    assert_eq!(answer(&mut socket).await, ServerMessage::Received { id: 9 });
}

#[tokio::test]
async fn a_viewer_with_too_many_open_controls_is_told_so() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut client = served.connect(Kind::H264).await;
    let mut replies = Vec::new();
    for _ in 0..32 {
        client.request(Request::Pause).await.unwrap();
        replies.push(served.control().await.1);
    }
    let id = client.request(Request::Pause).await.unwrap();
    let refused = client.applied(id).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { ref code, .. } if code == "busy"), "{refused}");
}

#[tokio::test]
async fn a_first_message_that_is_no_hello_of_our_version_closes_with_1002() {
    let served = Served::start(ServerConfig::default()).await;
    for first in [r#"{"type":"hello","id":1,"version":2}"#, r#"{"type":"pause","id":1}"#, "{"] {
        let mut socket = raw(&served).await;
        socket.send(Message::text(first)).await.unwrap();
        assert_eq!(close_code(&mut socket).await, 1002, "{first}");
    }
}

#[tokio::test]
async fn messages_too_long_or_not_text_are_closed_with_their_codes() {
    let served = Served::start(ServerConfig::default()).await;
    let long = |bytes| Message::text("x".repeat(bytes));
    for (message, code) in [
        (long((16 << 10) + 1), 1009),
        (long((1 << 20) + 1), 1009),
        (Message::binary(Bytes::from_static(b"?")), 1003),
        (Message::binary(vec![0; (1 << 20) + 1]), 1009),
        // a packet of ours, sent back
        (Message::binary(packet(0, true).encode()), 1003),
    ] {
        let mut socket = raw_viewer(&served).await;
        socket.send(message).await.unwrap();
        assert_eq!(close_code(&mut socket).await, code);
    }
}

fn inject(id: u64, count: u8, bytes: usize) -> Inject {
    Inject { id, count, pixels: (0..bytes).map(|at| at as u8).collect() }
}

/// Bytes of one frame of the world's input.
const FRAME: usize = 16 * 8 * 3;

#[tokio::test]
async fn frames_reach_the_world_one_by_one_and_whole() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut client = served.connect(Kind::H264).await;
    assert_eq!(next_message(&mut client).await, ServerMessage::Received { id: 1 });
    for count in 1..=4 {
        let given: Vec<u8> = (0..count * FRAME).map(|at| at as u8).collect();
        let id = client.inject(count as u8, given.clone().into()).await.unwrap();
        assert_eq!(next_message(&mut client).await, ServerMessage::Received { id });
        let (Control::Inject { frames }, reply) = served.control().await else { panic!() };
        assert_eq!(frames, given.chunks(FRAME).collect::<Vec<_>>());
        reply.applied(7);
        assert_eq!(next_message(&mut client).await, applied(id, 7));
    }
}

#[tokio::test]
async fn frames_that_do_not_fit_are_refused_and_the_connection_lives_on() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut socket = raw_viewer(&served).await;
    for (count, bytes, words) in [
        (0, 0, "expected 1 to 4 frames, got 0"),
        (5, 5 * FRAME, "expected 1 to 4 frames, got 5"),
        (2, FRAME, "expected 768 bytes for 2 frames of 16x8, got 384"),
        (1, FRAME + 1, "expected 384 bytes for 1 frames of 16x8, got 385"),
    ] {
        socket.send(Message::binary(inject(3, count, bytes).encode())).await.unwrap();
        let refused =
            ServerMessage::Refused { id: Some(3), code: "bad_frames".into(), message: words.into() };
        assert_eq!(answer(&mut socket).await, refused);
    }
    let mut waiting = Vec::new();
    for id in 4..6 {
        socket.send(Message::binary(inject(id, 1, FRAME).encode())).await.unwrap();
        assert_eq!(answer(&mut socket).await, ServerMessage::Received { id });
        waiting.push(served.control().await.1);
    }
    socket.send(Message::binary(inject(6, 1, FRAME).encode())).await.unwrap();
    let ServerMessage::Refused { code, .. } = answer(&mut socket).await else { panic!("taken") };
    assert_eq!(code, "busy", "two wait already");
    waiting.remove(0).applied(2);
    assert_eq!(answer(&mut socket).await, applied(4, 2));
    socket.send(Message::binary(inject(7, 1, FRAME).encode())).await.unwrap();
    assert_eq!(answer(&mut socket).await, ServerMessage::Received { id: 7 });
}

#[tokio::test]
async fn the_first_viewer_asks_for_a_keyframe_and_a_late_one_starts_at_the_newest() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut first = served.connect(Kind::H264).await;
    served.keyframe_wanted().await;
    for frame in 0..7 {
        served.hub.publish(&packet(frame, frame == 0 || frame == 5));
        assert_eq!(next_packet(&mut first).await, packet(frame, frame == 0 || frame == 5));
    }
    let mut late = served.connect(Kind::H264).await;
    assert_eq!(next_packet(&mut late).await, packet(5, true));
    assert_eq!(next_packet(&mut late).await, packet(6, false));
}

#[tokio::test]
async fn the_world_hears_of_viewers_coming_and_going() {
    let mut served = Served::start(ServerConfig::default()).await;
    served.viewers(0, 0).await;
    let h264 = served.connect(Kind::H264).await;
    served.viewers(1, 0).await;
    let jpeg = served.connect(Kind::Jpeg).await;
    served.viewers(1, 1).await;
    h264.close().await.unwrap();
    served.viewers(0, 1).await;
    drop(jpeg);
    served.viewers(0, 0).await;
}

#[tokio::test]
async fn a_slow_viewer_slows_nobody_and_resumes_at_a_keyframe_knowing_its_loss() {
    let mut served = Served::start(ServerConfig::default()).await;
    let mut slow = served.connect(Kind::H264).await;
    let mut fast = served.connect(Kind::H264).await;
    served.viewers(2, 0).await;
    // More than the sockets in between can hold.
    let frames = 160;
    let sized = |frame: u64, keyframe| packet_of(frame, keyframe, 256 << 10);
    for frame in 0..frames {
        served.hub.publish(&sized(frame, frame == 0));
        assert_eq!(next_packet(&mut fast).await.header.frame, frame);
    }
    let lost = served.hub.stats().dropped;
    assert!(lost > 0);

    let mut next = 0;
    while next < frames - lost {
        assert_eq!(next_packet(&mut slow).await, sized(next, next == 0));
        next += 1;
    }
    served.keyframe_wanted().await;
    served.hub.publish(&sized(frames, true));
    assert_eq!(next_message(&mut slow).await, ServerMessage::Gap { dropped: lost });
    assert_eq!(next_packet(&mut slow).await, sized(frames, true));
    assert_eq!(next_packet(&mut fast).await.header.frame, frames);
}

#[tokio::test]
async fn a_stalled_viewer_is_dropped_after_the_write_deadline() {
    let config = ServerConfig { write_deadline: Duration::from_millis(100), ..ServerConfig::default() };
    let mut served = Served::start(config).await;
    let _stalled = served.connect(Kind::H264).await;
    served.viewers(1, 0).await;
    for frame in 0..160 {
        served.hub.publish(&packet_of(frame, true, 256 << 10));
        tokio::task::yield_now().await;
    }
    served.viewers(0, 0).await;
}

#[tokio::test]
async fn a_silent_viewer_is_dropped_and_one_that_answers_pings_is_not() {
    let config = ServerConfig {
        ping_interval: Duration::from_millis(100),
        silence_limit: Duration::from_millis(1500),
        ..ServerConfig::default()
    };
    let mut served = Served::start(config).await;
    let _silent = raw_viewer(&served).await;
    let mut alive = served.connect(Kind::H264).await;
    served.viewers(2, 0).await;
    tokio::select! {
        () = served.viewers(1, 0) => {}
        event = async { loop { let _ = alive.next().await.unwrap(); } } => event,
    }
    let id = alive.request(Request::Ping).await.unwrap();
    while !matches!(alive.next().await.unwrap(), Event::Message(ServerMessage::Received { id: to }) if to == id)
    {
    }
}

#[tokio::test]
async fn a_viewer_that_never_says_hello_is_closed() {
    let config = ServerConfig { header_deadline: Duration::from_millis(50), ..ServerConfig::default() };
    let served = Served::start(config).await;
    assert_eq!(close_code(&mut raw(&served).await).await, 1008);
}

#[tokio::test]
async fn state_reaches_every_viewer() {
    let served = Served::start(ServerConfig::default()).await;
    let mut viewers = [served.connect(Kind::H264).await, served.connect(Kind::Jpeg).await];
    let state = State { block: 8, paused: true, ..State::default() };
    for viewer in &mut viewers {
        assert_eq!(next_message(viewer).await, ServerMessage::Received { id: 1 });
    }
    served.hub.announce(state.clone());
    for viewer in &mut viewers {
        assert_eq!(next_message(viewer).await, ServerMessage::State(state.clone()));
    }
}

#[tokio::test]
async fn shutdown_closes_viewers_with_1001_and_they_can_come_back() {
    let served = Served::start(ServerConfig::default()).await;
    let (address, url) = (served.address, served.url());
    let mut viewer = served.connect(Kind::H264).await;
    let watching = tokio::spawn(async move {
        loop {
            if let Err(end) = viewer.next().await {
                return end;
            }
        }
    });
    served.stop().await.unwrap();
    let end = watching.await.unwrap();
    assert!(matches!(end, Error::Closed { code: 1001, .. }), "{end}");
    assert!(matches!(Client::connect(&url, Kind::H264).await, Err(Error::WebSocket(_))));

    let served = Served::start_at(address, ServerConfig::default()).await;
    let mut viewer = served.connect(Kind::H264).await;
    served.hub.publish(&packet(0, true));
    assert_eq!(next_packet(&mut viewer).await, packet(0, true));
}

async fn refused_upgrade(served: &Served, header: &'static str, value: &str) -> (StatusCode, String) {
    let mut request = served.url().into_client_request().unwrap();
    request.headers_mut().insert(header, value.parse().unwrap());
    let Err(tungstenite::Error::Http(response)) = connect_async(request).await else {
        panic!("{header}: {value}")
    };
    let body = String::from_utf8(response.body().clone().unwrap()).unwrap();
    (response.status(), body)
}

#[tokio::test]
async fn strangers_cannot_upgrade() {
    let served = Served::start(ServerConfig::default()).await;
    let port = served.address.port();
    let other = if port == 1 { 2 } else { port - 1 };
    for origin in ["null", "http://evil.example", &format!("http://localhost:{other}"), "https://localhost"] {
        let (status, body) = refused_upgrade(&served, "origin", origin).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{origin}");
        assert!(body.contains("origin_not_allowed"), "{body}");
    }
    for host in ["evil.example", &format!("evil.example:{port}"), &format!("localhost:{other}"), ""] {
        let (status, body) = refused_upgrade(&served, "host", host).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{host}");
        assert!(body.contains("host_not_allowed"), "{body}");
    }
    for name in ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"] {
        let mut request = served.url().into_client_request().unwrap();
        request.headers_mut().insert("host", format!("{name}:{port}").parse().unwrap());
        request.headers_mut().insert("origin", format!("http://{name}:{port}").parse().unwrap());
        connect_async(request).await.unwrap();
    }
}

#[tokio::test]
async fn one_viewer_too_many_is_told_to_retry_and_a_freed_seat_is_taken() {
    let config = ServerConfig { max_viewers: 1, ..ServerConfig::default() };
    let mut served = Served::start(config).await;
    let first = served.connect(Kind::H264).await;
    served.viewers(1, 0).await;
    let Err(Error::WebSocket(error)) = Client::connect(&served.url(), Kind::H264).await else { panic!() };
    let tungstenite::Error::Http(response) = *error else { panic!("{error}") };
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    first.close().await.unwrap();
    while Client::connect(&served.url(), Kind::H264).await.is_err() {}
}
