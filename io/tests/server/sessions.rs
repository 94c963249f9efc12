//! Sessions that come and go: who gets a place, who waits for one, and what is left when somebody hangs up.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc as blocking},
    time::Duration,
};

use acdit_io::{
    Client, Control, Error, Event, Hub, Kind, MAIN, Opened, Refusal, Reply, Request, ServerConfig,
    ServerMessage, Session, Sessions, Wanted, WorldInfo, WorldSource, serve_sessions,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{connect_async, tungstenite};

use crate::harness::{Answer, Idle, exchange, info, next_packet, packet};

/// What the server asks of the one who makes sessions.
enum Told {
    Open(String, Wanted, Hub),
    Control(String, Control, Reply),
    Gone(String),
    Ended(String),
}

/// Makes sessions that do nothing. Each comes, and each goes, when the gate's other end is used or gone.
struct Maker {
    told: mpsc::UnboundedSender<Told>,
    gate: Gate,
}

#[derive(Clone)]
struct Gate(Arc<Mutex<blocking::Receiver<()>>>);

impl Gate {
    fn pass(&self) {
        let _ = self.0.lock().unwrap().recv_timeout(Duration::from_secs(10));
    }
}

struct Guest {
    id: String,
    told: mpsc::UnboundedSender<Told>,
    gate: Gate,
}

impl WorldSource for Guest {
    fn info(&self) -> WorldInfo {
        info()
    }
    fn control(&self, control: Control, reply: Reply) {
        let _ = self.told.send(Told::Control(self.id.clone(), control, reply));
    }
    fn request_keyframe(&self) {}
    fn viewers(&self, _: usize, _: usize) {}
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.gate.pass();
        let _ = self.told.send(Told::Gone(self.id.clone()));
    }
}

impl Sessions for Maker {
    fn open_all(&self, all: &[(String, Wanted)]) -> Result<Vec<Opened>, Refusal> {
        let open = |(id, wanted): &(String, Wanted)| {
            if wanted.steps == Some(0) {
                return Err(Refusal::new("bad_input", "no steps"));
            }
            let hub = Hub::new(Duration::from_secs(1));
            let _ = self.told.send(Told::Open(id.to_owned(), wanted.clone(), hub.clone()));
            self.gate.pass();
            let guest = Guest { id: id.to_owned(), told: self.told.clone(), gate: self.gate.clone() };
            Ok((Arc::new(guest) as Arc<dyn WorldSource>, hub))
        };
        all.iter().map(open).collect()
    }

    fn ended(&self, id: &str) {
        let _ = self.told.send(Told::Ended(id.to_owned()));
    }
}

/// A server of many sessions.
pub(crate) struct House {
    address: SocketAddr,
    told: mpsc::UnboundedReceiver<Told>,
    /// Sessions come and go when this is gone.
    gate: Option<blocking::Sender<()>>,
}

impl House {
    pub(crate) async fn open(config: ServerConfig) -> Self {
        let mut house = Self::closed(config).await;
        house.gate.take();
        house
    }

