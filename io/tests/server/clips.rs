//! Clips for any session, and sessions that begin with one.

use std::time::Duration;

use acdit_io::{Control, Fork, MAIN, ServerConfig, Wanted};

use crate::sessions::House;

#[tokio::test]
async fn a_clip_reaches_the_session_that_it_names() {
    let mut house = House::open(ServerConfig { upload_bytes: 8, ..ServerConfig::default() }).await;
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201);
    let (id, _) = house.opened().await;
    let answer = tokio::spawn(house.ask("POST", &format!("/api/sessions/{id}/clip"), "a video"));
    let (asked, control, reply) = house.asked().await;
    assert_eq!((asked, control), (id.clone(), Control::Continue { clip: "a video".into() }));
    reply.applied(3);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "block": 3 })));

    let none = house.ask("POST", "/api/sessions/none/clip", "a video").await;
    assert_eq!((none.status, none.code().as_str()), (404, "no_session"));
    let long = house.ask("POST", &format!("/api/sessions/{id}/clip"), "too long!").await;
    assert_eq!((long.status, long.code().as_str()), (413, "too_large"));
    let empty = house.ask("POST", &format!("/api/sessions/{id}/clip"), "").await;
    assert_eq!((empty.status, empty.code().as_str()), (400, "empty"));
}

#[tokio::test]
async fn a_form_begins_a_session_with_its_fields_and_its_clip() {
    let mut house = House::open(ServerConfig::default()).await;
    let clip = vec![0xfe; 100_000];
    let parts: [(&str, &[u8]); 8] = [
        ("label", b"up"),
        ("seed", b"18446744073709551615"),
        ("private", b"true"),
        ("clip", &clip),
        ("steps", b"6"),
        ("guidance", b"1.5"),
        ("ephemeral", b"true"),
        ("fork", br#"{"session": "main", "block": 3}"#),
    ];
    let answer = tokio::spawn(house.send_form(&parts));
    let (id, wanted, _) = house.begun().await;
    let expected = Wanted {
        label: Some(2),
        seed: Some(u64::MAX),
        private: true,
        unattended: false,
        ephemeral: true,
        steps: Some(6),
        guidance: Some(1.5),
        fork: Some(Fork { session: MAIN.into(), block: 3 }),
    };
    assert_eq!(wanted, expected);
    let (asked, control, reply) = house.asked().await;
    assert_eq!((asked, control), (id.clone(), Control::Continue { clip: clip.into() }));
    reply.applied(0);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.json()["session"].as_str()), (201, Some(id.as_str())));

    let without = tokio::spawn(house.send_form(&[("label", b"1")]));
    assert_eq!(house.begun().await.1, Wanted { label: Some(1), ..Wanted::default() });
    assert_eq!(without.await.unwrap().status, 201, "a form needs no clip");
}

#[tokio::test]
async fn a_clip_in_a_form_is_an_upload_until_the_world_has_taken_it() {
    let mut house = House::open(ServerConfig { max_uploads: 1, ..ServerConfig::default() }).await;
    for _ in 0..2 {
        let answer = tokio::spawn(house.send_form(&[("clip", b"a video")]));
        house.opened().await;
        let (_, _, reply) = house.asked().await;
        let busy = house.send_form(&[("clip", b"another")]).await;
        assert_eq!((busy.status, busy.code().as_str()), (503, "busy"));
        reply.applied(0);
        assert_eq!(answer.await.unwrap().status, 201);
    }
}

#[tokio::test]
async fn a_session_whose_clip_is_refused_is_ended_again() {
    let mut house = House::open(ServerConfig { max_sessions: 1, ..ServerConfig::default() }).await;
    for (code, status) in [("not_a_video", 415), ("busy", 503)] {
        let answer = tokio::spawn(house.send_form(&[("clip", b"no video")]));
        let (id, _) = house.opened().await;
        house.asked().await.2.refused(code, "no");
        assert_eq!(house.ended().await, id);
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201, "its place is free");
}

#[tokio::test]
async fn who_hangs_up_before_the_clip_is_taken_leaves_no_session() {
    let mut house = House::open(ServerConfig::default()).await;
    let leaving = tokio::spawn(house.send_form(&[("clip", b"a video")]));
    let (id, _) = house.opened().await;
    let (_, _, reply) = house.asked().await;
    leaving.abort();
    assert_eq!(house.ended().await, id);
    assert!(reply.is_closed(), "whoever decodes may stop");
}

#[tokio::test]
async fn forms_are_bounded_and_told_what_is_wrong_with_them() {
    let config = ServerConfig {
        upload_bytes: 1000,
        upload_deadline: Duration::from_millis(300),
        max_uploads: 1,
        ..ServerConfig::default()
    };
    let house = House::open(config).await;
    let form = async |parts: &[(&str, &[u8])]| {
        let answer = house.send_form(parts).await;
        (answer.status, answer.code(), answer.json()["error"].as_str().unwrap().to_owned())
    };
    let many = vec![("seed", &b"1"[..]); 17];
    let long = "1".repeat((16 << 10) + 1);
    for (parts, status, code, words) in [
        (&[("clip", &[0; 1001][..])][..], 413, "too_large", "clip may have 1000 bytes"),
        (&[("seed", long.as_bytes())], 413, "too_large", "seed may have 16384 bytes"),
        (&[("clip", b"")], 400, "empty", "no bytes"),
        (&[("seed", b"1"), ("seed", b"1")], 400, "bad_fields", "there are two of it"),
        (&many[..], 400, "bad_fields", "two of it"),
        (&[("sede", b"1")], 400, "bad_fields", "unknown field `sede`"),
        (&[("seed", b"one")], 400, "bad_fields", "seed: expected a JSON value"),
        (&[("private", b"1")], 400, "bad_fields", "expected a boolean"),
        (&[("label", b"fly")], 400, "bad_fields", "this world has no \"fly\""),
        (&[("clip", b"x"), ("wait", b"true")], 400, "bad_fields", "cannot wait"),
    ] {
        let got = form(parts).await;
        assert!(got.0 == status && got.1 == code && got.2.contains(words), "{words}: {got:?}");
    }
    let kind = "multipart/form-data; boundary=edge";
    let broken =
        house.send_body(kind, b"--edge\r\nContent-Disposition: form-data; name=\"seed\"\r\n\r\n5".into());
    let broken = broken.await;
    assert_eq!((broken.status, broken.code().as_str()), (400, "incomplete"));
    let no_form = house.send_body(kind, b"{}".into()).await;
    assert_eq!(no_form.status, 400);
}
