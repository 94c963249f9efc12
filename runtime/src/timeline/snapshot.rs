//! A session on disk: `session.json`, one safetensors file, and `log.jsonl`.
//!
//! The log only ever grows; the snapshot says how many of its lines it has seen. The tensors are written under a name of their
//! own; the JSON, which names them, replaces the old one last. So whatever interrupts a save, the folder holds one whole
//! snapshot, and what the lines after it tell is computed again when the session is restored.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use acdit_model::{Error as ModelError, weights, write_atomically};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::replay::{Follower, follow_all};
use super::{Entry, Kept, Log, Stamp, Timeline, read_log, write_log};
use crate::batch::Row;
use crate::error::caught;
use crate::session::check_sampling;
use crate::window::Window;
use crate::{Error, Result, Session, Settings, World};

const VERSION: u32 = 1;
const MANIFEST: &str = "session.json";
const LOG: &str = "log.jsonl";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    stamp: Stamp,
    /// The safetensors file beside this one.
    tensors: String,
    /// [`Session::state_hash`].
    state_hash: String,
    label: i64,
    paused: bool,
    session: Saved,
    anchors: Vec<Saved>,
    kept: Vec<SavedBlock>,
    /// Lines of the log that led here.
    lines: usize,
}

/// A session without its window's tensors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    settings: Settings,
    index: u64,
    blocks: usize,
    layers: usize,
}

/// A kept block without its tokens.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedBlock {
    label: i64,
    settings: Settings,
    row: Row,
    #[serde(default)]
    injected: usize,
}

/// Saves a session to a folder, again and again.
#[derive(Debug)]
pub struct Saver {
    folder: PathBuf,
    /// Lines and bytes of the log that are on disk for certain.
    lines: usize,
    bytes: u64,
    /// Lines that the newest snapshot has seen.
    snapshot: usize,
}

impl Saver {
    /// The first save replaces whatever is in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, lines: 0, bytes: 0, snapshot: 0 }
    }

    /// Saves the session with its past, unless nothing has happened since it was saved. A clone of a session may be saved
    /// on another thread while the session goes on. Returns whether it was saved.
    ///
    /// # Errors
    /// [`Error::Model`] for files that cannot be written, [`Error::Library`] where memory is out.
    pub fn save(&mut self, timeline: &Timeline, world: &Stamp) -> Result<bool> {
        // Lines, bytes and snapshot are noted once they are on disk: a panic in between leaves them true.
        caught(|| self.save_whole(timeline, world))
    }

    fn save_whole(&mut self, timeline: &Timeline, world: &Stamp) -> Result<bool> {
        if self.snapshot == timeline.log.len() {
            return Ok(false);
        }
        std::fs::create_dir_all(&self.folder).map_err(|error| ModelError::io(&self.folder, error))?;
        self.save_log(timeline)?;
        let mut tensors = BTreeMap::new();
        let session = put(&mut tensors, "session", &timeline.session);
        let anchors = timeline.anchors.iter().enumerate();
        let anchors = anchors.map(|(at, session)| put(&mut tensors, &anchor(at), session)).collect();
        if !timeline.kept.is_empty() {
            let tokens: Vec<Tensor> =
                timeline.kept.iter().map(|kept| kept.tokens.to_device(Device::Cpu)).collect();
            tensors.insert(KEPT.to_owned(), Tensor::cat(&tokens, 0));
        }
        let state_hash = timeline.session.state_hash()?.to_hex().to_string();
        // Every change of the session is a line of its log: no two snapshots have one name.
        let name = format!("{}-{}.safetensors", self.lines, &state_hash[..16]);
        remove_partial(&self.folder); // of saves that failed: a full disk should not fill up with them
        // f32 holds bf16 exactly
        weights::write(&self.folder.join(&name), &tensors, Kind::Float)?;
        let kept = timeline.kept.iter().map(|kept| SavedBlock {
            label: kept.label,
            settings: kept.settings,
            row: kept.row,
            injected: kept.injected,
        });
        let manifest = Manifest {
            version: VERSION,
            stamp: world.clone(),
            tensors: name.clone(),
            state_hash,
            label: timeline.label,
            paused: timeline.paused,
            session,
            anchors,
            kept: kept.collect(),
            lines: self.lines,
        };
        let path = self.folder.join(MANIFEST);
        let text = serde_json::to_vec(&manifest).map_err(|error| bad(&path, error))?;
        write_atomically(&path, &text)?;
        remove_older(&self.folder, &name);
        self.snapshot = self.lines;
        Ok(true)
    }

    /// Adds what is new to the log on disk: much less than saving the session.
    ///
    /// # Errors
    /// [`Error::Model`] for a file that cannot be written; its whole lines stay.
    pub fn save_log(&mut self, timeline: &Timeline) -> Result<()> {
        use std::io::{Seek as _, SeekFrom, Write as _};

        let (path, lines) = (self.folder.join(LOG), timeline.log.len());
        if self.lines == lines {
            return Ok(());
        }
        let text = write_log(timeline.log.since(self.lines));
        let append = || {
            let mut file = std::fs::File::options().write(true).open(&path)?;
            file.set_len(self.bytes)?; // without the half line of a write that failed
            file.seek(SeekFrom::End(0))?;
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        match self.lines {
            0 => write_atomically(&path, text.as_bytes())?,
            _ => append().map_err(|error| ModelError::io(&path, error))?,
        }
        (self.lines, self.bytes) = (lines, self.bytes + text.len() as u64);
        Ok(())
    }
}

