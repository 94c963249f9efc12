//! `publish`, and `serve --publish`: a stream, as it is encoded for viewers anyway, to where others watch.
//!
//! Both take it from a hub, as a viewer of it: its bounded queue drops to a keyframe when a target is slow, and nobody
//! else notices. The verb fills a hub of its own from a server's WebSocket.

mod back_off;
#[cfg_attr(not(feature = "video"), allow(dead_code, reason = "nothing is published"))]
mod clock;
#[cfg(feature = "video")]
mod publisher;
#[cfg(not(feature = "video"))]
#[path = "publish/without_video.rs"]
mod publisher;

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use acdit_io::{Client, Event, Hub, Request, WorldInfo};
use anyhow::bail;
use clap::Args;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use self::back_off::BackOff;
use self::publisher::{Publisher, Target};
use crate::output::Output;
use crate::signals::Ending;
use crate::watch::{self, Credentials, Server};

/// Seconds from one keyframe to the next in a stream that is published: what ingests of others ask for, and what an HLS
/// segment begins with.
const KEYFRAME_SECONDS: f64 = 2.0;

/// How long a server may send nothing before it is asked whether it is there, and then again before it counts as gone.
const SILENCE: Duration = Duration::from_secs(10);

/// All targets together are waited for so long: a name server that does not answer holds a thread without asking us.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a target's queue may hold of the stream, at least; then it drops to a keyframe.
const MAX_LAG: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "\
Targets: rtmp://, rtmps://, srt://, rtsp://, a folder for HLS (its playlist is stream.m3u8), or a file
ending in .mp4, .mkv or .ts. A target that is gone is tried again, after 1 s at first and at most 30 s.

Examples:
  acdit-world publish rtmp://127.0.0.1/live/world
  acdit-world publish hls seen.mkv --from ws://127.0.0.1:9000/ws")]
pub(crate) struct Publish {
    /// Where to
    #[arg(value_name = "URL|PATH", required = true)]
    targets: Vec<Text>,
    /// The server's WebSocket
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    from: String,
    #[command(flatten)]
    credentials: Credentials,
}

/// A target as it was typed. It may hold a password, so it is never printed.
#[derive(Clone)]
pub(crate) struct Text(String);

impl FromStr for Text {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Frames from one keyframe to the next.
pub(crate) fn keyframe_interval(frames_per_second: f64) -> u32 {
    (frames_per_second * KEYFRAME_SECONDS).round().max(1.0) as u32
}

/// Where to publish, checked as far as it can be before anything is sent.
pub(crate) struct Targets(Vec<Target>);

impl Targets {
    pub(crate) fn parse(texts: &[Text]) -> anyhow::Result<Self> {
        let target = |text: &Text| {
            // The rest of an address that had a comma in it, which would become a folder of that name.
            if text.0.contains('=') && !text.0.contains("://") {
                bail!("a target is neither an address nor a path: in an address, a comma is written %2C");
            }
            Ok(Target::parse(&text.0)?)
        };
        Ok(Self(texts.iter().map(target).collect::<Result<_, _>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What became of the stream on its way to one target.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(not(feature = "video"), allow(dead_code, reason = "nothing is published"))]
pub(crate) struct Published {
    target: String,
    frames: u64,
    /// Packets left out because the target was slow or gone.
    dropped: u64,
    /// How often the target was reached.
    connections: u64,
}

/// One thread for each target.
pub(crate) struct Publishers(Vec<Publisher>);

impl Publishers {
    /// Begins to publish what comes to `hub`; `ask` asks for a keyframe.
    pub(crate) fn start(
        targets: Targets,
        hub: &Hub,
        info: &WorldInfo,
        ask: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let start = |target| Publisher::start(target, hub.clone(), info, Box::new(ask.clone()));
        Ok(Self(targets.0.into_iter().map(start).collect::<Result<_, _>>()?))
    }

    /// Ends every target's stream properly, as far as that goes in a few seconds.
    pub(crate) fn end(self) -> Vec<Published> {
        self.0.iter().for_each(Publisher::ask_to_end);
        let deadline = Instant::now() + PATIENCE;
        self.0.into_iter().map(|publisher| publisher.wait(deadline)).collect()
    }
}

impl Publish {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let targets = Targets::parse(&self.targets)?;
        let server = self.credentials.server(self.from)?;
        watch::runtime()?.block_on(async {
            let mut ending = Ending::listen()?;
            let mut client = tokio::select! {
                client = watch::connect(&server) => client?,
                () = ending.asked() => return Ok(()),
            };
            let hub = Hub::new(max_lag(client.info()));
            // The protocol has no word for it; a server sends one every few seconds.
            let publishers = Publishers::start(targets, &hub, client.info(), || {})?;
            tokio::select! {
                () = relay(&mut client, &server, &hub) => {}
                () = ending.asked() => {}
            }
            let published = tokio::task::spawn_blocking(|| publishers.end()).await?;
            let line = |Published { target, frames, dropped, connections }: &Published| {
                format!("{target}: {frames} frames, {dropped} dropped, {connections} connections")
            };
            let text = published.iter().map(line).collect::<Vec<_>>().join("\n");
            output.print(&serde_json::json!({ "published": published }), || text)
        })
    }
}

/// Hands on what a server sends, for ever: a connection that is lost is made again.
async fn relay(client: &mut Client, server: &Server, hub: &Hub) {
    let mut back_off = BackOff::default();
    loop {
        match heard(client).await {
            Ok(Event::Packet(packet)) => {
                back_off.reset();
                hub.publish(&packet);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("{}: {error}", server.url);
                *client = again(server, &mut back_off).await;
            }
        }
    }
}

/// What a server sends next. One that is silent is asked whether it is there: a world may be paused, a network may be gone.
async fn heard(client: &mut Client) -> Result<Event, acdit_io::Error> {
    if let Ok(event) = timeout(SILENCE, client.next()).await {
        return event;
    }
    client.request(Request::Ping).await?;
    let gone = || std::io::Error::new(std::io::ErrorKind::TimedOut, "the server is silent");
    timeout(SILENCE, client.next()).await.map_err(|_| gone())?
}

/// Connects again, however long that takes.
async fn again(server: &Server, back_off: &mut BackOff) -> Client {
    loop {
        let wait = back_off.next();
        tracing::info!("{}: trying again in {:.1} s", server.url, wait.as_secs_f64());
        sleep(wait).await;
        match watch::connect(server).await {
            Ok(client) => return client,
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

fn max_lag(info: &WorldInfo) -> Duration {
    let block = f64::from(info.frames_per_block) / info.frames_per_second;
    Duration::try_from_secs_f64(2.0 * block).unwrap_or_default().max(MAX_LAG)
}
