//! A world that a test plays by hand, behind a real server on a real socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use acdit_io::{
    Client, Control, Error, Event, Header, Hub, Kind, LabelInfo, Moments, Packet, Reply, SamplingInfo,
    ServerConfig, ServerMessage, Size, WindowInfo, WorldInfo, WorldSource, serve,
};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Everything the server asks of a world, in order.
#[derive(Debug)]
pub(crate) enum Asked {
    Control(Control, Reply),
    Keyframe,
    Viewers(usize, usize),
}

struct FakeWorld(mpsc::UnboundedSender<Asked>);

impl WorldSource for FakeWorld {
    fn info(&self) -> WorldInfo {
        info()
    }

    fn control(&self, control: Control, reply: Reply) {
        let _ = self.0.send(Asked::Control(control, reply));
    }

    fn request_keyframe(&self) {
        let _ = self.0.send(Asked::Keyframe);
    }

    fn viewers(&self, h264: usize, jpeg: usize) {
        let _ = self.0.send(Asked::Viewers(h264, jpeg));
    }
}

pub(crate) fn info() -> WorldInfo {
    let label = |name: &str, key: &str| LabelInfo { name: name.into(), key: Some(key.into()) };
    WorldInfo {
        world: "test".into(),
        weights: "none".into(),
        labels: vec![label("none", "0"), label("down", "ArrowDown"), label("up", "ArrowUp")],
        frames_per_second: 8.0,
        frame: Size { width: 64, height: 64 },
        input: Size { width: 16, height: 8 },
        display: Size { width: 512, height: 512 },
        frames_per_block: 4,
        codec: "avc1.42E01E".into(),
        window: WindowInfo { blocks: 3, mode: "windowed".into() },
        sampling: SamplingInfo { steps: 10, guidance: 2.5, max_steps: 50 },
        reference: Some(Moments { mean: 0.125, deviation: 0.75 }),
    }
}

/// A running server and the strings of its world.
pub(crate) struct Served {
    pub(crate) hub: Hub,
    pub(crate) address: SocketAddr,
    asked: mpsc::UnboundedReceiver<Asked>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

impl Served {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), config).await
    }

    pub(crate) async fn start_at(address: SocketAddr, config: ServerConfig) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let hub = Hub::new(Duration::from_secs(1));
        let (asked, questions) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, Arc::new(FakeWorld(asked)), hub.clone(), config, shutdown));
        Self { hub, address, asked: questions, stop: Some(stop), task }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub(crate) async fn connect(&self, kind: Kind) -> Client {
        Client::connect(&self.url(), kind).await.unwrap()
    }

    /// The next control, passing over everything else.
    pub(crate) async fn control(&mut self) -> (Control, Reply) {
        loop {
            if let Asked::Control(control, reply) = self.asked.recv().await.unwrap() {
                return (control, reply);
            }
        }
    }

    /// Waits until the server asks for a keyframe.
    pub(crate) async fn keyframe_wanted(&mut self) {
        while !matches!(self.asked.recv().await.unwrap(), Asked::Keyframe) {}
    }

    /// Waits until the server reports so many viewers.
    pub(crate) async fn viewers(&mut self, h264: usize, jpeg: usize) {
        while !matches!(self.asked.recv().await.unwrap(), Asked::Viewers(h, j) if (h, j) == (h264, jpeg)) {}
    }

    /// Asks the server to stop.
    pub(crate) fn begin_stop(&mut self) {
        self.stop.take();
    }

    /// Stops the server and waits for it.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        self.begin_stop();
        self.task.await.unwrap()
    }
}

pub(crate) fn packet(frame: u64, keyframe: bool) -> Packet {
    packet_of(frame, keyframe, 16)
}

/// A packet at 8 frames per second with a payload of `bytes` bytes.
pub(crate) fn packet_of(frame: u64, keyframe: bool, bytes: usize) -> Packet {
    let header = Header {
        kind: Kind::H264,
        keyframe,
        generated: true,
        injected: false,
        generation: 0,
        frame,
        pts: frame * 125_000,
        block: frame / 4,
        label: 1,
    };
    Packet { header, payload: Bytes::from(vec![frame as u8; bytes]) }
}

pub(crate) async fn next_packet(client: &mut Client) -> Packet {
    loop {
        if let Event::Packet(packet) = client.next().await.unwrap() {
            return packet;
        }
    }
}

pub(crate) async fn next_message(client: &mut Client) -> ServerMessage {
    loop {
        if let Event::Message(message) = client.next().await.unwrap() {
            return message;
        }
    }
}

/// A world that does nothing.
pub(crate) struct Idle;

impl WorldSource for Idle {
    fn info(&self) -> WorldInfo {
        info()
    }
    fn control(&self, _: Control, _: Reply) {}
    fn request_keyframe(&self) {}
    fn viewers(&self, _: usize, _: usize) {}
}

/// An HTTP response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn code(&self) -> String {
        let body = self.json();
        assert!(body["error"].is_string() && body["request_id"].is_string(), "{body}");
        body["code"].as_str().unwrap().to_owned()
    }
}

/// Sends a request verbatim, half-closes if asked to, and reads to the end.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8], half_close: bool) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and stop reading before all of a refused body is sent.
    let _ = stream.write_all(request).await;
    if half_close {
        stream.shutdown().await.unwrap();
    }
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        bytes.extend_from_slice(&part[..read]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Sends a request, reads the head of its answer, and keeps the connection.
pub(crate) async fn open(address: SocketAddr, request: &[u8]) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap(), stream)
}
