//! All that viewers and programs can make a server do, again and again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use acdit_io::{Client, Event, Kind, Request, ServerMessage};
use serde_json::Value;

use crate::judge::{Memory, Verdict};
use crate::server::{Server, ask};

/// Sessions begun in a round, beside one that is forked.
const BEGUN: usize = 2;
/// Frames watched in a round.
const FRAMES: usize = 16;

/// Rounds for `time`: what the server held after each, and whether all was done.
pub(crate) async fn keep(server: &Server, folder: &Path, time: Duration) -> (Memory, Verdict) {
    let clip = clip(folder);
    let (begun, mut held, mut refused) = (Instant::now(), Vec::new(), Vec::new());
    while begun.elapsed() < time {
        refused.extend(round(server.address(), &clip, held.len()).await.err());
        held.push(server.resident());
    }
    let says = format!("{} rounds, {} of them refused: {:?}", held.len(), refused.len(), refused.first());
    (Memory(held), Verdict { good: refused.is_empty(), says })
}

/// A second of moving pictures.
fn clip(folder: &Path) -> Vec<u8> {
    let path = folder.join("clip.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=16:d=1", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "the ffmpeg command makes a clip");
    std::fs::read(path).unwrap()
}

/// What was refused, if anything.
async fn round(address: SocketAddr, clip: &[u8], number: usize) -> Result<(), String> {
    let expect = |what: &str, wanted: u16, (status, body): (u16, String)| {
        if status == wanted { Ok(body) } else { Err(format!("{what}: {status} {body}")) }
    };
    let mut sessions = Vec::new();
    for index in 0..BEGUN {
        let wanted = format!(r#"{{"unattended":true,"label":{},"seed":{number}}}"#, index + 1);
        let body = expect("begin", 201, ask(address, "POST", "/api/sessions", wanted.as_bytes()).await)?;
        let begun: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        sessions.push(begun["session"].as_str().unwrap_or_default().to_owned());
    }
    sessions.push(steer(address, number).await.map_err(|error| error.to_string())?);
    expect("clip", 200, ask(address, "POST", "/api/clip", clip).await)?;
    for session in sessions {
        let path = format!("/api/sessions/{session}");
        expect("log", 200, ask(address, "GET", &format!("{path}/log"), b"").await)?;
        expect("end", 204, ask(address, "DELETE", &path, b"").await)?;
    }
    Ok(())
}

/// Steers the main session and forks it; returns the fork's id.
async fn steer(address: SocketAddr, number: usize) -> Result<String, acdit_io::Error> {
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::H264).await?;
    let (mut frames, mut newest) = (0, 0);
    while frames < FRAMES {
        if let Event::Packet(packet) = client.next().await? {
            (frames, newest) = (frames + 1, packet.header.block);
        }
    }
    let asked = [
        Request::Label { index: number as u32 % 5 },
        Request::Seed { seed: number as u64 },
        Request::Pause,
        Request::Step,
        Request::Resume,
        Request::Rewind { block: newest },
    ];
    for request in asked {
        let id = client.request(request).await?;
        client.applied(id).await?;
    }
    let id = client.request(Request::Fork { block: newest }).await?;
    let fork = loop {
        match client.next().await? {
            Event::Message(ServerMessage::Applied { id: to, session: Some(session), .. }) if to == id => {
                break session;
            }
            Event::Message(ServerMessage::Refused { code, message, .. }) => {
                return Err(acdit_io::Error::Refused { code, message });
            }
            _ => {}
        }
    };
    let id = client.request(Request::Restart { seed: Some(number as u64) }).await?;
    client.applied(id).await?;
    client.close().await?;
    Ok(fork)
}
