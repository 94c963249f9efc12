//! Watches a running world from a program: steers it, counts frames, and can keep the video.
//!
//! ```text
//! make serve                                                      # in one terminal
//! cargo run --release --example watch_client -- 40 watched.h264   # in another; then: ffplay watched.h264
//! ```
//!
//! Arguments: blocks to watch (20), a file for the H.264 stream (none), the address (ws://127.0.0.1:8080/ws).

use std::{fs::File, io::Write, time::Instant};

use acdit_io::{Client, Event, Kind, Request, ServerMessage};

/// Blocks for which each label is held.
const HOLD: u64 = 4;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let blocks: u64 = arguments.next().map_or(Ok(20), |blocks| blocks.parse())?;
    let mut file = arguments.next().map(File::create).transpose()?;
    let url = arguments.next().unwrap_or_else(|| "ws://127.0.0.1:8080/ws".into());

    let mut client = Client::connect(&url, Kind::H264).await?;
    let labels = client.info().labels.clone();
    println!(
        "{}: {} labels, {} frames/s",
        client.info().world,
        labels.len(),
        client.info().frames_per_second
    );

    let first = client.state().block;
    let (mut due, mut frames) = (first, 0_u64);
    let mut turns = (0_u32..).zip(&labels).cycle();
    let mut asked = None;
    let start = Instant::now();
    loop {
        match client.next().await? {
            Event::Packet(packet) => {
                frames += 1;
                let block = packet.header.block;
                if let Some(file) = &mut file {
                    file.write_all(&packet.payload)?;
                }
                if block >= first + blocks {
                    break;
                }
                if block >= due
                    && let Some((index, label)) = turns.next()
                {
                    let id = client.request(Request::Label { index }).await?;
                    asked = Some((id, &label.name));
                    due = block + HOLD;
                }
            }
            Event::Message(ServerMessage::Applied { id, block, .. }) => {
                if let Some((_, name)) = asked.filter(|(asked, _)| *asked == id) {
                    println!("{name} applied at block {block}");
                }
            }
            Event::Message(ServerMessage::Refused { code, message, .. }) => {
                println!("refused: {message} ({code})")
            }
            Event::Message(ServerMessage::Gap { dropped }) => println!("too slow: {dropped} packets missed"),
            _ => {}
        }
    }
    println!("{frames} frames, {:.1} frames/s", frames as f64 / start.elapsed().as_secs_f64());
    client.close().await?;
    Ok(())
}
