//! All that viewers and programs can make a server do, again and again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use acdit_io::{Client, Event, Kind, Request, ServerMessage, Size};
use serde_json::Value;

use crate::judge::{Memory, Verdict};
use crate::server::{Server, ask, json};

/// Sessions begun in a round, beside one that is forked.
const BEGUN: usize = 2;
/// Frames watched in a round.
const FRAMES: usize = 16;

/// Times that as many sessions are begun and ended before memory is looked at. Every thread leaves some of its pages with the
/// allocator; after some twenty times there is room for all that come.
const WARM: usize = 24;

/// Rounds for `time`: what the server held after each, and whether all was done.
pub(crate) async fn keep(server: &Server, folder: &Path, time: Duration) -> (Memory, Verdict) {
    let clip = clip(folder);
    for _ in 0..WARM {
        let mut sessions = Vec::new();
        for number in 0..=BEGUN {
            sessions.push(begin(server.address(), number).await.unwrap());
        }
        for session in sessions {
            end(server.address(), &session).await.unwrap();
        }
    }
    let (begun, mut held, mut refused) = (Instant::now(), Vec::new(), Vec::new());
    while begun.elapsed() < time {
        refused.extend(round(server.address(), &clip, held.len()).await.err());
        clear(server.address()).await;
        held.push(server.resident());
    }
    let says = format!("{} rounds, {} of them refused: {:?}", held.len(), refused.len(), refused.first());
    (Memory(held), Verdict { good: refused.is_empty(), says })
}

/// Ends whatever a round that was refused has left.
async fn clear(address: SocketAddr) {
    for session in json(address, "/api/sessions").await.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        if id != acdit_io::MAIN {
            end(address, id).await.unwrap();
        }
    }
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

fn expect(what: &str, wanted: u16, (status, body): (u16, String)) -> Result<String, String> {
    if status == wanted { Ok(body) } else { Err(format!("{what}: {status} {body}")) }
}

/// Begins a session; returns its id.
async fn begin(address: SocketAddr, number: usize) -> Result<String, String> {
    let wanted = format!(r#"{{"unattended":true,"label":{},"seed":{number}}}"#, number % 5);
    let body = expect("begin", 201, ask(address, "POST", "/api/sessions", wanted.as_bytes()).await)?;
    let begun: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    Ok(begun["session"].as_str().unwrap_or_default().to_owned())
}

async fn end(address: SocketAddr, session: &str) -> Result<(), String> {
    expect("end", 204, ask(address, "DELETE", &format!("/api/sessions/{session}"), b"").await).map(drop)
}

/// What was refused, if anything.
async fn round(address: SocketAddr, clip: &[u8], number: usize) -> Result<(), String> {
    let mut sessions = Vec::new();
    for index in 0..BEGUN {
        sessions.push(begin(address, number + index).await?);
    }
    sessions.push(steer(address, number).await.map_err(|error| error.to_string())?);
    expect("clip", 200, ask(address, "POST", "/api/clip", clip).await)?;
    for session in sessions {
        expect("log", 200, ask(address, "GET", &format!("/api/sessions/{session}/log"), b"").await)?;
        end(address, &session).await?;
    }
    Ok(())
}

/// Steers the main session and forks it; returns the fork's id.
async fn steer(address: SocketAddr, number: usize) -> Result<String, acdit_io::Error> {
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::H264).await?;
    let (generation, mut frames, mut newest) = (client.state().generation, 0, 0);
    while frames < FRAMES {
        // What nobody watched was not encoded: the newest keyframe may be of an older generation.
        if let Event::Packet(packet) = client.next().await?
            && packet.header.generation >= generation
        {
            (frames, newest) = (frames + 1, packet.header.block);
        }
    }
    let (Size { width, height }, whole) = (client.info().input, client.info().frames_per_block as u8);
    for count in [whole, 1] {
        let pixels = vec![number as u8; usize::from(count) * (width * height * 3) as usize];
        let id = client.inject(count, pixels.into()).await?;
        client.applied(id).await?;
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
