//! Films: what is listed, what can be fetched, and what cannot.

use acdit_io::{Kind, Recording, ServerConfig, State};
use serde_json::json;

use crate::harness::{Answer, Served, exchange};

async fn get(served: &Served, path: &str, headers: &str) -> Answer {
    let host = served.address;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
    exchange(host, request.as_bytes(), false).await
}

#[tokio::test]
async fn films_are_listed_and_handed_out_under_their_own_names_only() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("main-10.mp4", "0123456789");
    put("main-10.json", r#"{"version":1,"blocks":[4,9],"log":[{"type":"start"}]}"#);
    put("main-2.mp4", "film");
    put("main-2.json", r#"{"version":1,"blocks":[0,2],"error":"the disk is full","log":[]}"#);
    put("9f86d081884c7d65-1.mp4", "open");
    put("main-3.mp4", "broken off");
    put(".main-4.mp4", "hidden");
    put("notes.txt", "mine");
    put("secret-x.mp4", "not ours");
    let config = ServerConfig { recordings: Some(folder.path().into()), ..ServerConfig::default() };
    let served = Served::start(config).await;
    let recording = Some(Recording { name: "9f86d081884c7d65-1".into(), since: 7 });
    served.hub.announce(State { block: 12, recording, ..State::default() });

    let listed = get(&served, "/api/recordings", "").await;
    let film = |name: &str, session: &str, blocks: serde_json::Value, bytes: u64| json!({ "name": name, "session": session, "blocks": blocks, "bytes": bytes, "open": false });
    let mut expected = vec![
        film("9f86d081884c7d65-1", "9f86d081884c7d65", json!([7, 12]), 4),
        film("main-2", "main", json!([0, 2]), 4),
        film("main-3", "main", json!(null), 10),
        film("main-10", "main", json!([4, 9]), 10),
    ];
    expected[0]["open"] = json!(true);
    expected[1]["error"] = json!("the disk is full");
    assert_eq!((listed.status, listed.json()), (200, json!(expected)));

    let recording = Some(Recording { name: "main-11".into(), since: 3 });
    served.hub.announce(State { block: 3, recording, ..State::default() });
    let listed = get(&served, "/api/recordings", "").await.json();
    let begun = json!({ "name": "main-11", "session": "main", "blocks": [3, 3], "bytes": 0, "open": true });
    assert_eq!(listed[4], begun, "nothing is written yet");

    let film = get(&served, "/api/recordings/main-10.mp4", "").await;
    assert_eq!((film.status, film.body.as_str()), (200, "0123456789"));
    assert!(film.head.contains("content-type: video/mp4") && film.head.contains("nosniff"), "{}", film.head);
    let part = get(&served, "/api/recordings/main-10.mp4", "Range: bytes=2-4\r\n").await;
    assert_eq!((part.status, part.body.as_str()), (206, "234"));
    let sidecar = get(&served, "/api/recordings/main-10.json", "").await;
    assert_eq!((sidecar.status, sidecar.json()["blocks"].clone()), (200, json!([4, 9])));
    for name in [
        "main-4.mp4",
        ".main-4.mp4",
        "main-3.json",
        "notes.txt",
        "secret-x.mp4",
        "main-10.MP4",
        "main-10",
        "..%2Fmain-10.mp4",
        "%2Fetc%2Fpasswd",
        ".%2Fmain-10.mp4",
        "main-10.mp4%00",
    ] {
        let refused = get(&served, &format!("/api/recordings/{name}"), "").await;
        assert_eq!((refused.status, refused.code().as_str()), (404, "no_recording"), "{name}");
    }
    assert_eq!(get(&served, "/api/recordings/../recordings/main-10.mp4", "").await.status, 404);
}

#[tokio::test]
async fn a_server_without_a_place_for_films_says_so() {
    let served = Served::start(ServerConfig::default()).await;
    for path in ["/api/recordings", "/api/recordings/main-1.mp4"] {
        let refused = get(&served, path, "").await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "no_recordings"));
    }
    let client = served.connect(Kind::H264).await;
    assert_eq!(client.state().recording, None);
}
