//! A server that is killed, and goes on.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use acdit_io::{Client, Event, Kind};
use tokio::time::{sleep, timeout};

use crate::judge::{Verdict, median};
use crate::server::{Server, ask, json};

/// Asked of a server: the first frame so long after it has said its address.
const FIRST_FRAME: f64 = 3.0;
/// A log is on disk by then.
const WRITTEN: Duration = Duration::from_secs(1);
/// No first frame takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills and starts for `time`, twice at least.
pub(crate) async fn keep(server: &mut Server, folder: &Path, time: Duration) -> Vec<Verdict> {
    let address = server.address();
    let (status, body) = ask(address, "POST", "/api/sessions", br#"{"unattended":true,"seed":1}"#).await;
    assert_eq!(status, 201, "{body}");
    let (begun, mut first, mut lost) = (Instant::now(), Vec::new(), Vec::new());
    while begun.elapsed() < time || first.len() < 2 {
        show(address).await;
        let before = logs(address).await;
        sleep(WRITTEN).await;
        server.kill_and_start(folder);
        let ready = Instant::now();
        timeout(PATIENCE, show(address)).await.expect("a frame within a minute");
        first.push(ready.elapsed().as_secs_f64());
        let after = logs(address).await;
        let kept = |(id, log): &(String, String)| after.iter().any(|(i, l)| i == id && l.starts_with(log));
        lost.extend(before.iter().filter(|entry| !kept(entry)).map(|(id, _)| id.clone()));
    }
    let longest = first.iter().copied().fold(0.0, f64::max);
    vec![
        Verdict {
            good: lost.is_empty(),
            says: format!("{} kills; sessions that lost something of their logs: {lost:?}", first.len()),
        },
        Verdict {
            good: median(&first) <= FIRST_FRAME,
            says: format!(
                "first frame {:.2} s after the server was ready (median), {longest:.2} s at most",
                median(&first)
            ),
        },
    ]
}

/// Waits until a viewer has seen a frame.
async fn show(address: SocketAddr) {
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::H264).await.unwrap();
    while !matches!(client.next().await.unwrap(), Event::Packet(_)) {}
    client.close().await.unwrap();
}

/// Every session and its log.
async fn logs(address: SocketAddr) -> Vec<(String, String)> {
    let mut logs = Vec::new();
    for session in json(address, "/api/sessions").await.as_array().unwrap() {
        let id = session["session"].as_str().unwrap().to_owned();
        let (status, log) = ask(address, "GET", &format!("/api/sessions/{id}/log"), b"").await;
        assert_eq!(status, 200, "{log}");
        logs.push((id, log));
    }
    logs
}
