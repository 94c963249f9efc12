//! `docs/openapi.yaml` against the server: the same routes, and answers of the shapes that it gives.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use acdit_io::{
    Access, Control, Hub, MAIN, PastBlock, Refusal, Reply, ServerConfig, Session, Sessions, State, Timings,
    Token, Wanted, WorldInfo, WorldSource, routes, serve_sessions,
};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    harness::{self, Answer, exchange},
    schema::Document,
};

const TOKEN: &str = "0123456789abcdef-token";

/// A world that does everything at once.
struct Obliging;

impl WorldSource for Obliging {
    fn info(&self) -> WorldInfo {
        harness::info()
    }
    fn control(&self, control: Control, reply: Reply) {
        match control {
            Control::Continue { clip } if clip.starts_with(b"text") => reply.refused("not_a_video", "text"),
            _ => reply.applied(3),
        }
    }
    fn request_keyframe(&self) {}
    fn viewers(&self, _: usize, _: usize) {}
    fn past(&self) -> Result<Vec<PastBlock>, Refusal> {
        Ok(vec![PastBlock { block: 7, label: 1, injected: 4 }])
    }
    fn log(&self) -> Result<String, Refusal> {
        Ok("{\"type\":\"start\"}\n{\"type\":\"block\",\"block\":0}\n".into())
    }
    fn save(&self) -> Result<u64, Refusal> {
        Ok(7)
    }
    fn saved(&self) -> Result<u64, Refusal> {
        Ok(7)
    }
}

impl Sessions for Obliging {
    fn open_all(&self, wanted: &[(String, Wanted)]) -> Result<Vec<(Arc<dyn WorldSource>, Hub)>, Refusal> {
        Ok(wanted.iter().map(|_| (Arc::new(Self) as Arc<dyn WorldSource>, hub())).collect())
    }
    fn ended(&self, _: &str) {}
}

fn hub() -> Hub {
    let hub = Hub::new(Duration::from_secs(1));
    let timings = Timings { denoise: 0.2, ..Timings::default() };
    hub.announce(State { block: 5, timings, ..State::default() });
    hub
}

/// A server that keeps films in a folder, in which there is one.
async fn start(films: &Path) -> SocketAddr {
    let put = |name: &str, text: &str| std::fs::write(films.join(name), text).unwrap();
    put("main-1.mp4", "a film");
    put("main-1.json", r#"{"version": 1, "blocks": [0, 2], "log": [{"type": "start"}]}"#);
    let recordings = Some(films.to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let access = Access { token: Some(Token::new(TOKEN).unwrap()), ..Access::default() };
    let config = ServerConfig { access, max_sessions: 1, recordings, ..ServerConfig::default() };
    let (source, hub) = (Arc::new(Obliging), hub());
    let main = Session { id: MAIN.to_owned(), source, hub, private: false, unattended: false };
    let maker = Some(Arc::new(Obliging) as Arc<dyn Sessions>);
    tokio::spawn(serve_sessions(listener, main, Vec::new(), maker, config, std::future::pending()));
    address
}

fn document() -> Document {
    Document::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.yaml"))
}

#[test]
fn the_document_has_the_servers_routes_and_says_which_are_public() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, operations) in document.at("/paths").as_object().unwrap() {
        for (method, operation) in
            operations.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
        {
            let public = operation["security"].as_array().is_some_and(Vec::is_empty);
            let about = operation["summary"].as_str().unwrap().to_owned();
            described.insert((path.clone(), method.to_uppercase(), public, about));
        }
    }
    let served = routes().into_iter().filter(|route| !route.file);
    let served: BTreeSet<_> =
        served.map(|r| (r.path.to_owned(), r.method.to_owned(), r.public, r.about.to_owned())).collect();
    assert_eq!(described, served);
    document.check_references();
}

#[test]
fn the_table_in_operations_md_is_the_servers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("<!-- routes -->\n").unwrap();
    let (table, _) = table.split_once("<!-- end of routes -->").unwrap();
    let mut expected = String::from("| request | without a token | what it is |\n|---|---|---|\n");
    for route in routes().into_iter().filter(|route| !route.file) {
        let public = if route.public { "yes" } else { "" };
        expected += &format!("| `{} {}` | {public} | {} |\n", route.method, route.path, route.about);
    }
    assert_eq!(table, expected, "docs/operations.md: expected this table:\n{expected}");
}

