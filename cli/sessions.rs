//! The sessions of `serve`: one engine, a stream for each, and a folder for each where `--state` names one.

mod begin;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use acdit_io::{Hub, MAIN, Opened, Refusal, SamplingInfo, Session, Sessions, Wanted, WorldInfo, WorldSource};
use acdit_model::write_atomically;
use acdit_runtime::{Beginning, Engine, Sampling, Stream, StreamConfig, Timeline};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::recorder::{Place, Recorder};
use crate::source::{Saved, StreamSource, announce, announce_next, publish};
use crate::uploads::Uploads;

/// How often what is new in logs is written: what a crash costs at most.
const LOG_EVERY: Duration = Duration::from_millis(250);

/// Logs are written so often before sessions are saved whole: the blocks since are computed again at a restart.
const LOGS_PER_SAVE: u32 = 20;

/// Beside each snapshot: how its session is served, and with which weights it was made.
const SERVED: &str = "served.json";

/// Denoising steps that a session may ask for, unless the server was started with more: all wait for the slowest.
const MOST_STEPS: u32 = 50;

/// How sessions begin to sample, and how far they may go.
pub(crate) fn sampling(begin: &Sampling) -> SamplingInfo {
    let steps = u32::try_from(begin.steps).unwrap_or(u32::MAX);
    SamplingInfo { steps, guidance: begin.guidance, max_steps: MOST_STEPS.max(steps) }
}

/// Makes streams on one engine.
pub(crate) struct House {
    pub(crate) engine: Engine,
    /// What a session runs with unless it asks for something else.
    pub(crate) config: StreamConfig,
    pub(crate) info: WorldInfo,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) state: Option<State>,
    pub(crate) recordings: Option<Arc<Place>>,
    pub(crate) live: Mutex<BTreeMap<String, Weak<StreamSource>>>,
}

/// Where sessions are kept over restarts.
pub(crate) struct State {
    pub(crate) folder: PathBuf,
    /// Fingerprint of the weights: sessions of others cannot go on.
    pub(crate) weights: String,
    /// Held open, and so locked, for as long as this process lives.
    _lock: File,
}

impl State {
    /// Takes the folder for this process alone: two that save there would undo each other's work.
    pub(crate) fn lock(folder: PathBuf, weights: String) -> anyhow::Result<Self> {
        let path = folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| path.display().to_string())?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("--state {}: another server saves its sessions there", folder.display())
            }
            // There are file systems without locks.
            Err(TryLockError::Error(error)) => tracing::warn!("{}: not locked: {error}", path.display()),
        }
        Ok(Self { folder, weights, _lock: lock })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Served {
    private: bool,
    unattended: bool,
    weights: String,
}

impl Served {
    fn read(folder: &Path, weights: &str) -> anyhow::Result<Self> {
        let path = folder.join(SERVED);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let served: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        if served.weights != weights {
            bail!("{}: made with other weights", path.display());
        }
        Ok(served)
    }
}

/// A session in the state folder.
struct Kept {
    id: String,
    folder: PathBuf,
    served: Served,
}

/// Reads the weights once over.
pub(crate) fn fingerprint(weights: &Path) -> anyhow::Result<String> {
    let file = weights.join("transformer/diffusion_pytorch_model.safetensors");
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(&file).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.with_context(|| file.display().to_string())?;
    Ok(hasher.finalize().to_hex().to_string())
}

impl House {
    /// The main session and all others that were saved; the main one is made if there is none.
    pub(crate) fn furnish(&self) -> anyhow::Result<(Session, Vec<Session>)> {
        let saved = self.saved()?;
        let folders = saved.iter().map(|saved| saved.folder.clone()).collect();
        let (mut main, mut others) = (None, Vec::new());
        for (Kept { id, served, .. }, timeline) in saved.into_iter().zip(self.engine.restore(folders)?) {
            let whole = timeline.map_err(anyhow::Error::from);
            let session = whole.and_then(|timeline| self.go_on(&id, served, timeline));
            let session = session.with_context(|| format!("session {id}"))?;
            match id == MAIN {
                true => main = Some(session),
                false => others.push(session),
            }
        }
        let main = match main {
            Some(main) => main,
            None => {
                let (source, hub) = self.begin(MAIN, &self.config, Beginning::New, true)?;
                self.note(MAIN, false, false)?;
                Session { id: MAIN.to_owned(), source, hub, private: false, unattended: false }
            }
        };
        Ok((main, others))
    }

