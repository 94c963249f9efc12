//! The wire against recorded messages, here and in the page's own parser, and against whatever proptest thinks of.

use std::process::Command;

use acdit_io::{
    ClientMessage, Error, Future, HEADER_LEN, Header, Inject, Kind, Packet, Request, ServerMessage,
};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

const RECORDED: &str = include_str!("fixtures/messages.json");

fn recorded(part: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(RECORDED).unwrap();
    all[part].as_array().unwrap().clone()
}

fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap()
}

fn from_hex(hex: &Value) -> Bytes {
    let digits = hex.as_str().unwrap().as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn recorded_packets_decode_and_encode_to_the_same_bytes() {
    for case in recorded("packets") {
        let bytes = from_hex(&case["hex"]);
        let packet = Packet::decode(bytes.clone()).unwrap();
        let number = |field: &str| case["header"][field].as_u64().unwrap();
        let flag = |field: &str| case["header"][field].as_bool().unwrap();
        let header = Header {
            kind: serde_json::from_value(case["header"]["kind"].clone()).unwrap(),
            keyframe: flag("keyframe"),
            generated: flag("generated"),
            injected: flag("injected"),
            generation: number("generation") as u32,
            frame: number("frame"),
            pts: number("pts"),
            block: number("block"),
            label: number("label") as u32,
        };
        assert_eq!(packet, Packet { header, payload: from_hex(&case["payload"]) }, "{}", case["name"]);
        assert_eq!(packet.encode(), bytes, "{}", case["name"]);
    }
}

#[test]
fn the_documented_examples_are_recorded_packets() {
    let document = include_str!("../../docs/protocol.md");
    let written: String = document.split_whitespace().collect();
    for case in
        recorded("packets").iter().filter(|case| ["delta frame", "frame of a clip"].contains(&name(case)))
    {
        let hex = case["hex"].as_str().unwrap();
        let (header, payload) = hex.split_at(2 * HEADER_LEN);
        assert!(
            written.contains(header) && written.contains(&format!("{payload}theaccessunit")),
            "{}",
            name(case)
        );
    }
}

#[test]
fn recorded_bad_packets_are_errors() {
    for case in recorded("bad_packets") {
        let error = Packet::decode(from_hex(&case["hex"])).unwrap_err();
        let expected = match error {
            Error::PacketTooShort { .. } => "short",
            Error::Version { .. } => "version",
            Error::UnknownKind(_) => "kind",
            other => panic!("{other}"),
        };
        assert_eq!(case["error"], expected, "{}", case["name"]);
    }
}

#[test]
fn the_documented_frames_are_recorded_ones() {
    let document = include_str!("../../docs/protocol.md");
    let written: String = document.split_whitespace().collect();
    let case = &recorded("injects")[0];
    assert!(written.contains(&format!("{}└─ver,frames", case["hex"].as_str().unwrap())), "{case}");
}

#[test]
fn recorded_text_reads_and_writes_to_the_same_json() {
    for case in recorded("client") {
        let message: ClientMessage = serde_json::from_value(case.clone()).unwrap();
        assert_eq!(serde_json::to_value(message).unwrap(), case);
    }
    for case in recorded("server") {
        let message: ServerMessage = serde_json::from_value(case.clone()).unwrap();
        assert_eq!(serde_json::to_value(message).unwrap(), case);
    }
}

#[test]
fn recorded_frames_to_inject_read_and_write_to_the_same_bytes() {
    for case in recorded("injects") {
        let bytes = from_hex(&case["hex"]);
        let inject = Inject::decode(bytes.clone()).unwrap();
        let expected = Inject {
            id: case["id"].as_u64().unwrap(),
            count: case["count"].as_u64().unwrap() as u8,
            pixels: from_hex(&case["pixels"]),
        };
        assert_eq!(inject, expected, "{}", case["name"]);
        assert_eq!(inject.encode(), bytes, "{}", case["name"]);
    }
    for case in recorded("not_injects") {
        assert_eq!(Inject::decode(from_hex(&case["hex"])), None, "{}", case["name"]);
    }
}

#[test]
fn the_page_reads_and_writes_the_recorded_messages_too() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page.mjs");
    let Ok(output) = Command::new("node").arg(script).output() else {
        println!("skipped: node is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::H264), Just(Kind::Jpeg)]
}

prop_compose! {
    fn headers()(
        kind in kinds(),
        (keyframe, generated, injected) in any::<(bool, bool, bool)>(),
        (generation, label) in any::<(u32, u32)>(),
        (frame, pts, block) in any::<(u64, u64, u64)>(),
    ) -> Header {
        Header { kind, keyframe, generated, injected, generation, frame, pts, block, label }
    }
}

prop_compose! {
    fn futures()(label: Option<u32>, seed: Option<u64>) -> Future {
        Future { label, seed }
    }
}

fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<u32>(), kinds()).prop_map(|(version, kind)| Request::Hello { version, kind }),
        any::<u32>().prop_map(|index| Request::Label { index }),
        Just(Request::Pause),
        Just(Request::Resume),
        Just(Request::Step),
        any::<u64>().prop_map(|seed| Request::Seed { seed }),
        any::<u64>().prop_map(|block| Request::Rewind { block }),
        any::<u64>().prop_map(|block| Request::Fork { block }),
        any::<Option<u64>>().prop_map(|seed| Request::Restart { seed }),
        (any::<Option<u32>>(), proptest::option::of(-1e3..1e3f64))
            .prop_map(|(steps, guidance)| Request::Sampling { steps, guidance }),
        (any::<u64>(), prop::collection::vec(futures(), 0..12))
            .prop_map(|(block, each)| Request::Futures { block, each }),
        any::<bool>().prop_map(|on| Request::Record { on }),
        Just(Request::Ping),
    ]
}

proptest! {
    #[test]
    fn packets_round_trip(header in headers(), payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let packet = Packet { header, payload: payload.into() };
        prop_assert_eq!(Packet::decode(packet.encode()).unwrap(), packet);
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let bytes = Bytes::from(bytes);
        let _ = Inject::decode(bytes.clone());
        let _ = Packet::decode(bytes);
    }

    #[test]
    fn injects_round_trip(id: u64, count: u8, pixels in prop::collection::vec(any::<u8>(), 0..64)) {
        let inject = Inject { id, count, pixels: pixels.into() };
        prop_assert_eq!(Inject::decode(inject.encode()), Some(inject));
    }

    #[test]
    fn requests_round_trip(id: u64, request in requests()) {
        let message = ClientMessage { id, request };
        let text = serde_json::to_string(&message).unwrap();
        prop_assert_eq!(serde_json::from_str::<ClientMessage>(&text).unwrap(), message);
    }
}
