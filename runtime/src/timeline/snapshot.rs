//! A session on disk: `session.json` beside one safetensors file, and the log since.
//!
//! The tensors are written first, under a name of their own; the JSON, which names them, replaces the old one last. So
//! whatever interrupts a save, the folder holds one whole snapshot. Between two snapshots the log's new lines are appended
//! to a file named after the tensors: what they tell is computed again when the session is restored.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use acdit_model::{Error as ModelError, weights};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Entry, Kept, Stamp, Timeline, read_log, write_log};
use crate::batch::Row;
use crate::window::Window;
use crate::{Error, Result, Session, Settings, World};

const VERSION: u32 = 1;
const MANIFEST: &str = "session.json";
/// Extension of the log's lines since the snapshot.
const LINES: &str = "jsonl";

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
    session: Saved,
    anchors: Vec<Saved>,
    kept: Vec<SavedBlock>,
    log: Vec<Entry>,
}

/// What is read of a manifest to find its tensors.
#[derive(Deserialize)]
struct Named {
    tensors: String,
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
}

impl Timeline {
    /// Writes the session with its past into `folder`, over an older snapshot. A clone may be saved on another thread
    /// while the session goes on.
    ///
    /// # Errors
    /// [`Error::Model`] for files that cannot be written.
    pub fn save(&self, world: &Stamp, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
        let mut tensors = BTreeMap::new();
        let session = put(&mut tensors, "session", &self.session);
        let anchors =
            self.anchors.iter().enumerate().map(|(at, session)| put(&mut tensors, &anchor(at), session));
        let anchors = anchors.collect();
        if !self.kept.is_empty() {
            let tokens: Vec<&Tensor> = self.kept.iter().map(|kept| &kept.tokens).collect();
            tensors.insert(KEPT.to_owned(), Tensor::cat(&tokens, 0));
        }
        let state_hash = self.session.state_hash()?.to_hex().to_string();
        // Every change of the session is a line of its log: no two snapshots have one name.
        let name = format!("{}-{}.safetensors", self.log.len(), &state_hash[..16]);
        // f32 holds bf16 exactly
        weights::write(&folder.join(&name), &tensors, Kind::Float)?;
        let kept = self.kept.iter().map(|kept| SavedBlock {
            label: kept.label,
            settings: kept.settings,
            row: kept.row,
        });
        let manifest = Manifest {
            version: VERSION,
            stamp: world.clone(),
            tensors: name.clone(),
            state_hash,
            label: self.label,
            session,
            anchors,
            kept: kept.collect(),
            log: self.log.clone(),
        };
        let path = folder.join(MANIFEST);
        let text = serde_json::to_vec(&manifest).map_err(|error| bad(&path, error))?;
        replace(&path, &text).map_err(|error| ModelError::io(&path, error))?;
        remove_others(folder, &name);
        Ok(())
    }

    /// Adds the lines of the log from line `from` on to the snapshot in `folder`, which has those before.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Snapshot`] where there is no snapshot.
    pub fn save_log(&self, from: usize, folder: &Path) -> Result<()> {
        use std::io::Write as _;

        let path = folder.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
        let Named { tensors } = serde_json::from_slice(&text).map_err(|error| bad(&path, error))?;
        let path = folder.join(tensors).with_extension(LINES);
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(write_log(&self.log[from..]).as_bytes())?;
            file.sync_data()
        });
        written.map_err(|error| ModelError::io(&path, error).into())
    }

    /// Reads what [`Self::save`] and [`Self::save_log`] wrote. Lines that do not lead to the blocks they tell of are passed
    /// over: then the session is as it was when it was saved.
    ///
    /// # Errors
    /// [`Error::Snapshot`] for a folder that is not a snapshot of a session of this world, made by an equal build on an
    /// equal device.
    pub fn restore(world: &World, folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
        let saved: Manifest = serde_json::from_slice(&text).map_err(|error| bad(&path, error))?;
        let here = Stamp::of(world);
        if saved.version != VERSION || saved.stamp != here {
            return Err(bad(&path, format!("made by {:?}, this is {here:?}", saved.stamp)));
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
        let config = world.model.config();
        let (block, width) = (config.block_tokens(), config.token_width());
        let count = saved.kept.len();
        let tokens = match tensors.remove(KEPT) {
            Some(tokens) if tokens.size() == [count as i64, block, width] => tokens,
            None if count == 0 => Tensor::zeros([0, block, width], (Kind::Float, tch::Device::Cpu)),
            _ => return Err(bad(&file, format!("no {count} blocks in {KEPT:?}"))),
        };
        let tokens = tokens.to_device(world.model.device());
        let kept: VecDeque<Kept> = (saved.kept.into_iter().zip(0..))
            .map(|(SavedBlock { label, settings, row }, at)| Kept {
                tokens: tokens.narrow(0, at, 1).copy(),
                label,
                settings,
                row,
            })
            .collect();
        let first = anchors.front().ok_or_else(|| bad(&path, "no session to go back to"))?.index();
        let ordered = anchors.iter().zip(anchors.iter().skip(1)).all(|(a, b)| a.index() < b.index());
        let newest = anchors.back().map_or(0, Session::index);
        if !ordered || newest > session.index() || session.index() - first != count as u64 {
            return Err(bad(&path, "its blocks do not lead to its session"));
        }
        if session.state_hash()?.to_hex().as_str() != saved.state_hash {
            return Err(bad(&file, "other tensors than were saved"));
        }
        super::check_label(world, saved.label)?;
        let mut timeline = Self { session, label: saved.label, kept, anchors, log: saved.log };
        let lines = match std::fs::read_to_string(file.with_extension(LINES)) {
            Ok(lines) => lines,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(timeline),
            Err(error) => return Err(ModelError::io(file.with_extension(LINES), error).into()),
        };
        // The last line may have been cut off in the middle.
        let whole = lines.rfind('\n').map_or(0, |end| end + 1);
        let mut newest = timeline.clone();
        match read_log(&lines[..whole]).and_then(|entries| newest.follow(world, &entries)) {
            Ok(()) => timeline = newest,
            Err(error) => tracing::warn!("{}: going on from the snapshot: {error}", folder.display()),
        }
        Ok(timeline)
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

/// Writes a file that appears whole or not at all, even should the machine lose power.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;

    let partial = path.with_extension("partial");
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

/// Removes what older snapshots left; what cannot be removed is only in the way.
fn remove_others(folder: &Path, name: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let extension = entry.path().extension().map(|extension| extension.to_owned());
        if other != name
            && extension.is_some_and(|extension| extension == "safetensors" || extension == LINES)
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn bad(path: &Path, detail: impl std::fmt::Display) -> Error {
    Error::Snapshot { path: path.into(), detail: detail.to_string() }
}
