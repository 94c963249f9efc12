//! Plain HTTP on real sockets: the page, the probes, uploads with honest and lying lengths, and who is let in.

use std::{sync::Arc, time::Duration};

use acdit_io::{Control, Error, Hub, Kind, Refusal, ServerConfig, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Answer, Idle, Served, exchange, next_packet, packet};

async fn get(served: &Served, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", served.address);
    exchange(served.address, request.as_bytes(), false).await
}

async fn send(served: &Served, method: &str, path: &str, body: &str) -> Answer {
    let (host, length) = (served.address, body.len());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange(served.address, request.as_bytes(), false).await
}

#[tokio::test]
async fn a_world_with_one_session_shows_it_and_makes_no_other() {
    let served = Served::start(ServerConfig::default()).await;
    let listed = get(&served, "/api/sessions").await.json();
    assert_eq!((listed[0]["session"].as_str(), listed.as_array().unwrap().len()), (Some("main"), 1));
    assert_eq!(get(&served, "/api/sessions/main").await.json(), listed[0]);
    for (method, path, body, status, code) in [
        ("POST", "/api/sessions", "{}", 409, "unsupported"),
        ("POST", "/api/sessions", "{\"seed\": -1}", 400, "bad_fields"),
        ("POST", "/api/sessions", "{\"label\": \"sideways\"}", 400, "bad_fields"),
        ("DELETE", "/api/sessions/main", "", 409, "main_session"),
        ("DELETE", "/api/sessions/other", "", 404, "no_session"),
        ("GET", "/api/sessions/other/log", "", 404, "no_session"),
        ("GET", "/api/sessions/main/log", "", 409, "unsupported"),
        ("POST", "/api/sessions/main/snapshot", "", 409, "unsupported"),
    ] {
        let answer = send(&served, method, path, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path} {body}");
    }
    let stranger = format!(
        "DELETE /api/sessions/main HTTP/1.1\r\nHost: {}\r\nOrigin: http://example.org\r\nConnection: close\r\n\r\n",
        served.address
    );
    assert_eq!(exchange(served.address, stranger.as_bytes(), false).await.code(), "origin_not_allowed");
}

fn upload_head(served: &Served, headers: &str) -> Vec<u8> {
    format!("POST /api/clip HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", served.address)
        .into_bytes()
}

async fn upload(served: &Served, headers: &str, body: &[u8], half_close: bool) -> Answer {
    let request = [upload_head(served, headers), body.to_vec()].concat();
    exchange(served.address, &request, half_close).await
}

#[tokio::test]
async fn the_page_and_its_modules_are_served_under_a_strict_policy() {
    let served = Served::start(ServerConfig::default()).await;
    let page = get(&served, "/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains(r#"id="stream""#));
    for header in ["content-security-policy: default-src 'self'", "frame-ancestors 'none'", "nosniff"] {
        assert!(page.head.contains(header), "{header} in {}", page.head);
    }
    let local = page.body.split(['"', '\'']).filter(|part| part.starts_with('/') && part.len() > 1);
    let mut files = 0;
    for path in local {
        assert_eq!(get(&served, path).await.status, 200, "{path}");
        files += 1;
    }
    assert!(files >= 3, "the page refers to its style, icon and script");
    assert!(get(&served, "/app.mjs").await.head.contains("content-type: text/javascript"));
}

#[tokio::test]
async fn probes_and_info_answer() {
    let served = Served::start(ServerConfig::default()).await;
    assert_eq!(get(&served, "/healthz").await.status, 200);
    assert_eq!(get(&served, "/readyz").await.status, 200);
    let info = get(&served, "/info").await.json();
    assert_eq!(info["protocol"], 1);
    assert_eq!(info["info"]["labels"][1]["key"], "ArrowDown");
    assert_eq!(info["stream"]["viewers"], 0);
    let missing = get(&served, "/nothing").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));
    assert!(missing.head.contains("nosniff"));
}

#[tokio::test]
async fn a_server_that_will_stop_keeps_its_viewers_and_takes_no_more() {
    let config = ServerConfig::default();
    let readiness = config.readiness.clone();
    let served = Served::start(config).await;
    let mut viewer = served.connect(Kind::H264).await;
    readiness.withdraw();
    for (method, path) in [("GET", "/readyz"), ("GET", "/ws"), ("GET", "/ws/main"), ("POST", "/api/sessions")]
    {
        let answer = send(&served, method, path, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "stopping"), "{method} {path}");
        assert!(answer.head.contains("retry-after") || path == "/readyz");
    }
    for path in ["/healthz", "/info", "/api/sessions"] {
        assert_eq!(get(&served, path).await.status, 200, "{path}");
    }
    assert!(get(&served, "/metrics").await.body.contains("\nacdit_ready 0\n"));
    served.hub.publish(&packet(0, true));
    assert_eq!(next_packet(&mut viewer).await, packet(0, true));
}

#[tokio::test]
async fn an_answer_and_its_error_carry_one_request_id() {
    let served = Served::start(ServerConfig::default()).await;
    let (first, second) = (get(&served, "/nothing").await, get(&served, "/nothing").await);
    let id = |answer: &Answer| answer.json()["request_id"].as_str().unwrap().to_owned();
    assert_ne!(id(&first), id(&second));
    for answer in [first, second] {
        assert!(answer.head.contains(&format!("x-request-id: {}", id(&answer))), "{}", answer.head);
    }
    assert!(get(&served, "/healthz").await.head.contains("x-request-id: "));
}

