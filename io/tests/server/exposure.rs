//! A server that strangers reach: the token and what it is exchanged for, names, proxies, and shares of an address.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use acdit_io::{Access, Caller, Client, Error, Kind, ServerConfig, Token, routes};
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

use crate::harness::{Answer, Served, exchange, open};

const TOKEN: &str = "0123456789abcdef-token";

fn guarded() -> ServerConfig {
    with(Access { token: Some(Token::new(TOKEN).unwrap()), ..Access::default() })
}

fn with(access: Access) -> ServerConfig {
    ServerConfig { access, ..ServerConfig::default() }
}

async fn ask(served: &Served, method: &str, path: &str, headers: &[&str]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        request += &format!("Host: 127.0.0.1:{}\r\n", served.address.port());
    }
    for header in headers {
        request += &format!("{header}\r\n");
    }
    let length = if method == "POST" { "Content-Length: 0\r\n\r\n" } else { "\r\n" };
    let address = ([127, 0, 0, 1], served.address.port()).into();
    exchange(address, (request + length).as_bytes(), false).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let line = answer.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {}", answer.head))
}

#[tokio::test]
async fn every_route_asks_for_the_token_unless_the_table_calls_it_public() {
    let served = Served::start_at("0.0.0.0:0".parse().unwrap(), guarded()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let public: Vec<_> = routes().into_iter().filter(|route| route.public).map(|route| route.path).collect();
    assert_eq!(public, ["/healthz", "/readyz", "/icon.svg", "/signin.css", "/signin.mjs"]);
    for route in routes() {
        let path = route.path.replace("{id}", "main").replace("{name}", "main-1.mp4");
        let stranger = ask(&served, route.method, &path, &[]).await;
        assert_eq!(stranger.status == 401, !route.public, "{} {path}: {}", route.method, stranger.head);
        if !route.public {
            assert!(path == "/" || header(&stranger, "www-authenticate").starts_with("bearer"), "{path}");
        }
        for wrong in ["Authorization: Bearer 0123456789abcdef-tokem", "Authorization: Bearer", "Cookie: a=b"]
        {
            assert_eq!(ask(&served, route.method, &path, &[wrong]).await.status == 401, !route.public);
        }
        // These wait for the fake world; all others answer at once.
        if !path.ends_with("/clip") {
            let known = ask(&served, route.method, &path, &[&bearer]).await;
            assert!(!matches!(known.status, 401 | 404 | 405), "{} {path}: {}", route.method, known.head);
        }
    }
    assert_eq!(ask(&served, "GET", "/nothing", &[]).await.code(), "token_needed");
    assert_eq!(ask(&served, "GET", "/nothing", &[&bearer]).await.code(), "not_found");
    assert_eq!(ask(&served, "PUT", "/healthz", &[]).await.status, 401);
    let wrong_method = ask(&served, "PUT", "/healthz", &[&bearer]).await;
    assert_eq!((wrong_method.status, wrong_method.code().as_str()), (405, "method_not_allowed"));
    assert!(header(&wrong_method, "allow").contains("get"));
    let no_socket = ask(&served, "GET", "/ws", &[&bearer]).await;
    assert!(no_socket.status == 400 && no_socket.code() == "bad_request", "{}", no_socket.body);
}

/// The router has no other source of routes than the table.
#[test]
fn no_route_is_added_beside_the_table() {
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let mut adding = Vec::new();
    for source in sources.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(&source).unwrap();
        if [".route(", ".nest(", ".route_service(", ".nest_service("].iter().any(|way| text.contains(way)) {
            adding.push(source.file_name().unwrap().to_owned());
        }
    }
    assert_eq!(adding, ["routes.rs"]);
}

