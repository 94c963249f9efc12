//! `serve`: a world in the browser.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use acdit_io::{LabelInfo, ServerConfig, WindowInfo, WorldInfo};
use acdit_runtime::{Engine, MAX_BATCH, MAX_STREAMS, StreamConfig, WindowMode};
use anyhow::{Context, bail};
use clap::Args;

use crate::drain;
use crate::exposure::{Exposure, ExposureArgs};
use crate::film::{self, Wanted};
use crate::output::Output;
use crate::publish::{self, Publishers, Targets, Text};
use crate::recorder::Place;
use crate::sessions::{self, House, Saving, State, fingerprint};
use crate::signals::Ending;
use crate::source::moments;
use crate::uploads::{UploadArgs, Uploads};
use crate::world::{Loaded, WorldArgs};

/// Tasks that wait for sockets need little; the cores are for the model.
const SERVER_THREADS: usize = 2;

/// Pixels down at which the page shows a world.
const DISPLAY_HEIGHT: u32 = 512;

#[derive(Debug, Args)]
#[command(after_help = "\
Only this machine can connect, unless --host names another address: then callers need a token. Ctrl-C or SIGTERM ends it, a
second one at once.

Examples:
  acdit-world serve                                  # the shipped world on http://127.0.0.1:8080
  acdit-world serve --port 9000 --steps 4            # fewer denoising steps: faster, rougher
  acdit-world serve --state sessions                 # goes on where it was, even after a crash
  acdit-world serve --publish rtmp://127.0.0.1/live/world --publish hls   # and to others' servers
  acdit-world serve --host 0.0.0.0 --token auto      # for other machines; prints the address with its token
  acdit-world serve --recordings films               # the page can record; `replay` computes a film again
  acdit-world serve --weights weights/xl --device cuda --window-mode recompute")]
pub(crate) struct Serve {
    /// Address to listen on; one that is not loopback needs a token
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Seed of the first stream
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Sessions at a time, the one on the page included; at most 16
    #[arg(long, default_value_t = MAX_STREAMS as u16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_STREAMS as i64))]
    max_sessions: u16,
    /// Sessions computed in one batch
    #[arg(long, default_value_t = MAX_BATCH as u16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_STREAMS as i64))]
    max_batch: u16,
    /// Keep sessions here: a server that starts with it goes on with all of them
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Push the main session here too: rtmp(s)://, srt://, rtsp://, a folder for HLS, or a .mp4, .mkv or .ts file; may be
    /// given several times, or several separated by commas
    #[arg(long, value_name = "URL|PATH", value_delimiter = ',', hide_default_value = true)]
    publish: Vec<Text>,
    /// Record sessions into here when their viewers ask for it: MP4, and a log to compute it again
    #[arg(long, value_name = "DIR")]
    recordings: Option<PathBuf>,
    /// Most that all recordings may take, in megabytes: one that reaches it ends
    #[arg(long, value_name = "MB", default_value_t = 10_000, requires = "recordings", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    recordings_mb: u64,
    #[command(flatten)]
    exposure: ExposureArgs,
    /// Write the times at which a block was begun and encoded into its pictures, for `watch --glass`
    #[arg(long)]
    barcode: bool,
    #[command(flatten)]
    uploads: UploadArgs,
    #[command(flatten)]
    world: WorldArgs,
}

