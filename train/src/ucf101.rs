//! UCF-101 as its authors distribute it: a folder of clips per class, and lists of which clip is for what.
//!
//! Its peculiarities are met here and nowhere else. The folder names the class (the clips of `HandstandPushups` are
//! called `v_HandStandPushups_*`), labels follow `classInd.txt` and not the alphabet, lines end in CR LF, and test lists
//! have no label column.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::listing::{Entry, Listing, NOMINAL_RATE};

const CLASSES: &str = "classInd.txt";
/// In one line, as every error is. Debian has the programs in unar and libarchive-tools.
const HOW_TO_GET: &str = "UCF-101 is made of two archives, clips and lists: \
     `curl -O https://www.crcv.ucf.edu/data/UCF101/UCF101.rar` and \
     `curl -O https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip`; \
     `unar UCF101.rar` or `bsdtar -xf UCF101.rar` gives UCF-101/, \
     `bsdtar -xf UCF101TrainTestSplits-RecognitionTask.zip` gives ucfTrainTestlist/";

/// Nominal rate; the clips have 25 or 29.97 frames per second.
const RATE: f64 = NOMINAL_RATE;

/// Reads the lists of `fold` (1 to 3): those for training and for tests.
///
/// `data` holds the class folders, itself or in `UCF-101/`. Without `splits`, the lists are looked for in
/// `ucfTrainTestlist/` inside `data` and beside it.
///
/// # Errors
/// [`Error::Dataset`] naming what is missing and where to get it, or the line that cannot be understood.
pub fn open(data: &Path, splits: Option<&Path>, fold: u32) -> Result<Listing, Error> {
    if !data.is_dir() {
        return Err(missing(format!("{}: no such folder", data.display())));
    }
    let inner = data.join("UCF-101");
    let root = if inner.is_dir() { inner } else { data.to_owned() };
    let splits = match splits {
        Some(folder) => folder.to_owned(),
        None => find_splits(&root)?,
    };
    let classes = read_classes(&splits.join(CLASSES))?;
    if !classes.iter().any(|class| root.join(class).is_dir()) {
        let (root, first) = (root.display(), &classes[0]);
        return Err(missing(format!("{root}: no class folder such as {first}")));
    }
    let list = |name| read_list(&splits.join(format!("{name}{fold:02}.txt")), &root, &classes);
    let (train, test) = (list("trainlist")?, list("testlist")?);
    let (name, fold) = ("ucf101".into(), Some(fold));
    Ok(Listing { name, rate: RATE, classes, train, test, fold, mirrored: false })
}

fn missing(what: String) -> Error {
    Error::Dataset(format!("{what}. {HOW_TO_GET}"))
}

fn find_splits(root: &Path) -> Result<PathBuf, Error> {
    let candidates = [Some(root), root.parent()].map(|folder| folder.map(|f| f.join("ucfTrainTestlist")));
    let found = candidates.into_iter().flatten().find(|folder| folder.join(CLASSES).is_file());
    found.ok_or_else(|| {
        missing(format!("{}: no ucfTrainTestlist/{CLASSES} in it or beside it", root.display()))
    })
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|e| missing(format!("{}: {e}", path.display())))
}

/// Lines `NUMBER NAME`, numbered from 1 without gaps.
fn read_classes(path: &Path) -> Result<Vec<String>, Error> {
    let mut classes = Vec::new();
    for (index, line) in read(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let class = line.split_once(' ').filter(|(number, _)| number.parse() == Ok(classes.len() + 1));
        let name = class.map(|(_, name)| name.trim()).filter(|name| is_plain(name));
        let name = name.ok_or_else(|| {
            let (line_number, next) = (index + 1, classes.len() + 1);
            Error::Dataset(format!(
                "{}:{line_number}: expected \"{next} NAME\", got {line:?}",
                path.display()
            ))
        })?;
        classes.push(name.to_owned());
    }
    if classes.is_empty() {
        return Err(Error::Dataset(format!("{}: names no class", path.display())));
    }
    Ok(classes)
}

