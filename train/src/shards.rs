//! A dataset's latents on disk: encoded once, mapped into memory by every training.
//!
//! ```text
//! DIR/manifest.json               what the latents are of, and how many are there
//! DIR/latents-00000.safetensors   clips by their number in the list: N.labels (T) i64, N.mean (T, F, C, h, w) f32,
//! DIR/latents-00001.safetensors   N.std likewise if the VAE has a posterior, N.mirrored.mean and N.mirrored.std
//! DIR/skipped.jsonl               clips that cannot be used, and why
//! DIR/vae/                        a copy of the VAE, so that the folder is all that a training needs
//! ```
//! Files appear whole and never change, but for the manifest, which is replaced after each shard and counts only what was
//! whole before it: whatever ends the program, the next one goes on from there.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use acdit_codec::vae::Vae;
use acdit_model::write_atomically;
use acdit_runtime::WorldMeta;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::bank::{Clip, Latents, Numbers};
use crate::dataset::{BankSize, Dataset, Skipped, nothing_usable};
use crate::description::{VAE_FILES, difference, fingerprint};
use crate::encoding::Encoding;
use crate::listing::Split;
use crate::{Description, Error, Interrupt, LatentBank};

const MANIFEST: &str = "manifest.json";
/// Name of the list of clips that cannot be used: a JSON object of path and reason on each line.
pub const SKIPPED: &str = "skipped.jsonl";
const VAE: &str = "vae";
const LOCK: &str = ".lock";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    data: Description,
    /// BLAKE3 of the VAE's files.
    vae: String,
    /// For the worlds that are learnt from it.
    world: WorldMeta,
    shards: usize,
    clips: usize,
    /// Lines of `skipped.jsonl` that count.
    skipped: usize,
    /// The list is done up to this clip.
    next: usize,
    complete: bool,
}

impl Manifest {
    fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(MANIFEST);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let read = serde_json::from_str(&text);
                read.map(Some).map_err(|e| Error::Dataset(format!("{}: {e}", path.display())))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path, e)),
        }
    }

    fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(MANIFEST);
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::io(&path, e.into()))?;
        Ok(write_atomically(&path, (json + "\n").as_bytes())?)
    }
}

/// What is to be encoded, and where to.
#[derive(Debug)]
pub struct Job<'a> {
    /// The clips.
    pub dataset: &'a Dataset,
    /// Which of their lists.
    pub split: Split,
    /// How many, and how they are cut.
    pub size: BankSize,
    /// The VAE's folder.
    pub vae: &'a Path,
    /// Where to encode.
    pub device: Device,
    /// Threads that decode clips, at least one.
    pub workers: usize,
    /// The folder of shards.
    pub out: &'a Path,
    /// Bytes of a shard at most, unless a single clip has more.
    pub shard_bytes: usize,
    /// Asks to write what is encoded and end.
    pub interrupt: Interrupt,
}

/// What a folder of shards holds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Clips in the shards.
    pub clips: usize,
    /// Clips that could not be used.
    pub skipped: usize,
    /// Files.
    pub shards: usize,
    /// Whether that is all; not after an interrupt.
    pub complete: bool,
}

/// Encodes what `job.out` does not hold yet; `progress` is told how many clips of how many are done, usable or not.
///
/// # Errors
/// [`Error::Dataset`] for a folder that holds other latents or is being written to, or if no clip could be used;
/// [`Error::Options`] as for [`Dataset::bank`]; [`Error::Codec`] if the VAE does not fit the frames; files.
pub fn encode(job: &Job<'_>, mut progress: impl FnMut(usize, usize)) -> Result<Summary, Error> {
    let Job { dataset, split, size, out, .. } = *job;
    dataset.check(size)?;
    let vae = Vae::load(job.vae, job.device, Kind::Float)?;
    fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    let _lock = lock(out)?;
    let mut writer = Writer::open(job)?;
    let count = dataset.count(split, size);
    progress(writer.manifest.next.min(count), count);
    if writer.clips() < size.clips {
        let encoding = Encoding { dataset, split, size, workers: job.workers.max(1) };
        let first = writer.manifest.next;
        let ran = encoding.run(&vae.encoder, first, &job.interrupt, |number, clip| {
            writer.add(number, clip.map_err(|reason| dataset.skipped(split, number, &reason)))?;
            progress(number + 1, count);
            Ok(writer.clips() < size.clips)
        });
        match ran {
            Err(Error::Interrupted) => writer.write(false)?,
            // nothing is noted: the clips may be there the next time
            Ok(()) if writer.clips() == 0 => return Err(nothing_usable(&writer.skipped)),
            ran => ran.and_then(|()| writer.write(true))?,
        }
    }
    let Writer { manifest, skipped, .. } = writer;
    let Manifest { clips, shards, complete, .. } = manifest;
    Ok(Summary { clips, skipped: skipped.len(), shards, complete })
}

/// Held as long as the file is open, whatever ends the program.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::Dataset(format!("{}: another program is encoding into it", folder.display())))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(path, e)),
    }
}

