//! Several ways to go on from one moment, and sessions that end when nobody watches them.

use std::time::Duration;

use acdit_io::{
    Client, Error, Event, Fork, Future as Way, MAIN, Request, ServerConfig, ServerMessage, Wanted,
};

use crate::sessions::House;

async fn answer(viewer: &mut Client, asked: u64) -> ServerMessage {
    loop {
        match viewer.next().await.unwrap() {
            Event::Message(message @ ServerMessage::Applied { id, .. }) if id == asked => return message,
            Event::Message(message @ ServerMessage::Refused { id, .. }) if id == Some(asked) => {
                return message;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn futures_begin_together_in_order_and_none_is_kept_for_nobody() {
    let mut house = House::open(ServerConfig { max_sessions: 3, ..ServerConfig::default() }).await;
    let mut viewer = house.watch(MAIN).await;
    let each = vec![
        Way { label: Some(2), seed: None },
        Way { label: None, seed: Some(7) },
        Way { label: Some(0), seed: Some(u64::MAX) },
    ];
    let asked = viewer.request(Request::Futures { block: 12, each: each.clone() }).await.unwrap();
    let mut begun = Vec::new();
    for Way { label, seed } in each {
        let (id, wanted, _) = house.begun().await;
        let fork = Some(Fork { session: MAIN.into(), block: 12 });
        assert_eq!(wanted, Wanted { label, seed, fork, ephemeral: true, ..Wanted::default() });
        begun.push(id);
    }
    let sessions = Some(begun.clone());
    let expected = ServerMessage::Applied { id: asked, block: 12, session: None, sessions };
    assert_eq!(answer(&mut viewer, asked).await, expected);
    let listed = house.ask("GET", "/api/sessions", "").await.json();
    let ephemeral = |session: &serde_json::Value| session["ephemeral"] == (session["session"] != MAIN);
    assert!(listed.as_array().unwrap().len() == 4 && listed.as_array().unwrap().iter().all(ephemeral));

    let two = vec![Way::default(); 2];
    let asked = viewer.request(Request::Futures { block: 12, each: two.clone() }).await.unwrap();
    let full = answer(&mut viewer, asked).await;
    assert!(matches!(full, ServerMessage::Refused { ref code, .. } if code == "full"), "{full:?}");
    let end = house.ask("DELETE", &format!("/api/sessions/{}", begun[0]), "").await;
    assert_eq!((end.status, house.ended().await), (204, begun[0].clone()));
    let asked = viewer.request(Request::Futures { block: 12, each: two }).await.unwrap();
    let full = answer(&mut viewer, asked).await;
    assert!(matches!(full, ServerMessage::Refused { ref code, .. } if code == "full"), "one place for two");
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201, "and that one is still free");
}

#[tokio::test]
async fn an_ephemeral_session_ends_when_nobody_watches_it() {
    let config = ServerConfig { linger: Duration::from_millis(50), ..ServerConfig::default() };
    let mut house = House::open(config).await;
    assert_eq!(house.ask("POST", "/api/sessions", r#"{"ephemeral": true}"#).await.status, 201);
    let (never_watched, _) = house.opened().await;
    assert_eq!(house.ended().await, never_watched);

    let config = ServerConfig { linger: Duration::from_millis(1500), ..ServerConfig::default() };
    let mut house = House::open(config).await;
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201);
    let (lasting, _) = house.opened().await;
    assert_eq!(house.ask("POST", "/api/sessions", r#"{"ephemeral": true}"#).await.status, 201);
    let (ephemeral, _) = house.opened().await;
    let watching = house.watch(&ephemeral).await;
    // One that begins later and that nobody watches ends first.
    assert_eq!(house.ask("POST", "/api/sessions", r#"{"ephemeral": true}"#).await.status, 201);
    let (other, _) = house.opened().await;
    assert_eq!(house.ended().await, other);
    watching.close().await.unwrap();
    assert_eq!(house.ended().await, ephemeral);
    let gone = Client::connect(&house.url(&ephemeral), acdit_io::Kind::H264).await.unwrap_err();
    assert!(matches!(gone, Error::WebSocket(_)));
    assert_eq!(house.ask("GET", &format!("/api/sessions/{lasting}"), "").await.status, 200);
}