impl Timeline {
    /// Reads what a [`Saver`] wrote. Lines that do not lead to the blocks they tell of are passed
    /// over: then the session is as it was when it was saved. So it is in a process that computes other bits (another dtype,
    /// device, libtorch or number of threads): its log says from where on ([`Entry::Moved`]).
    ///
    /// # Errors
    /// [`Error::Snapshot`] for a folder that is not a snapshot of a session of this world.
    pub fn restore(world: &World, folder: &Path) -> Result<Self> {
        Self::restore_all(world, &[folder.into()]).remove(0)
    }

    /// As [`Self::restore`], of several: what was computed in one batch is computed again in one, where it can be.
    pub fn restore_all(world: &World, folders: &[PathBuf]) -> Vec<Result<Self>> {
        let read: Vec<Result<(Self, Vec<Entry>)>> =
            folders.iter().map(|folder| caught(|| Self::read(world, folder))).collect();
        let followers =
            read.iter().flatten().map(|(saved, rest)| Follower::new(saved.clone(), rest)).collect();
        let mut newest = follow_all(world, followers).into_iter();
        (read.into_iter().zip(folders))
            .map(|(read, folder)| {
                let (saved, _) = read?;
                Ok(newest.next().expect("one for each that was read").unwrap_or_else(|error| {
                    tracing::warn!("{}: going on from the snapshot: {error}", folder.display());
                    saved
                }))
            })
            .collect()
    }

    /// The session as it was saved, and the lines of its log that came after it and lead to the same bits here.
    fn read(world: &World, folder: &Path) -> Result<(Self, Vec<Entry>)> {
        let path = folder.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
        let saved: Manifest = serde_json::from_slice(&text).map_err(|error| bad(&path, error))?;
        let here = Stamp::of(world);
        if saved.version != VERSION {
            return Err(bad(&path, format!("version {}, expected {VERSION}", saved.version)));
        }
        if Path::new(&saved.tensors).components().count() != 1 {
            return Err(bad(&path, "names tensors outside its folder"));
        }
        let file = folder.join(&saved.tensors);
        let mut tensors = weights::read(&file)?;
        let mut get =
            |name: &str, of: &Saved| take(world, &mut tensors, name, of).map_err(|detail| bad(&file, detail));
        let session = get("session", &saved.session)?;
        let anchors = (saved.anchors.iter().enumerate())
            .map(|(at, session)| get(&anchor(at), session))
            .collect::<Result<VecDeque<_>>>()?;
        for block in &saved.kept {
            let known = block.row.check().and_then(|()| super::check_label(world, block.label));
            known.and_then(|()| check_sampling(world, block.settings.sampling)).map_err(|e| bad(&path, e))?;
        }
        let config = world.model.config();
        let (block, width) = (config.block_tokens(), config.token_width());
        let count = saved.kept.len();
        let tokens = match tensors.remove(KEPT) {
            Some(tokens) if tokens.size() == [count as i64, block, width] => tokens,
            None if count == 0 => Tensor::zeros([0, block, width], (Kind::Float, Device::Cpu)),
            _ => return Err(bad(&file, format!("no {count} blocks in {KEPT:?}"))),
        };
        let tokens = tokens.to_device(world.model.device());
        let kept: VecDeque<Kept> = (saved.kept.into_iter().zip(0..))
            .map(|(SavedBlock { label, settings, row, injected }, at)| Kept {
                tokens: tokens.narrow(0, at, 1).copy(),
                label,
                settings,
                row,
                injected,
            })
            .collect();
        let first = anchors.front().ok_or_else(|| bad(&path, "no session to go back to"))?.index();
        let ordered = anchors.iter().zip(anchors.iter().skip(1)).all(|(a, b)| a.index() < b.index());
        let newest = anchors.back().map_or(0, Session::index);
        if !ordered || newest > session.index() || session.index() - first != count as u64 {
            return Err(bad(&path, "its blocks do not lead to its session"));
        }
        // in another dtype the same keys and values are rounded otherwise
        if saved.stamp.dtype == here.dtype && session.state_hash()?.to_hex().as_str() != saved.state_hash {
            return Err(bad(&file, "other tensors than were saved"));
        }
        super::check_label(world, saved.label).map_err(|error| bad(&path, error))?;
        let path = folder.join(LOG);
        let text = std::fs::read_to_string(&path).map_err(|error| ModelError::io(&path, error))?;
        // The last line may have been cut off in the middle.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let seen: usize = whole.split_inclusive('\n').take(saved.lines).map(str::len).sum();
        let log: Log = read_log(&whole[..seen]).map_err(|error| bad(&path, error))?.into_iter().collect();
        if log.len() != saved.lines {
            return Err(bad(&path, format!("{} lines, the snapshot has seen {}", log.len(), saved.lines)));
        }
        let Manifest { label, paused, .. } = saved;
        let mut timeline = Self { session, label, paused, kept, anchors, log };
        if saved.stamp != here {
            let name = folder.display();
            tracing::warn!("{name}: going on from the snapshot: made by {:?}, this is {here:?}", saved.stamp);
            timeline.log.push(Entry::Moved { block: timeline.index(), stamp: Box::new(here) });
            return Ok((timeline, Vec::new()));
        }
        let rest = read_log(&whole[seen..]).unwrap_or_else(|error| {
            tracing::warn!("{}: going on from the snapshot: {error}", folder.display());
            Vec::new()
        });
        Ok((timeline, rest))
    }
}