#[tokio::test]
async fn real_answers_have_the_shapes_that_the_document_gives() {
    let films = tempfile::tempdir().unwrap();
    let (document, address) = (document(), start(films.path()).await);
    let ask = async |method: &str, path: &str, body: &str, token: bool| {
        let token = if token { format!("Authorization: Bearer {TOKEN}\r\n") } else { String::new() };
        let upgrade = match path.starts_with("/ws") && !token.is_empty() && body == "upgrade" {
            true => {
                "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
            false => "Connection: close\r\n",
        };
        let form =
            if body.starts_with("--") { "Content-Type: multipart/form-data; boundary=x\r\n" } else { "" };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{token}{upgrade}{form}");
        let length = if body == "upgrade" { 0 } else { body.len() };
        let request = format!("{head}Content-Length: {length}\r\n\r\n{}", &body[..length]);
        match body {
            "upgrade" => {
                let (head, _) = harness::open(address, request.as_bytes()).await;
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                Answer { status, head, body: String::new() }
            }
            _ => exchange(address, request.as_bytes(), false).await,
        }
    };
    let mut seen = BTreeSet::new();
    let mut check = |method: &'static str, template: &'static str, answer: &Answer| {
        document.check_answer(method, template, answer.status, &answer.head, &answer.body);
        seen.insert((method, template, answer.status));
    };

    // Refusals first: of every route, without a token, and for what is not there.
    for route in routes().into_iter().filter(|route| !route.file) {
        let path = route.path.replace("{id}", "main").replace("{name}", "main-1.mp4");
        check(route.method, route.path, &ask(route.method, &path, "", false).await);
        if route.path.contains("{id}") {
            let path = route.path.replace("{id}", "nobody");
            check(route.method, route.path, &ask(route.method, &path, "", true).await);
        }
    }
    let part = |name: &str, value: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form = part("label", "down") + &part("seed", "5") + &part("clip", "a clip") + "--x--\r\n";
    let begun = ask("POST", "/api/sessions", &form, true).await;
    assert_eq!(begun.status, 201, "{}", begun.body);
    check("POST", "/api/sessions", &begun);
    let path = format!("/api/sessions/{}", begun.json()["session"].as_str().unwrap());
    assert_eq!(ask("DELETE", &path, "", true).await.status, 204);

    let begun = ask("POST", "/api/sessions", r#"{"label": "down", "private": true}"#, true).await;
    assert_eq!(begun.status, 201, "{}", begun.body);
    check("POST", "/api/sessions", &begun);
    let session = begun.json()["session"].as_str().unwrap().to_owned();
    for (method, template, body, status) in [
        ("GET", "/", "", 200),
        ("GET", "/ws", "upgrade", 101),
        ("GET", "/ws", "", 400),
        ("GET", "/ws/{id}", "upgrade", 101),
        ("POST", "/api/clip", "bytes", 200),
        ("POST", "/api/clip", "text", 415),
        ("POST", "/api/clip", "", 400),
        ("POST", "/api/sessions", "{}", 429),
        ("POST", "/api/sessions", "{\"seed\": -1}", 400),
        ("GET", "/api/sessions", "", 200),
        ("GET", "/api/sessions/{id}", "", 200),
        ("POST", "/api/sessions/{id}/clip", "bytes", 200),
        ("POST", "/api/sessions/{id}/clip", "text", 415),
        ("GET", "/api/recordings", "", 200),
        ("GET", "/api/recordings/{name}", "", 200),
        ("GET", "/api/sessions/{id}/blocks", "", 200),
        ("GET", "/api/sessions/{id}/log", "", 200),
        ("POST", "/api/sessions/{id}/snapshot", "", 201),
        ("GET", "/api/sessions/{id}/snapshot", "", 200),
        ("POST", "/api/ticket", "", 201),
        ("POST", "/api/signin", "", 204),
        ("DELETE", "/api/signin", "", 204),
        ("GET", "/info", "", 200),
        ("GET", "/metrics", "", 200),
        ("GET", "/healthz", "", 200),
        ("GET", "/readyz", "", 200),
    ] {
        let path = template.replace("{id}", &session).replace("{name}", "main-1.mp4");
        let answer = ask(method, &path, body, true).await;
        assert_eq!(answer.status, status, "{method} {template}: {} {}", answer.head, answer.body);
        check(method, template, &answer);
    }
    let sidecar = ask("GET", "/api/recordings/main-1.json", "", true).await;
    assert_eq!(sidecar.status, 200);
    check("GET", "/api/recordings/{name}", &sidecar);
    // One who waits: told its place, then its session.
    let waits = async || ask("POST", "/api/sessions", "{\"wait\": true}", true).await;
    let frees = async || {
        tokio::task::yield_now().await;
        ask("DELETE", &format!("/api/sessions/{session}"), "", true).await
    };
    let (waited, freed) = tokio::join!(waits(), frees());
    assert_eq!(freed.status, 204);
    check("DELETE", "/api/sessions/{id}", &freed);
    assert!(matches!(waited.status, 201 | 202), "{}", waited.body);
    check("POST", "/api/sessions", &waited);

    let good = |method: &str, path: &str| {
        seen.iter().any(|(m, p, status)| (*m, *p) == (method, path) && *status < 300)
    };
    for route in routes().into_iter().filter(|route| !route.file) {
        assert!(good(route.method, route.path), "{} {} was not seen to work", route.method, route.path);
    }
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let document = document();
    let refused = r#"{"error": "x", "code": "y", "request_id": "z"}"#;
    let head = "http/1.1 404 not found\r\ncontent-type: application/json";
    document.check_answer("GET", "/info", 404, head, refused);
    for (status, head, body) in [
        (404, head, r#"{"error": "x", "code": "y"}"#),
        (404, head, r#"{"error": "x", "code": "y", "request_id": "z", "more": 1}"#),
        (404, head, r#"{"error": "x", "code": 1, "request_id": "z"}"#),
        (404, "content-type: text/html", refused),
        (200, "content-type: application/json", r#"{"protocol": 2}"#),
        (302, head, refused),
    ] {
        let check = || document.check_answer("GET", "/info", status, head, body);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err(), "{status} {body}");
    }
    let problem =
        |schema: &str, value: Value| document.problem(&serde_json::from_str(schema).unwrap(), &value);
    assert_eq!(problem(r#"{"type": ["integer", "string"]}"#, 3.into()), None);
    assert!(problem(r#"{"type": "integer", "minimum": 0}"#, (-1).into()).is_some());
    let shape = r#"{"type": "object", "additionalProperties": false, "required": ["a"], "properties": {"a": {"items": {}}}}"#;
    assert!(problem(shape, "text".into()).unwrap().contains("expected"));
    assert!(problem(shape, serde_json::json!({})).unwrap().contains("is missing"));
    assert!(problem(r#"{"type": "array", "items": {"type": "string"}}"#, "text".into()).is_some());
    assert!(problem(r#"{"enum": ["a"]}"#, "b".into()).is_some());
    assert!(problem(r#"{"unheard-of": 1}"#, 1.into()).unwrap().contains("unheard-of"));
}