    /// The sessions in the state folder, by name.
    fn saved(&self) -> anyhow::Result<Vec<Kept>> {
        let Some(State { folder, weights, .. }) = &self.state else { return Ok(Vec::new()) };
        let mut saved = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("--state {}", folder.display()))? {
            let entry = entry?;
            let folder = entry.path();
            if !folder.join(SERVED).is_file() {
                continue;
            }
            let id = entry.file_name().to_string_lossy().into_owned();
            let served = Served::read(&folder, weights).with_context(|| format!("session {id}"))?;
            saved.push(Kept { id, folder, served });
        }
        saved.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(saved)
    }

    fn go_on(&self, id: &str, served: Served, timeline: Timeline) -> anyhow::Result<Session> {
        let (source, hub) = self.begin(id, &self.config, Beginning::Same(Box::new(timeline)), true)?;
        source.save_if_changed()?;
        let Served { private, unattended, .. } = served;
        Ok(Session { id: id.to_owned(), source, hub, private, unattended })
    }

    /// Opens a stream and lets its packets and states go to a hub. It is `kept` over restarts if others are.
    fn begin(
        &self,
        id: &str,
        config: &StreamConfig,
        beginning: Beginning,
        kept: bool,
    ) -> anyhow::Result<(Arc<StreamSource>, Hub)> {
        let Stream { handle, packets, states } = self.engine.open_from(config, beginning)?;
        let block = self.engine.frames_per_block() as f64 / self.engine.meta().fps;
        let hub = Hub::new(Duration::from_secs_f64((2.0 * block).max(1.0)));
        let recorder = Arc::new(Recorder::new(self.recordings.clone()));
        spawn("publish", {
            let (hub, recorder) = (hub.clone(), recorder.clone());
            move || publish(&packets, &recorder, &hub)
        })?;
        // An open stream has told its state; whoever connects first must not find the hub's empty one.
        announce_next(&states, &hub);
        spawn("announce", {
            let hub = hub.clone();
            move || announce(&states, &hub)
        })?;
        let info = WorldInfo { codec: handle.codec().unwrap_or_default().to_owned(), ..self.info.clone() };
        let source = Arc::new(StreamSource {
            id: id.to_owned(),
            hub: hub.clone(),
            recorder,
            handle: Arc::new(handle),
            info,
            uploads: self.uploads.clone(),
            saved: Mutex::new(Saved::to(
                self.state.as_ref().filter(|_| kept).map(|state| state.folder.join(id)),
            )),
        });
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(id.to_owned(), Arc::downgrade(&source));
        Ok((source, hub))
    }

    /// Writes down how a session is served, where there is a place for it, after its first snapshot.
    fn note(&self, id: &str, private: bool, unattended: bool) -> anyhow::Result<()> {
        let Some(State { folder, weights, .. }) = &self.state else { return Ok(()) };
        if let Some(source) = self.find(id) {
            source.save_if_changed()?;
        }
        let path = folder.join(id).join(SERVED);
        let served = Served { private, unattended, weights: weights.clone() };
        Ok(write_atomically(&path, &serde_json::to_vec(&served)?)?)
    }

    fn find(&self, id: &str) -> Option<Arc<StreamSource>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.upgrade()
    }

    /// Whether the engine answers for the main session, which is always there.
    pub(crate) fn answers(&self) -> bool {
        self.find(MAIN).is_some_and(|source| source.handle.timeline().is_ok())
    }

    /// Saves what has changed.
    pub(crate) fn save_all(&self) {
        self.each(StreamSource::save_if_changed);
    }

    /// Ends all recordings, and waits until they are whole.
    pub(crate) fn end_recordings(&self) {
        self.sources().iter().for_each(|source| source.recorder.finish());
    }

    fn sources(&self) -> Vec<Arc<StreamSource>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.values().filter_map(Weak::upgrade).collect()
    }

    /// Holds one at a time: a session that ends meanwhile gives its place in the engine back at once.
    fn each(&self, save: impl Fn(&StreamSource) -> acdit_runtime::Result<()>) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let sources: Vec<_> = live.values().cloned().collect();
        drop(live);
        for source in sources.iter().filter_map(Weak::upgrade) {
            if let Err(error) = save(&source) {
                tracing::error!("a session is not saved: {error}");
            }
        }
    }
}

impl Sessions for House {
    fn open_all(&self, wanted: &[(String, Wanted)]) -> Result<Vec<Opened>, Refusal> {
        match self.make_all(wanted) {
            Ok(made) => {
                Ok(made.into_iter().map(|(source, hub)| (source as Arc<dyn WorldSource>, hub)).collect())
            }
            Err(error) => {
                wanted.iter().for_each(|(id, _)| self.ended(id));
                Err(begin::refusal(error))
            }
        }
    }

    fn ended(&self, id: &str) {
        let source = self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        // A save that is under way ends first, and none begins any more.
        if let Some(source) = source.and_then(|source| source.upgrade()) {
            source.forget();
        }
        if let Some(State { folder, .. }) = &self.state {
            let folder = folder.join(id);
            // first what makes the folder a session: what a crash leaves of it then is none
            let _ = std::fs::remove_file(folder.join(SERVED));
            if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::error!("{}: {error}", folder.display());
            }
        }
    }
}

/// Saves now and then, until it is dropped.
pub(crate) struct Saving {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Saving {
    /// Begins to save what is new in `house`.
    pub(crate) fn begin(house: &Arc<House>) -> std::io::Result<Self> {
        // Not kept alive from here between two saves.
        let house = Arc::downgrade(house);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("save".to_owned()).spawn(move || {
            for tick in 1_u32.. {
                if stopped.recv_timeout(LOG_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let Some(house) = house.upgrade() else { return };
                match tick % LOGS_PER_SAVE {
                    0 => house.save_all(),
                    _ => house.each(StreamSource::save_log),
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Saving {
    /// Waits for a save under way, which may hold the engine's last handle: if the process ended first, libtorch would be taken
    /// apart under the engine's thread.
    fn drop(&mut self) {
        self.stop.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that saves sessions panicked");
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(())
}