impl Serve {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let exposure = self.exposure.read()?;
        let listener = self.listen(&exposure)?;
        let max_sessions = self.max_sessions;
        let address = listener.local_addr()?;
        let targets = Targets::parse(&self.publish)?;
        let loaded = self.world.load()?;
        let settings = self.world.sampling.settings(&loaded.world, self.seed);
        let (info, clip) = describe(&loaded, &settings)?;
        let Loaded { folder, world, vae } = loaded;
        let weights = match self.state.is_some() || self.recordings.is_some() {
            true => fingerprint(&folder)?,
            false => String::new(),
        };
        let kept = |folder: PathBuf, flag: &str| {
            std::fs::create_dir_all(&folder).with_context(|| format!("{flag} {}", folder.display()))?;
            anyhow::Ok((folder, weights.clone()))
        };
        let state = self.state.map(|folder| kept(folder, "--state")).transpose()?;
        let state = state.map(|(folder, weights)| State::lock(folder, weights)).transpose()?;
        let recordings = self.recordings.map(|folder| kept(folder, "--recordings")).transpose()?;
        if recordings.is_some() && !cfg!(feature = "video") {
            bail!("--recordings: this build cannot write clips (feature `video`)");
        }
        let limit = self.recordings_mb * 1_000_000;
        let recordings = recordings.map(|(folder, weights)| Arc::new(Place::new(folder, weights, limit)));
        let films = recordings.as_ref().map(|place| place.folder().to_owned());
        let engine = Engine::start_batching(world, vae, self.max_batch.into())?;
        let mut config = StreamConfig { settings, ..engine.config(self.seed) };
        config.encoder.display = film::enlarged(engine.frame());
        config.encoder.barcode = self.barcode;
        if !targets.is_empty() {
            config.encoder.keyframe_interval = publish::keyframe_interval(config.encoder.frames_per_second);
        }
        let uploads = Arc::new(Uploads::new(clip, self.uploads));
        let live = Mutex::default();
        let house = Arc::new(House { engine, config, info, uploads, state, recordings, live });
        let (main, others) = house.furnish()?;
        // Dropped after the server and all that it holds.
        let _saving = house.state.is_some().then(|| Saving::begin(&house)).transpose()?;
        let source = Arc::downgrade(&main.source);
        let ask = move || {
            if let Some(source) = source.upgrade() {
                source.request_keyframe();
            }
        };
        let publishers = Publishers::start(targets, &main.hub, &main.source.info(), ask)?;

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(SERVER_THREADS)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let ending = Ending::listen()?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let config = exposure.config();
            let readiness = config.readiness.clone();
            exposure.announce(address, output)?;
            drain::ready(&house);
            let config = ServerConfig {
                max_sessions: usize::from(max_sessions) - 1,
                recordings: films,
                shutdown_deadline: drain::CLOSING,
                ..config
            };
            // Saved while the sessions are still there: the server drops them when it has ended.
            let saving = house.clone();
            let farewell = move || {
                saving.end_recordings();
                saving.save_all();
                publishers.end();
            };
            let asked = drain::asked(ending, readiness, farewell);
            acdit_io::serve_sessions(listener, main, others, Some(house), config, asked).await?;
            Ok(())
        })
    }

    /// Takes the port before the model is loaded: a port in use is said at once.
    fn listen(&self, exposure: &Exposure) -> anyhow::Result<TcpListener> {
        let (host, port) = (self.host.as_str(), self.port);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let mut found = (bare, port).to_socket_addrs().with_context(|| format!("--host {host}"))?;
        let address: SocketAddr = found.next().with_context(|| format!("--host {host}: no address"))?;
        exposure.suits(address)?;
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
    }
}

/// What viewers are told of the world, and what is taken of their clips.
fn describe(loaded: &Loaded, settings: &acdit_runtime::Settings) -> anyhow::Result<(WorldInfo, Wanted)> {
    let Loaded { folder, world, vae } = loaded;
    let size = acdit_runtime::frame_size(world, vae)?;
    let frames_per_block = world.model.config().frames_per_block;
    let meta = &world.meta;
    let encoded = film::enlarged(size);
    let factor = DISPLAY_HEIGHT.div_ceil(encoded.height).max(1);
    let info = WorldInfo {
        world: meta.name.clone(),
        weights: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        labels: (meta.labels.iter())
            .map(|label| LabelInfo { name: label.name.clone(), key: label.key.clone() })
            .collect(),
        frames_per_second: meta.fps,
        frame: acdit_io::Size { width: encoded.width, height: encoded.height },
        input: acdit_io::Size { width: size.width, height: size.height },
        display: acdit_io::Size { width: encoded.width * factor, height: encoded.height * factor },
        frames_per_block: frames_per_block as u32,
        codec: String::new(),
        window: WindowInfo {
            blocks: settings.window as u32,
            mode: match settings.mode {
                WindowMode::Recompute => "recompute".to_owned(),
                WindowMode::Windowed => "windowed".to_owned(),
            },
        },
        sampling: sessions::sampling(&settings.sampling),
        reference: world.reference().map(moments),
    };
    let frames = settings.window * frames_per_block as usize;
    Ok((info, Wanted { size, frames_per_second: meta.fps, frames }))
}