    async fn closed(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ((told, heard), (gate, opened)) = (mpsc::unbounded_channel(), blocking::channel());
        let maker = Arc::new(Maker { told, gate: Gate(Arc::new(Mutex::new(opened))) });
        let (source, hub) = (Arc::new(Idle), Hub::new(Duration::from_secs(1)));
        let main = Session { id: MAIN.to_owned(), source, hub, private: false, unattended: false };
        let others = Vec::new();
        tokio::spawn(serve_sessions(listener, main, others, Some(maker), config, std::future::pending()));
        Self { address, told: heard, gate: Some(gate) }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> impl Future<Output = Answer> + use<> {
        let (address, length) = (self.address, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        async move { exchange(address, request.as_bytes(), false).await }
    }

    pub(crate) async fn opened(&mut self) -> (String, Hub) {
        let (id, _, hub) = self.begun().await;
        (id, hub)
    }

    /// The session that begins next, and what was asked for.
    pub(crate) async fn begun(&mut self) -> (String, Wanted, Hub) {
        match self.told.recv().await.unwrap() {
            Told::Open(id, wanted, hub) => (id, wanted, hub),
            Told::Control(id, control, _) => panic!("{id} is asked for {control:?}"),
            Told::Gone(id) | Told::Ended(id) => panic!("{id} has ended"),
        }
    }

    /// What is asked next of a session.
    pub(crate) async fn asked(&mut self) -> (String, Control, Reply) {
        match self.told.recv().await.unwrap() {
            Told::Control(id, control, reply) => (id, control, reply),
            Told::Open(id, ..) => panic!("{id} begins"),
            Told::Gone(id) | Told::Ended(id) => panic!("{id} has ended"),
        }
    }

    /// The session that ends next; its source must be gone before.
    pub(crate) async fn ended(&mut self) -> String {
        let Some(Told::Gone(gone)) = self.told.recv().await else { panic!("nothing has gone") };
        let Some(Told::Ended(ended)) = self.told.recv().await else { panic!("nothing has ended") };
        assert_eq!(gone, ended);
        ended
    }

    /// Sends a form's parts: names, and what they hold.
    pub(crate) fn send_form(&self, parts: &[(&str, &[u8])]) -> impl Future<Output = Answer> + use<> {
        let mut body = Vec::new();
        for (name, bytes) in parts {
            let file = if *name == "clip" { "; filename=\"../../etc/clip.mp4\"" } else { "" };
            let head = format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
            body.extend([head.as_bytes(), bytes, b"\r\n"].concat());
        }
        body.extend(b"--edge--\r\n");
        self.send_body("multipart/form-data; boundary=edge", body)
    }

    pub(crate) fn send_body(&self, kind: &str, body: Vec<u8>) -> impl Future<Output = Answer> + use<> {
        let (address, length) = (self.address, body.len());
        let head = format!("POST /api/sessions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        let head = format!("{head}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
        async move { exchange(address, &[head.into_bytes(), body].concat(), false).await }
    }

    pub(crate) async fn watch(&self, id: &str) -> Client {
        Client::connect(&self.url(id), Kind::H264).await.unwrap()
    }

    pub(crate) fn url(&self, id: &str) -> String {
        format!("ws://{}/ws/{id}", self.address)
    }
}

/// Waits until the viewer is told that its session has ended.
async fn sent_away(mut viewer: Client) {
    let end = loop {
        if let Err(end) = viewer.next().await {
            break end;
        }
    };
    assert!(matches!(end, Error::Closed { code: 1001, .. }), "{end}");
}

/// Reads an answer of many lines as it comes.
struct Waiting(BufReader<TcpStream>);

impl Waiting {
    async fn begin(address: SocketAddr) -> Self {
        let body = r#"{"wait": true}"#;
        let length = body.len();
        let request = format!(
            "POST /api/sessions HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(BufReader::new(stream))
    }

    /// The next JSON object, whatever of HTTP is around it.
    async fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the line goes on");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn who_does_not_fit_waits_and_is_told_its_place() {
    let house = House::open(ServerConfig { max_sessions: 1, ..ServerConfig::default() }).await;
    let ask = async |method: &str, path: &str, body: &str| house.ask(method, path, body).await;
    assert_eq!(ask("POST", "/api/sessions", r#"{"steps": 0}"#).await.status, 422);
    let begun = ask("POST", "/api/sessions", r#"{"wait": true}"#).await;
    assert_eq!(begun.status, 201, "the place of the refused one is free again");
    let full = ask("POST", "/api/sessions", "").await;
    assert_eq!((full.status, full.code().as_str()), (429, "full"));

    let place = |line: Value| line["place"].as_u64();
    let mut first = Waiting::begin(house.address).await;
    assert_eq!(place(first.next().await), Some(1));
    let mut second = Waiting::begin(house.address).await;
    assert_eq!(place(second.next().await), Some(2));
    let mut third = Waiting::begin(house.address).await;
    assert_eq!(place(third.next().await), Some(3));
    drop(second);
    assert_eq!(place(third.next().await), Some(2), "one before it left");

    let end = async |session: &Value| {
        let path = format!("/api/sessions/{}", session["session"].as_str().unwrap());
        assert_eq!(ask("DELETE", &path, "").await.status, 204);
    };
    end(&begun.json()).await;
    let session = first.next().await;
    assert_eq!(place(third.next().await), Some(1));
    end(&session).await;
    let last = third.next().await;
    assert!(last["session"].is_string() && last["session"] != session["session"]);
    assert_eq!(ask("GET", "/api/sessions", "").await.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_fork_outlives_the_session_that_it_left() {
    let mut house = House::open(ServerConfig::default()).await;
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201);
    let (parent, _) = house.opened().await;
    let mut viewer = house.watch(&parent).await;
    let asked = viewer.request(Request::Fork { block: 0 }).await.unwrap();
    let (fork, hub) = house.opened().await;
    loop {
        match viewer.next().await.unwrap() {
            Event::Message(ServerMessage::Applied { id, session, .. }) if id == asked => {
                break assert_eq!(session.as_ref(), Some(&fork));
            }
            _ => {}
        }
    }
    let mut of_fork = house.watch(&fork).await;
    assert_eq!(house.ask("DELETE", &format!("/api/sessions/{parent}"), "").await.status, 204);
    assert_eq!(house.ended().await, parent);
    sent_away(viewer).await;

    hub.publish(&packet(0, true));
    assert_eq!(next_packet(&mut of_fork).await, packet(0, true));
    assert_eq!(next_packet(&mut house.watch(&fork).await).await, packet(0, true));
}

#[tokio::test]
async fn a_session_that_nobody_waits_for_is_ended_and_its_place_is_free_again() {
    // One connection at a time: another is served when the one before it is gone.
    let config = ServerConfig { max_sessions: 1, max_connections: 1, ..ServerConfig::default() };
    let mut house = House::closed(config).await;
    let mut leaver = TcpStream::connect(house.address).await.unwrap();
    let head = format!("POST /api/sessions HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", house.address);
    leaver.write_all(head.as_bytes()).await.unwrap();
    let (left, _) = house.opened().await;
    drop(leaver);
    let full = house.ask("POST", "/api/sessions", "").await;
    assert_eq!((full.status, full.code().as_str()), (429, "full"), "the world is still making it");
    house.gate.take();
    assert_eq!(house.ended().await, left);
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201);
}

#[tokio::test]
async fn a_fork_whose_viewer_left_is_ended() {
    let mut house = House::closed(ServerConfig::default()).await;
    let mut viewer = house.watch(MAIN).await;
    viewer.request(Request::Fork { block: 0 }).await.unwrap();
    let (fork, _) = house.opened().await;
    drop(viewer);
    while house.ask("GET", "/api/sessions/main", "").await.json()["viewers"] != 0 {}
    house.gate.take();
    assert_eq!(house.ended().await, fork);
    let listed = house.ask("GET", "/api/sessions", "").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test]
async fn a_private_session_has_one_viewer_even_before_its_hello() {
    let mut house = House::open(ServerConfig::default()).await;
    assert_eq!(house.ask("POST", "/api/sessions", r#"{"private": true}"#).await.status, 201);
    let (id, _) = house.opened().await;
    let url = house.url(&id);
    let (silent, _) = connect_async(&url).await.unwrap();
    let Err(tungstenite::Error::Http(response)) = connect_async(&url).await else { panic!("let in") };
    assert_eq!(response.status(), tungstenite::http::StatusCode::FORBIDDEN);
    let body: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    assert_eq!(body["code"], "private");
    drop(silent);
    while Client::connect(&url, Kind::H264).await.is_err() {}
}

#[tokio::test]
async fn the_fields_of_a_session_must_be_short_and_come_soon() {
    let config = ServerConfig { header_deadline: Duration::from_millis(200), ..ServerConfig::default() };
    let house = House::open(config).await;
    let ask = async |headers: &str, body: &str| {
        let head = format!("POST /api/sessions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", house.address);
        exchange(house.address, format!("{head}{headers}\r\n\r\n{body}").as_bytes(), false).await
    };
    let never = ask("Content-Length: 10", "").await;
    assert_eq!((never.status, never.code().as_str()), (408, "too_slow"));
    let announced = ask("Content-Length: 16385", "").await;
    assert_eq!((announced.status, announced.code().as_str()), (413, "too_large"));
    let unannounced = format!("4001\r\n{}\r\n0\r\n\r\n", " ".repeat(16385));
    let unannounced = ask("Transfer-Encoding: chunked", &unannounced).await;
    assert_eq!((unannounced.status, unannounced.code().as_str()), (413, "too_large"));
    let padded = format!("{}{{}}", " ".repeat(16382));
    assert_eq!(house.ask("POST", "/api/sessions", &padded).await.status, 201);
}

#[tokio::test]
async fn a_place_is_free_when_its_watched_session_is_gone_and_nobody_else_waits_for_that() {
    let mut house = House::closed(ServerConfig { max_sessions: 1, ..ServerConfig::default() }).await;
    house.gate.as_ref().unwrap().send(()).unwrap();
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201);
    let (id, _) = house.opened().await;
    let viewer = house.watch(&id).await;
    let deleting = tokio::spawn(house.ask("DELETE", &format!("/api/sessions/{id}"), ""));
    sent_away(viewer).await;
    let full = house.ask("POST", "/api/sessions", "").await;
    assert_eq!((full.status, full.code().as_str()), (429, "full"), "the world is still dropping it");
    assert!(!deleting.is_finished());
    house.gate.take();
    assert_eq!(house.ended().await, id);
    assert_eq!(deleting.await.unwrap().status, 204);
    assert_eq!(house.ask("POST", "/api/sessions", "").await.status, 201);
}