/// A folder of shards that is being filled.
struct Writer<'a> {
    folder: &'a Path,
    manifest: Manifest,
    skipped: Vec<Skipped>,
    /// Clips for the next shard, by their numbers.
    waiting: Vec<(usize, Clip)>,
    shard_bytes: usize,
    /// The clip after the last that was added.
    next: usize,
}

impl<'a> Writer<'a> {
    fn open(job: &Job<'a>) -> Result<Self, Error> {
        let folder = job.out;
        let (data, vae) = (job.dataset.describe(job.split, job.size), fingerprint(job.vae)?);
        let manifest = match Manifest::read(folder)? {
            Some(manifest) => {
                let refuse = |what| Err(Error::Dataset(format!("{}: {what}", folder.display())));
                if manifest.vae != vae {
                    return refuse("its latents are of another VAE: choose another folder".into());
                }
                if let Some(difference) = difference(&manifest.data, &data) {
                    return refuse(format!("its latents are of other data, {difference}"));
                }
                manifest
            }
            None => {
                copy_vae(job.vae, &folder.join(VAE))?;
                let world = job.dataset.meta();
                let manifest =
                    Manifest { data, vae, world, shards: 0, clips: 0, skipped: 0, next: 0, complete: false };
                manifest.write(folder)?;
                manifest
            }
        };
        let skipped = read_skipped(&folder.join(SKIPPED), manifest.skipped)?;
        let next = manifest.next;
        Ok(Self { folder, manifest, skipped, waiting: Vec::new(), shard_bytes: job.shard_bytes, next })
    }

    /// Clips that are there or wait to be written.
    fn clips(&self) -> usize {
        self.manifest.clips + self.waiting.len()
    }

    fn add(&mut self, number: usize, clip: Result<Clip, Skipped>) -> Result<(), Error> {
        match clip {
            Ok(clip) => {
                let bytes: usize = self.waiting.iter().map(|(_, clip)| clip.bytes()).sum();
                if !self.waiting.is_empty() && bytes + clip.bytes() > self.shard_bytes {
                    self.write(false)?;
                }
                self.waiting.push((number, clip));
            }
            Err(skipped) => self.skipped.push(skipped),
        }
        self.next = number + 1;
        Ok(())
    }

    /// Writes what waits; the manifest comes last.
    fn write(&mut self, complete: bool) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            write_shard(&shard(self.folder, self.manifest.shards), &self.waiting)?;
            self.manifest.shards += 1;
            self.manifest.clips += self.waiting.len();
            self.waiting.clear();
        }
        let lines = self.skipped.iter().map(|skipped| Ok(serde_json::to_string(skipped)? + "\n"));
        let path = self.folder.join(SKIPPED);
        let lines: String = lines.collect::<Result<_, std::io::Error>>().map_err(|e| Error::io(&path, e))?;
        write_atomically(&path, lines.as_bytes())?;
        self.manifest.skipped = self.skipped.len();
        self.manifest.next = self.next;
        self.manifest.complete = complete;
        self.manifest.write(self.folder)
    }
}

fn shard(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("latents-{index:05}.safetensors"))
}

fn copy_vae(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    VAE_FILES.iter().try_for_each(|name| {
        let path = from.join(name);
        let bytes = fs::read(&path).map_err(|e| Error::io(path, e))?;
        Ok(write_atomically(&to.join(name), &bytes)?)
    })
}

fn read_skipped(path: &Path, lines: usize) -> Result<Vec<Skipped>, Error> {
    if lines == 0 {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let skipped = text.lines().take(lines).map(serde_json::from_str).collect::<Result<_, _>>();
    skipped.map_err(|e| Error::Dataset(format!("{}: {e}", path.display())))
}

fn write_shard(path: &Path, clips: &[(usize, Clip)]) -> Result<(), Error> {
    let failed = |e: safetensors::SafeTensorError| Error::Dataset(format!("{}: {e}", path.display()));
    let labels: Vec<Vec<u8>> = clips
        .iter()
        .map(|(_, clip)| clip.labels.iter().flat_map(|label| label.to_le_bytes()).collect())
        .collect();
    let mut views = Vec::new();
    for ((number, clip), labels) in clips.iter().zip(&labels) {
        let blocks = clip.labels.len();
        let [f, c, h, w] = clip.block;
        let view = TensorView::new(Dtype::I64, vec![blocks], labels).map_err(failed)?;
        views.push((format!("{number:08}.labels"), view));
        for (prefix, latents) in [("", Some(&clip.latents)), ("mirrored.", clip.mirrored.as_ref())] {
            let Some(Latents { mean, std }) = latents else { continue };
            for (name, numbers) in [("mean", Some(mean)), ("std", std.as_ref())] {
                let Some(numbers) = numbers else { continue };
                let view = TensorView::new(Dtype::F32, vec![blocks, f, c, h, w], numbers).map_err(failed)?;
                views.push((format!("{number:08}.{prefix}{name}"), view));
            }
        }
    }
    Ok(write_atomically(path, &safetensors::serialize(views, None).map_err(failed)?)?)
}

/// A folder of shards to learn from.
#[derive(Debug)]
pub struct Shards {
    /// Its clips, mapped.
    pub bank: LatentBank,
    /// What `world.json` says of a world trained on them.
    pub meta: WorldMeta,
    /// The VAE that encoded them.
    pub vae: PathBuf,
}

impl Shards {
    /// Opens what [`encode`] has written; latents are read when they are needed.
    ///
    /// # Errors
    /// [`Error::Dataset`] for a folder that is none, is not complete, or whose files do not fit its manifest; [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let refuse = |what: String| Error::Dataset(format!("{}: {what}", folder.display()));
        let manifest = Manifest::read(folder)?.ok_or_else(|| {
            refuse(format!("no {MANIFEST}: a folder that `encode` has written is expected"))
        })?;
        if !manifest.complete {
            let clips = manifest.clips;
            return Err(refuse(format!(
                "{clips} clips so far: `encode`, with the same flags, goes on with it"
            )));
        }
        let vae = folder.join(VAE);
        if fingerprint(&vae)? != manifest.vae {
            return Err(refuse(format!("{VAE}/ is not the VAE that encoded its latents")));
        }
        let mut clips = Vec::with_capacity(manifest.clips);
        for index in 0..manifest.shards {
            let path = shard(folder, index);
            let read = read_shard(&path, &manifest.data)?;
            clips.extend(read.map_err(|what| Error::Dataset(format!("{}: {what}", path.display())))?);
        }
        if clips.len() != manifest.clips {
            return Err(refuse(format!("{} clips, its {MANIFEST} counts {}", clips.len(), manifest.clips)));
        }
        if clips.windows(2).any(|pair| pair[0].block != pair[1].block) {
            return Err(refuse("its clips differ in size".into()));
        }
        Ok(Self { bank: LatentBank::new(manifest.data, clips), meta: manifest.world, vae })
    }
}

