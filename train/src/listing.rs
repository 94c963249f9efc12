//! Labelled clips in files: a list per split, and the names of the labels.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// Endings by which a clip is known in a folder of classes, in lower case.
const ENDINGS: [&str; 6] = ["avi", "mp4", "mkv", "webm", "mov", "m4v"];

/// Frames per second of a file that does not say.
pub(crate) const NOMINAL_RATE: f64 = 25.0;
/// Clips that are asked for their rate until one knows.
const PROBED: usize = 8;

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What is learnt from.
    Train,
    /// What is not.
    Test,
}

/// One clip of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The clip, which may be missing.
    pub path: PathBuf,
    /// Index of its class in [`Listing::classes`].
    pub label: usize,
}

/// The clips of a dataset.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The dataset's name.
    pub name: String,
    /// Nominal frames per second of its clips.
    pub rate: f64,
    /// Class names in the order of their labels.
    pub classes: Vec<String>,
    /// Clips to learn from.
    pub train: Vec<Entry>,
    /// Clips to measure on; may be empty.
    pub test: Vec<Entry>,
    /// Which of several pairs of lists these are.
    pub fold: Option<u32>,
    /// Whether every clip comes with its mirror image.
    pub mirrored: bool,
}

impl Listing {
    /// The clips in a folder that holds a folder for each class: labels follow the order of the names, as do the clips of a
    /// class. All are for training, and the rate is that of the first.
    ///
    /// # Errors
    /// [`Error::Dataset`] if there is no such folder, or no clip in its folders.
    pub fn of_folder(folder: &Path) -> Result<Self, Error> {
        let here = folder.display();
        if !folder.is_dir() {
            return Err(Error::Dataset(format!("{here}: no such folder")));
        }
        let mut listing = Self {
            name: folder
                .file_name()
                .map_or_else(|| "folder".into(), |name| name.to_string_lossy().into_owned()),
            rate: NOMINAL_RATE,
            classes: Vec::new(),
            train: Vec::new(),
            test: Vec::new(),
            fold: None,
            mirrored: false,
        };
        for class in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
            let clips: Vec<PathBuf> = sorted(&class)?.into_iter().filter(|path| is_clip(path)).collect();
            if let (Some(name), false) = (class.file_name(), clips.is_empty()) {
                let label = listing.classes.len();
                listing.classes.push(name.to_string_lossy().into_owned());
                listing.train.extend(clips.into_iter().map(|path| Entry { path, label }));
            }
        }
        if listing.train.is_empty() {
            let endings = ENDINGS.join(", ");
            return Err(Error::Dataset(format!("{here}: expected CLASS/CLIP, clips ending in {endings}")));
        }
        let rate = listing.train.iter().take(PROBED).find_map(|entry| rate_of(&entry.path));
        Ok(Self { rate: rate.unwrap_or(NOMINAL_RATE), ..listing })
    }

    /// The clips of a list, in its order.
    pub fn entries(&self, split: Split) -> &[Entry] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    /// BLAKE3 of a list, hexadecimal: of each clip's label and its name in the folder of its class, wherever that is.
    pub(crate) fn fingerprint(&self, split: Split) -> String {
        let mut hash = blake3::Hasher::new();
        for Entry { path, label } in self.entries(split) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            hash.update(format!("{label} {name}\n").as_bytes());
        }
        hash.finalize().to_hex().to_string()
    }
}

#[cfg(feature = "video")]
fn rate_of(path: &Path) -> Option<f64> {
    acdit_codec::video::probe(path, &acdit_codec::video::Limits::FILE).ok()?.frames_per_second
}

#[cfg(not(feature = "video"))]
fn rate_of(_path: &Path) -> Option<f64> {
    None
}

/// What is in a folder and not hidden, by name.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut paths = entries.map_err(|e| Error::io(folder, e))?;
    paths.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    paths.sort();
    Ok(paths)
}

fn is_clip(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    path.is_file() && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_classes_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for name in [
            "walk/b.MP4",
            "walk/a.webm",
            "run/z.avi",
            "run/notes.txt",
            "empty/readme.md",
            "run/._z.avi",
            ".hidden/c.avi",
            "stray.mp4",
            "run/._z.avi",
            ".git/c.avi",
        ] {
            touch(name);
        }
        let listing = Listing::of_folder(folder.path()).unwrap();
        assert_eq!(listing.classes, ["run", "walk"]);
        let entry = |name: &str, label| Entry { path: folder.path().join(name), label };
        assert_eq!(
            listing.entries(Split::Train),
            [entry("run/z.avi", 0), entry("walk/a.webm", 1), entry("walk/b.MP4", 1)]
        );
        assert_eq!(listing.entries(Split::Test), []);
        assert_eq!(listing.name, folder.path().file_name().unwrap().to_string_lossy());
    }

    #[test]
    fn a_folder_without_clips_is_no_dataset() {
        let folder = tempfile::tempdir().unwrap();
        let message = |path: &Path| Listing::of_folder(path).unwrap_err().to_string();
        assert!(message(folder.path()).contains("expected CLASS/CLIP"));
        assert!(message(&folder.path().join("none")).ends_with("none: no such folder"));
    }
}