#[tokio::test]
async fn an_uploaded_clip_reaches_the_world_and_the_answer_names_the_block() {
    let mut served = Served::start(ServerConfig::default()).await;
    let (address, clip) = (served.address, vec![7; 300_000]);
    let request = [upload_head(&served, "Content-Length: 300000\r\n"), clip.clone()].concat();
    let answer = tokio::spawn(async move { exchange(address, &request, false).await });
    let (control, reply) = served.control().await;
    assert_eq!(control, Control::Continue { clip: clip.into() });
    reply.applied(0);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "block": 0 })));
}

#[tokio::test]
async fn a_clip_that_the_world_refuses_has_the_status_of_its_code() {
    let mut served = Served::start(ServerConfig::default()).await;
    let address = served.address;
    for (code, status) in [
        ("not_a_video", 415),
        ("codec_not_accepted", 415),
        ("too_large", 413),
        ("too_slow", 408),
        ("uploads_refused", 403),
        ("decoder_failed", 422),
        ("anything_else", 422),
        ("busy", 503),
    ] {
        let request = [upload_head(&served, "Content-Length: 4\r\n"), b"text".to_vec()].concat();
        let answer = tokio::spawn(async move { exchange(address, &request, false).await });
        let refusal = Refusal::new(code, "these words").because("but not these");
        served.control().await.1.refused_for(refusal);
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert_eq!(answer.head.contains("retry-after"), status == 503, "{code}");
        assert!(answer.body.contains("these words") && !answer.body.contains("but not"), "{}", answer.body);
    }
}

#[tokio::test]
async fn uploads_are_counted_whatever_they_declare() {
    let config = ServerConfig {
        upload_bytes: 1000,
        upload_deadline: Duration::from_millis(300),
        ..ServerConfig::default()
    };
    let served = Served::start(config).await;
    let body = [b'x'; 1001];
    let declared = upload(&served, "Content-Length: 1001\r\n", &body, false).await;
    assert_eq!((declared.status, declared.code().as_str()), (413, "too_large"));

    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let chunked = [chunk(&body[..600]), chunk(&body[..600]), chunk(b"")].concat();
    let streamed = upload(&served, "Transfer-Encoding: chunked\r\n", &chunked, false).await;
    assert_eq!((streamed.status, streamed.code().as_str()), (413, "too_large"));

    let short = upload(&served, "Content-Length: 900\r\n", &body[..100], true).await;
    assert_eq!((short.status, short.code().as_str()), (400, "incomplete"));

    let stuck = upload(&served, "Content-Length: 900\r\n", &body[..100], false).await;
    assert_eq!((stuck.status, stuck.code().as_str()), (408, "too_slow"));

    let empty = upload(&served, "Content-Length: 0\r\n", &[], false).await;
    assert_eq!((empty.status, empty.code().as_str()), (400, "empty"));
}

#[tokio::test]
async fn a_world_that_does_not_answer_is_a_503() {
    let config = ServerConfig { upload_deadline: Duration::from_millis(100), ..ServerConfig::default() };
    let served = Served::start(config).await;
    let answer = upload(&served, "Content-Length: 1\r\n", b"x", false).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "too_slow"));
    assert!(answer.head.contains("retry-after"));
}

#[tokio::test]
async fn one_upload_too_many_is_told_to_retry() {
    let config = ServerConfig { max_uploads: 1, ..ServerConfig::default() };
    let mut served = Served::start(config).await;
    let address = served.address;
    let request = [upload_head(&served, "Content-Length: 1\r\n"), b"x".to_vec()].concat();
    let first = tokio::spawn(async move { exchange(address, &request, false).await });
    let (_, reply) = served.control().await;
    let second = upload(&served, "Content-Length: 1\r\n", b"y", false).await;
    assert_eq!((second.status, second.code().as_str()), (503, "busy"));
    reply.applied(3);
    assert_eq!(first.await.unwrap().json()["block"], 3);
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_world_that_does_not_answer() {
    let mut served = Served::start(ServerConfig::default()).await;
    let address = served.address;
    let request = [upload_head(&served, "Content-Length: 1\r\n"), b"x".to_vec()].concat();
    let answer = tokio::spawn(async move { exchange(address, &request, false).await });
    let _unanswered = served.control().await;
    served.stop().await.unwrap();
    assert_eq!(answer.await.unwrap().code(), "stopping");
}

#[tokio::test]
async fn other_sites_cannot_upload_or_look() {
    let served = Served::start(ServerConfig::default()).await;
    let foreign = upload(&served, "Origin: http://evil.example\r\nContent-Length: 1\r\n", b"x", false).await;
    assert_eq!((foreign.status, foreign.code().as_str()), (403, "origin_not_allowed"));
    let rebound = exchange(
        served.address,
        b"GET /info HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        false,
    );
    assert_eq!(rebound.await.code(), "host_not_allowed");
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed() {
    let config = ServerConfig { header_deadline: Duration::from_millis(50), ..ServerConfig::default() };
    let served = Served::start(config).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_the_next_request_and_then_closed() {
    let config = ServerConfig { header_deadline: Duration::from_millis(200), ..ServerConfig::default() };
    let served = Served::start(config).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", served.address);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
    assert!(!answers.to_ascii_lowercase().contains("connection: close"), "{answers}");
}

#[tokio::test]
async fn addresses_that_others_can_reach_are_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let hub = Hub::new(Duration::from_secs(1));
    let refused = serve(listener, Arc::new(Idle), hub, ServerConfig::default(), std::future::pending()).await;
    assert!(matches!(refused, Err(Error::NotLoopback(_))));
}