/// The tensor of kept blocks.
const KEPT: &str = "kept";

fn anchor(at: usize) -> String {
    format!("anchor.{at}")
}

fn put(tensors: &mut BTreeMap<String, Tensor>, name: &str, session: &Session) -> Saved {
    let window = session.window();
    for (at, block) in window.blocks().enumerate() {
        tensors.insert(format!("{name}.block.{at}"), block.shallow_clone());
    }
    for (at, (keys, values)) in window.layers().iter().enumerate() {
        tensors.insert(format!("{name}.keys.{at}"), keys.shallow_clone());
        tensors.insert(format!("{name}.values.{at}"), values.shallow_clone());
    }
    let (blocks, layers) = (window.len(), window.layers().len());
    Saved { settings: *session.settings(), index: session.index(), blocks, layers }
}

fn take(
    world: &World,
    tensors: &mut BTreeMap<String, Tensor>,
    name: &str,
    saved: &Saved,
) -> std::result::Result<Session, String> {
    let model = &world.model;
    let mut part = |part: &str, at: usize, kind: Kind| {
        let name = format!("{name}.{part}.{at}");
        let tensor = tensors.remove(&name).ok_or_else(|| format!("no tensor {name:?}"))?;
        Ok::<_, String>(tensor.to_kind(kind).to_device(model.device()))
    };
    let blocks =
        (0..saved.blocks).map(|at| part("block", at, Kind::Float)).collect::<std::result::Result<_, _>>()?;
    let layers = (0..saved.layers)
        .map(|at| Ok((part("keys", at, model.compute())?, part("values", at, model.compute())?)))
        .collect::<std::result::Result<_, String>>()?;
    let Settings { window, mode, .. } = saved.settings;
    let window = Window::new(model, window, mode)
        .and_then(|window| window.holding(model, saved.index, blocks, layers))
        .map_err(|error| error.to_string())?;
    Session::with_window(world, saved.settings, window, saved.index).map_err(|error| error.to_string())
}

/// Removes what older snapshots left; what cannot be removed is only in the way.
fn remove_older(folder: &Path, name: &str) {
    remove(folder, |path| {
        path.extension().is_some_and(|extension| extension == "safetensors") && !path.ends_with(name)
    });
}

fn remove_partial(folder: &Path) {
    remove(folder, |path| path.extension().is_some_and(|extension| extension == "partial"));
}

fn remove(folder: &Path, which: impl Fn(&Path) -> bool) {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| which(path)) {
        let _ = std::fs::remove_file(path);
    }
}

fn bad(path: &Path, detail: impl std::fmt::Display) -> Error {
    Error::Snapshot { path: path.into(), detail: detail.to_string() }
}