/// The clips of a shard, or what is wrong with it.
fn read_shard(path: &Path, data: &Description) -> Result<Result<Vec<Clip>, String>, Error> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: a shard is renamed into place whole and not written to afterwards. Whoever does so all the same, or truncates it,
    // harms the run that maps it, as removing its other files would.
    let file = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    Ok(clips_in(&Arc::new(file), data))
}

fn clips_in(file: &Arc<Mmap>, data: &Description) -> Result<Vec<Clip>, String> {
    let (header, metadata) =
        SafeTensors::read_metadata(file).map_err(|e| format!("not a whole safetensors file: {e}"))?;
    let tensors = Tensors { file, start: 8 + header, infos: metadata.tensors() };
    let mut numbers: Vec<&str> =
        tensors.infos.keys().filter_map(|name| name.strip_suffix(".labels")).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| tensors.clip(number, data)).collect()
}

/// The tensors of a mapped file, whose data begin at `start`.
struct Tensors<'a> {
    file: &'a Arc<Mmap>,
    start: usize,
    infos: HashMap<String, &'a TensorInfo>,
}

impl Tensors<'_> {
    fn clip(&self, number: &str, data: &Description) -> Result<Clip, String> {
        let labels = self.numbers(&format!("{number}.labels"), Dtype::I64, None)?;
        let labels: Vec<i64> = (labels.chunks_exact(size_of::<i64>()))
            .map(|label| i64::from_le_bytes(label.try_into().expect("chunks_exact gives that length")))
            .collect();
        let known = 0..data.labels.len() as i64;
        if let Some(label) = labels.iter().find(|label| !known.contains(label)) {
            return Err(format!("clip {number}: label {label} of {}", data.labels.len()));
        }
        let shape = self.infos.get(&format!("{number}.mean")).map(|info| info.shape.as_slice());
        let block = match shape {
            Some(&[blocks, f, c, h, w]) if (blocks, f) == (labels.len(), data.frames_per_block) => {
                [f, c, h, w]
            }
            other => {
                let expected = (labels.len(), data.frames_per_block);
                return Err(format!(
                    "clip {number}: latents {other:?}, expected {expected:?} and three more"
                ));
            }
        };
        let latents = |prefix: &str| {
            let mean = self.numbers(&format!("{number}.{prefix}mean"), Dtype::F32, shape)?;
            let std = format!("{number}.{prefix}std");
            let std = self.infos.contains_key(&std).then(|| self.numbers(&std, Dtype::F32, shape));
            Ok::<_, String>(Latents { mean, std: std.transpose()? })
        };
        let mirrored = data.mirrored.then(|| latents("mirrored.")).transpose()?;
        Ok(Clip { labels, block, latents: latents("")?, mirrored, made: None })
    }

    fn numbers(&self, name: &str, dtype: Dtype, shape: Option<&[usize]>) -> Result<Numbers, String> {
        let info = self.infos.get(name).ok_or_else(|| format!("{name} is missing"))?;
        if info.dtype != dtype || shape.is_some_and(|shape| shape != info.shape) {
            let (got, expected) = ((info.dtype, &info.shape), (dtype, shape.unwrap_or(&info.shape)));
            return Err(format!("{name}: {got:?}, expected {expected:?}"));
        }
        let (from, to) = info.data_offsets;
        Ok(Numbers::Mapped { file: self.file.clone(), range: self.start + from..self.start + to })
    }
}
