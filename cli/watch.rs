//! `watch`: a viewer without a browser, who measures what reaches it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use acdit_io::{Caller, Client, Event, Kind, Packet, ServerMessage, State};
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tokio::time::{sleep_until, timeout};

use crate::cadence::{Arrival, Cadence, Figures};
use crate::exposure::TokenArgs;
use crate::failure::Failed;
use crate::glass::{Glass, Split};
use crate::output::{self, Output};
use crate::recording::Recording;
use crate::signals::Ending;
use crate::steering::{Steered, Steering};

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "\
A frame is on time if it is there when a player one block behind would show it.

Examples:
  acdit-world watch                                      # until Ctrl-C
  acdit-world watch --seconds 30 --out seen.mp4
  acdit-world watch --seconds 30 --glass                 # of serve --barcode: where the latency is
  acdit-world watch --seconds 60 --steer                 # how soon a label is seen
  acdit-world watch ws://example.org:8080/ws --token-file token --json")]
pub(crate) struct Watch {
    #[command(flatten)]
    stream: Stream,
    /// Seconds to watch [default: until Ctrl-C]
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Keep what was seen as an MP4 file
    #[arg(long, value_name = "FILE.mp4")]
    out: Option<PathBuf>,
    /// Decode the pictures and read when they were begun and encoded: from `serve --barcode` on this machine, or one whose
    /// clock agrees
    #[arg(long)]
    glass: bool,
    /// Change the label again and again, and measure how soon it is seen
    #[arg(long)]
    steer: bool,
}

/// What is watched.
#[derive(Clone, Debug, Args)]
pub(crate) struct Stream {
    /// The server's WebSocket
    #[arg(default_value = "ws://127.0.0.1:8080/ws")]
    url: String,
    #[command(flatten)]
    credentials: Credentials,
}

/// What a server of others asks for.
#[derive(Clone, Debug, Args)]
pub(crate) struct Credentials {
    #[command(flatten)]
    token: TokenArgs,
    /// Certificate authority to trust beside this machine's own, PEM: for wss:// with a certificate of one's own
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// A server and how to make oneself known to it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) caller: Caller,
}

impl Stream {
    /// Reads what it asks for.
    pub(crate) fn server(self) -> anyhow::Result<Server> {
        self.credentials.server(self.url)
    }
}

impl Credentials {
    /// Reads them for the server at `url`.
    pub(crate) fn server(self, url: String) -> anyhow::Result<Server> {
        let mut caller = Caller::default();
        if let Some(token) = self.token.read()? {
            caller = caller.with_token(&token)?;
        }
        if let Some(authority) = &self.tls_ca {
            caller = caller.trusting(authority)?;
        }
        Ok(Server { url, caller })
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(parsed).map_err(|_| "expected seconds, 0 or more".to_owned())
}

#[derive(Debug, Serialize)]
struct Watched {
    world: String,
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    glass: Option<Split>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steered: Option<Steered>,
    out: Option<PathBuf>,
}

impl Watch {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let server = self.stream.server()?;
        runtime()?.block_on(async {
            let mut ending = Ending::listen()?;
            let asked = Instant::now();
            let mut client = connect(&server).await?;
            let mut viewer = Viewer::new(&client, asked);
            let info = client.info().clone();
            let bar = output::progress(0, "frames");
            let end = self.seconds.map(|seconds| asked + seconds);
            let mut recording = self.out.clone().map(|path| Recording::new(path, &info));
            let mut glass = self.glass.then(|| Glass::new(&info, client.state())).transpose()?;
            let mut steering = self.steer.then(|| Steering::new(info.labels.len()));
            let lost = loop {
                let change = steering.as_ref().map(Steering::due);
                tokio::select! {
                    () = ending.asked() => break None,
                    () = until(end) => break None,
                    () = until(change.flatten()) => {
                        if let Some(steering) = &mut steering {
                            match client.request(steering.ask()).await {
                                Ok(id) => steering.sent(id, Instant::now()),
                                Err(error) => break Some(error),
                            }
                        }
                    }
                    event = client.next() => match event {
                        Ok(event) => {
                            if let (Event::Packet(packet), Some(recording)) = (&event, &mut recording) {
                                recording.add(packet)?;
                            }
                            match (&mut glass, &event) {
                                (Some(glass), Event::Packet(packet)) => glass.frame(packet),
                                (Some(glass), Event::Message(ServerMessage::State(state))) => glass.state(state),
                                _ => {}
                            }
                            viewer.see(&event);
                            if let Some(steering) = &mut steering {
                                steering.see(&event, Instant::now());
                            }
                            let (frames, late) = viewer.seen.counts();
                            bar.set_position(frames);
                            bar.set_message(format!("frames, {late} late, {}", viewer.says()));
                        }
                        Err(error) => break Some(error),
                    },
                }
            };
            bar.finish_and_clear();
            if let Some(recording) = recording {
                recording.finish()?;
            }
            let figures = viewer.seen.figures();
            let glass = glass.map(|glass| glass.split()).transpose()?;
            let mut text = format!("{}\n{}", info.world, figures.text());
            if let Some(glass) = &glass {
                text = format!("{text}\n{}", glass.text());
            }
            let steered = steering.map(Steering::steered);
            if let Some(steered) = &steered {
                text = format!("{text}\n{}", steered.text());
            }
            output.print(&Watched { world: info.world, figures, glass, steered, out: self.out }, || text)?;
            match lost {
                Some(error) => Err(Failed(format!("{}: {error}", server.url)).into()),
                None => Ok(()),
            }
        })
    }
}

/// What reaches a viewer.
pub(crate) struct Viewer {
    pub(crate) seen: Cadence,
    labels: Vec<String>,
    /// How far behind the first frame a player is: a block.
    slack: Duration,
    block: u64,
    label: usize,
}

impl Viewer {
    pub(crate) fn new(client: &Client, asked: Instant) -> Self {
        let info = client.info();
        let mut seen = Cadence::asked(asked);
        seen.state(client.state());
        let slack = f64::from(info.frames_per_block) / info.frames_per_second;
        Self {
            seen,
            labels: info.labels.iter().map(|label| label.name.clone()).collect(),
            slack: Duration::try_from_secs_f64(slack).unwrap_or_default(),
            block: 0,
            label: 0,
        }
    }

    pub(crate) fn see(&mut self, event: &Event) -> Arrival {
        match event {
            Event::Packet(packet) => {
                let Packet { header, .. } = packet;
                (self.block, self.label) = (header.block, header.label as usize);
                self.seen.frame(packet, self.slack, Instant::now())
            }
            Event::Message(ServerMessage::Gap { dropped }) => self.seen.gap(*dropped),
            Event::Message(ServerMessage::State(state @ State { .. })) => {
                self.seen.state(state);
                Arrival::default()
            }
            _ => Arrival::default(),
        }
    }

    fn says(&self) -> String {
        let label = self.labels.get(self.label).map_or("?", String::as_str);
        format!("block {}, {label}", self.block)
    }
}

pub(crate) async fn connect(Server { url, caller }: &Server) -> anyhow::Result<Client> {
    let connected = timeout(PATIENCE, Client::connect_as(caller, url, Kind::H264)).await;
    let connected = connected.with_context(|| format!("{url}: no answer in {} s", PATIENCE.as_secs()))?;
    connected.with_context(|| url.to_owned())
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
