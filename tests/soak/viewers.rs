//! Viewers: those that keep up, one that does not, and a line that stutters.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use acdit_io::{ClientMessage, Kind, Packet, Request, ServerMessage, VERSION};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::judge::Verdict;
use crate::server;

/// All connect at once; what they see meanwhile is no one's pace.
const SETTLING: Duration = Duration::from_secs(2);
/// What is asked of the server: to cut off a viewer so long after the first packet that it misses.
const EVICTED: Duration = Duration::from_secs(10);
/// Room for the clock with which this is watched.
const WATCHED: Duration = Duration::from_millis(250);

/// What many viewers saw at the same time.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Between successive frames, in seconds, all viewers together.
    gaps: Vec<f64>,
    /// Packets that the server left out.
    pub(crate) dropped: u64,
}

impl Window {
    pub(crate) fn p99(&self) -> f64 {
        let mut gaps = self.gaps.clone();
        gaps.sort_by(f64::total_cmp);
        gaps[(gaps.len() * 99).div_ceil(100) - 1]
    }
}

/// So many viewers of a server, connected by way of `via`, for `time`.
pub(crate) async fn window(server: SocketAddr, via: SocketAddr, viewers: usize, time: Duration) -> Window {
    let mut watching = JoinSet::new();
    for _ in 0..viewers {
        watching.spawn(watch(server, via, time));
    }
    let mut all = Window::default();
    while let Some(seen) = watching.join_next().await {
        let seen = seen.unwrap();
        all.gaps.extend(seen.gaps);
        all.dropped += seen.dropped;
    }
    all
}

async fn watch(server: SocketAddr, via: SocketAddr, time: Duration) -> Window {
    let (begun, mut seen, mut last) = (Instant::now(), Window::default(), None);
    let mut socket = say_hello(server, via, false).await;
    loop {
        let message = tokio::select! {
            message = socket.next() => message.expect("the server goes on").unwrap(),
            () = sleep_until((begun + time).into()) => return seen,
        };
        match message {
            Message::Binary(packet) if begun.elapsed() > SETTLING => {
                Packet::decode(packet).unwrap();
                let now = Instant::now();
                seen.gaps.extend(last.replace(now).map(|last| (now - last).as_secs_f64()));
            }
            Message::Text(text) => {
                if let ServerMessage::Gap { dropped } = serde_json::from_str(&text).unwrap() {
                    seen.dropped += dropped;
                }
            }
            _ => {}
        }
    }
}

/// A viewer of the main session, once there is a seat for it: those of the window before may not have left yet.
async fn say_hello(server: SocketAddr, via: SocketAddr, narrow: bool) -> WebSocketStream<TcpStream> {
    let mut socket = loop {
        let stream = connect(via, narrow).await;
        match client_async(format!("ws://{server}/ws"), stream).await {
            Ok((socket, _)) => break socket,
            Err(tungstenite::Error::Http(answer)) if answer.status() == 503 => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let hello =
        ClientMessage { id: 1, request: Request::Hello { version: VERSION.into(), kind: Kind::H264 } };
    socket.send(Message::text(serde_json::to_string(&hello).unwrap())).await.unwrap();
    socket
}

/// One viewer that reads nothing after its hello, watched from outside: when it misses the first packet, when it is gone.
pub(crate) async fn stall(address: SocketAddr, time: Duration) -> Verdict {
    sleep(SETTLING).await;
    let _unread = say_hello(address, address, true).await;
    let stalled = Instant::now();
    let (mut before, mut missed, mut there) = (None, None, 0);
    while stalled.elapsed() + SETTLING < time {
        let stream = server::json(address, "/info").await["stream"].clone();
        let (dropped, viewers) = (stream["dropped"].as_u64().unwrap(), stream["viewers"].as_u64().unwrap());
        let before = *before.get_or_insert(dropped);
        if missed.is_none() && dropped > before {
            missed = Some(stalled.elapsed());
        }
        there = there.max(viewers);
        if let (Some(missed), true) = (missed, viewers < there) {
            let gone = stalled.elapsed();
            let says = format!(
                "the stalled viewer missed its first packet after {missed:.1?} and was cut off after {gone:.1?}; {} \
                 packets dropped for it",
                dropped - before
            );
            return Verdict { good: gone - missed <= EVICTED + WATCHED, says };
        }
        sleep(Duration::from_millis(100)).await;
    }
    Verdict { good: false, says: format!("the stalled viewer was still there after {:?}", stalled.elapsed()) }
}

/// A connection; a narrow one takes as little as the kernel lets it while nobody reads.
async fn connect(address: SocketAddr, narrow: bool) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if narrow {
        socket.set_recv_buffer_size(4096).unwrap();
    }
    socket.connect(address).await.unwrap()
}

/// Seconds for which the proxy lets everything through, and then holds it back.
const STUTTER: u64 = 3;

/// As [`window`], behind a proxy that stutters: far worse than a machine that is too small for its load makes everybody wait.
pub(crate) async fn through_a_stuttering_line(server: SocketAddr, viewers: usize, time: Duration) -> Window {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = tokio::spawn(async move {
        let begun = Instant::now();
        while let Ok((viewer, _)) = listener.accept().await {
            tokio::spawn(stutter(viewer, server, begun));
        }
    });
    let seen = window(server, address, viewers, time).await;
    proxy.abort();
    seen
}

async fn stutter(viewer: TcpStream, server: SocketAddr, begun: Instant) -> std::io::Result<()> {
    let (mut from_viewer, mut to_viewer) = viewer.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let up = async { tokio::io::copy(&mut from_viewer, &mut to_server).await.map(drop) };
    let down = async {
        let mut part = vec![0; 64 << 10];
        loop {
            let read = from_server.read(&mut part).await?;
            if read == 0 {
                return Ok(());
            }
            while begun.elapsed().as_secs() / STUTTER % 2 == 1 {
                sleep(Duration::from_millis(20)).await;
            }
            to_viewer.write_all(&part[..read]).await?;
        }
    };
    tokio::select! { ended = up => ended, ended = down => ended }
}