#[tokio::test]
async fn a_browser_trades_the_token_for_a_cookie() {
    let served = Served::start(guarded()).await;
    let form = ask(&served, "GET", "/", &[]).await;
    assert!(form.status == 401 && form.body.contains(r#"id="signin""#), "{}", form.head);
    for path in form.body.split('"').filter(|part| part.starts_with('/')) {
        assert_eq!(ask(&served, "GET", path, &[]).await.status, 200, "{path}");
    }

    let entered = ask(&served, "GET", &format!("/?session=abc&token={TOKEN}"), &[]).await;
    assert_eq!((entered.status, header(&entered, "location")), (303, "/?session=abc"));
    assert_eq!(header(&entered, "referrer-policy"), "no-referrer");
    let set = header(&entered, "set-cookie").to_owned();
    assert!(set.contains("httponly") && set.contains("samesite=strict") && !set.contains(TOKEN), "{set}");
    let cookie = format!("Cookie: theme=dark; {}", set.split(';').next().unwrap());
    assert_eq!(ask(&served, "GET", "/?token=0123456789abcdef-tokem", &[]).await.status, 401);
    let page = ask(&served, "GET", "/", &[&cookie]).await;
    assert!(page.status == 200 && page.body.contains(r#"id="stream""#));
    assert_eq!(ask(&served, "GET", "/info", &[&cookie]).await.status, 200);
    let elsewhere = ask(&served, "POST", "/api/ticket", &[&cookie, "Origin: http://evil.example"]).await;
    assert_eq!(elsewhere.code(), "origin_not_allowed");

    let bearer = format!("Authorization: Bearer {TOKEN}");
    let signed_in = ask(&served, "POST", "/api/signin", &[&bearer]).await;
    assert_eq!((signed_in.status, signed_in.body.as_str()), (204, ""));
    let again = format!("Cookie: {}", header(&signed_in, "set-cookie").split(';').next().unwrap());
    assert_eq!(ask(&served, "GET", "/info", &[&again]).await.status, 200);
    let signed_out = ask(&served, "DELETE", "/api/signin", &[&cookie]).await;
    assert!(header(&signed_out, "set-cookie").contains("=; max-age=0"), "{}", signed_out.head);

    let other = ServerConfig {
        access: Access { token: Some(Token::new("another-token-altogether").unwrap()), ..Access::default() },
        ..ServerConfig::default()
    };
    let other = Served::start(other).await;
    assert_eq!(ask(&other, "GET", "/info", &[&cookie]).await.status, 401);
}

#[tokio::test]
async fn a_ticket_opens_one_websocket() {
    let served = Served::start(guarded()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let issued = ask(&served, "POST", "/api/ticket", &[&bearer]).await;
    let Value::Object(issued) = issued.json() else { panic!("{}", issued.body) };
    assert_eq!(issued["expires_in"], 30);
    let url = format!("{}?ticket={}", served.url(), issued["ticket"].as_str().unwrap());
    let client = Client::connect(&url, Kind::H264).await.unwrap();
    assert_eq!(client.info().world, "test");
    let refused = |result: Result<Client, Error>| result.unwrap_err().to_string();
    assert!(refused(Client::connect(&url, Kind::H264).await).contains("401"));
    assert!(refused(Client::connect(&served.url(), Kind::H264).await).contains("401"));

    let caller = Caller::default().with_token(TOKEN).unwrap();
    assert!(!format!("{caller:?}").contains(TOKEN));
    Client::connect_as(&caller, &served.url(), Kind::H264).await.unwrap();
    let stranger = Caller::default().with_token("0123456789abcdef-tokem").unwrap();
    assert!(refused(Client::connect_as(&stranger, &served.url(), Kind::H264).await).contains("401"));
    assert!(matches!(Caller::default().with_token("short"), Err(Error::BadToken(_))));
}

#[tokio::test]
async fn names_that_a_proxy_serves_are_let_in_and_no_others() {
    let access = Access {
        token: Some(Token::new(TOKEN).unwrap()),
        hosts: vec!["world.example".into(), "world.example:8443".into()],
        origins: vec!["https://studio.example".into()],
        proxies: vec!["127.0.0.1/32".parse().unwrap()],
        tls: None,
    };
    let served = Served::start_at("0.0.0.0:0".parse().unwrap(), with(access)).await;
    let (port, bearer) = (served.address.port(), format!("Authorization: Bearer {TOKEN}"));
    for (host, status) in [
        ("world.example".to_owned(), 200),
        ("World.Example:8443".to_owned(), 200),
        (format!("world.example:{port}"), 200),
        (format!("10.1.2.3:{port}"), 200),
        (format!("[fe80::1]:{port}"), 200),
        ("10.1.2.3".to_owned(), 403),
        (format!("evil.example:{port}"), 403),
        ("world.example:9000".to_owned(), 403),
        ("world.example.evil.example".to_owned(), 403),
    ] {
        let answer = ask(&served, "GET", "/info", &[&format!("Host: {host}"), &bearer]).await;
        assert_eq!(answer.status, status, "{host}");
    }
    for (origin, proto, status) in [
        ("https://world.example", "https", 201),
        ("https://world.example:8443", "http", 201),
        ("https://studio.example", "https", 201),
        ("http://studio.example", "https", 403),
        ("https://evil.example", "https", 403),
        (&format!("http://localhost:{port}"), "http", 201),
        (&format!("http://localhost:{port}"), "https", 403),
        (&format!("https://localhost:{port}"), "https", 201),
        ("null", "http", 403),
    ] {
        let headers = [&format!("Origin: {origin}"), &format!("X-Forwarded-Proto: {proto}"), &bearer];
        let answer = ask(&served, "POST", "/api/ticket", &headers.map(String::as_str)).await;
        assert_eq!(answer.status, status, "{origin} over {proto}");
    }
    // A number is ours if it is the one that was asked: the server's port on another machine is another site.
    for (host, origin, status) in [
        (format!("10.1.2.3:{port}"), format!("http://10.1.2.3:{port}"), 201),
        (format!("[fe80::1]:{port}"), format!("http://[FE80::1]:{port}"), 201),
        (format!("10.1.2.3:{port}"), format!("http://localhost:{port}"), 201),
        (format!("10.1.2.3:{port}"), format!("http://10.1.2.4:{port}"), 403),
        (format!("127.0.0.1:{port}"), format!("http://10.1.2.3:{port}"), 403),
        ("world.example".to_owned(), format!("http://10.1.2.3:{port}"), 403),
        (format!("10.1.2.3:{port}"), "http://10.1.2.3:1".to_owned(), 403),
    ] {
        let headers = [&format!("Host: {host}"), &format!("Origin: {origin}"), &bearer];
        let answer = ask(&served, "POST", "/api/ticket", &headers.map(String::as_str)).await;
        assert_eq!(answer.status, status, "{origin} at {host}");
    }
    let encrypted = ["X-Forwarded-Proto: https", &bearer];
    let signed_in = ask(&served, "POST", "/api/signin", &encrypted).await;
    assert!(header(&signed_in, "set-cookie").ends_with("; secure"), "{}", signed_in.head);

    for (hosts, origins) in [
        (vec!["http://a.example"], vec![]),
        (vec!["a b"], vec![]),
        (vec![""], vec![]),
        (vec![], vec!["a.example"]),
        (vec![], vec!["https://a.example/"]),
        (vec![], vec!["https://"]),
    ] {
        let own = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let access = Access { hosts: own(hosts), origins: own(origins), ..Access::default() };
        assert!(matches!(access.check(), Err(Error::BadName { .. })), "{access:?}");
    }
}

/// An address of this machine that is not loopback: what a datagram to elsewhere would be sent from. None is sent.
fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[tokio::test]
async fn an_address_has_its_share_of_connections() {
    let Some(own) = own_address() else {
        println!("skipped: this machine has loopback addresses only");
        return;
    };
    let config = ServerConfig { max_connections_per_address: 2, ..guarded() };
    let served = Served::start_at("0.0.0.0:0".parse().unwrap(), config).await;
    let address = (own, served.address.port()).into();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let first = open(address, request.as_bytes()).await;
    let second = open(address, request.as_bytes()).await;
    assert!(first.0.starts_with("HTTP/1.1 200") && second.0.starts_with("HTTP/1.1 200"), "{first:?}");
    let third = exchange(address, request.as_bytes(), false).await;
    assert_eq!((third.status, third.code().as_str(), header(&third, "retry-after")), (429, "too_many", "1"));
    assert_eq!(header(&third, "connection"), "close");
    assert_eq!(ask(&served, "GET", "/healthz", &[]).await.status, 200, "by loopback there is no end of them");
    drop(first);
    // Freed when the server has seen the end of it.
    while exchange(address, request.as_bytes(), true).await.status != 200 {}
}

#[tokio::test]
async fn who_has_its_share_of_connections_leaves_the_others_theirs() {
    let Some(own) = own_address() else {
        println!("skipped: this machine has loopback addresses only");
        return;
    };
    // No connection ends by itself while this runs, unless it is one too many.
    let config = ServerConfig {
        max_connections: 4,
        max_connections_per_address: 2,
        header_deadline: Duration::from_secs(600),
        ..guarded()
    };
    let served = Served::start_at("0.0.0.0:0".parse().unwrap(), config).await;
    let address = SocketAddr::from((own, served.address.port()));
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let _held = [open(address, request.as_bytes()).await, open(address, request.as_bytes()).await];
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let others = async {
        assert_eq!(ask(&served, "GET", "/healthz", &[]).await.status, 200);
        for mut stream in silent {
            assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0, "it never asked");
        }
    };
    timeout(Duration::from_secs(60), others).await.expect("others are served, and silent ones sent away");
}

#[tokio::test]
async fn an_address_has_its_share_of_viewers() {
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let config = ServerConfig { max_viewers_per_address: 1, ..with(Access { proxies, ..Access::default() }) };
    let served = Served::start(config).await;
    let upgrade = async |from: &str| {
        let headers = [
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            &format!("X-Forwarded-For: {from}"),
        ];
        let mut request = format!("GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: upgrade\r\n", served.address);
        for header in headers {
            request += &format!("{header}\r\n");
        }
        open(served.address, (request + "\r\n").as_bytes()).await
    };
    let (first, _held) = upgrade("9.9.9.9").await;
    assert!(first.starts_with("HTTP/1.1 101"), "{first}");
    let (second, _) = upgrade("9.9.9.9").await;
    assert!(second.starts_with("HTTP/1.1 429") && second.contains("retry-after"), "{second}");
    let (other, _also_held) = upgrade("9.9.9.8").await;
    assert!(other.starts_with("HTTP/1.1 101"), "{other}");
    // The same machine without a proxy's words may have as many as it likes.
    let _here = [served.connect(Kind::H264).await, served.connect(Kind::H264).await];
}