/// Lines `CLASS/FILE`, in training lists followed by a label, which the folder implies already.
fn read_list(path: &Path, root: &Path, classes: &[String]) -> Result<Vec<Entry>, Error> {
    let text = read(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let name = line.split_whitespace().next().unwrap_or_default();
            let entry = name.split_once('/').and_then(|(class, file)| {
                let label = classes.iter().position(|known| known == class)?;
                is_plain(file).then(|| Entry { path: root.join(class).join(file), label })
            });
            entry.ok_or_else(|| {
                let (path, line_number) = (path.display(), index + 1);
                let text =
                    format!("{path}:{line_number}: expected CLASS/FILE of a known class, got {line:?}");
                Error::Dataset(text)
            })
        })
        .collect()
}

/// Whether `name` is one path component and not a way out of the folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Split;

    /// The layout of the archives, with the order of classInd.txt differing from the alphabet.
    fn layout(folder: &Path) {
        for class in ["Hammering", "HammerThrow", "HandstandPushups"] {
            fs::create_dir_all(folder.join("UCF-101").join(class)).unwrap();
        }
        let splits = folder.join("ucfTrainTestlist");
        fs::create_dir(&splits).unwrap();
        let write = |name: &str, text: &str| fs::write(splits.join(name), text).unwrap();
        write(CLASSES, "1 Hammering\r\n2 HammerThrow\r\n3 HandstandPushups\r\n");
        write(
            "trainlist01.txt",
            "Hammering/v_Hammering_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 3\r\n",
        );
        write("testlist01.txt", "HammerThrow/v_HammerThrow_g01_c01.avi\r\n");
    }

    #[test]
    fn lists_are_read_as_distributed() {
        let folder = tempfile::tempdir().unwrap();
        layout(folder.path());
        let root = folder.path().join("UCF-101");
        for data in [folder.path(), &root] {
            let ucf = open(data, None, 1).unwrap();
            assert_eq!(ucf.classes, ["Hammering", "HammerThrow", "HandstandPushups"]);
            let entry = |file: &str, label| Entry { path: root.join(file), label };
            assert_eq!(
                ucf.entries(Split::Train),
                [
                    entry("Hammering/v_Hammering_g08_c01.avi", 0),
                    entry("HandstandPushups/v_HandStandPushups_g08_c01.avi", 2)
                ]
            );
            assert_eq!(ucf.entries(Split::Test), [entry("HammerThrow/v_HammerThrow_g01_c01.avi", 1)]);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let message = |data: &Path, splits: Option<&Path>, fold| {
            let text = open(data, splits, fold).unwrap_err().to_string();
            assert!(text.contains("UCF101.rar") && text.contains("RecognitionTask.zip"), "{text}");
            text
        };
        assert!(message(&folder.path().join("absent"), None, 1).contains("absent: no such folder"));
        assert!(message(folder.path(), None, 1).contains("no ucfTrainTestlist/classInd.txt"));
        layout(folder.path());
        assert!(message(folder.path(), None, 2).contains("trainlist02.txt"));
        let empty = tempfile::tempdir().unwrap();
        let splits = folder.path().join("ucfTrainTestlist");
        assert!(message(empty.path(), Some(&splits), 1).contains("no class folder such as Hammering"));
    }

    #[test]
    fn lines_that_make_no_sense_are_quoted() {
        let folder = tempfile::tempdir().unwrap();
        layout(folder.path());
        let splits = folder.path().join("ucfTrainTestlist");
        let message = || open(folder.path(), None, 1).unwrap_err().to_string();
        for bad in ["Unknown/v.avi 1", "Hammering/../../etc 1", "Hammering", "Hammering/ 2"] {
            fs::write(splits.join("trainlist01.txt"), format!("\r\n{bad}\r\n")).unwrap();
            let text = message();
            assert!(text.contains("trainlist01.txt:2") && text.contains(bad), "{text}");
        }
        fs::write(splits.join(CLASSES), "1 Hammering\r\n3 HammerThrow\r\n").unwrap();
        assert!(message().contains("classInd.txt:2: expected \"2 NAME\", got \"3 HammerThrow\""));
    }
}
