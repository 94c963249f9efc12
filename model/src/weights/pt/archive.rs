//! The zip container of a `.pt` file. Nothing in it is compressed, so nothing read from it can exceed the file.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

/// Largest pickle looked at. Published ones stay below one megabyte.
const MAX_PICKLE: u64 = 32 << 20;

pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// Folder inside the archive that holds everything, with its slash.
    root: String,
    /// Bytes that tensors may still take: together they cannot exceed the file.
    budget: u64,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let budget = file.metadata().map_err(|e| e.to_string())?.len();
        let zip = ZipArchive::new(BufReader::new(file))
            .map_err(|e| format!("expected a zip archive, as PyTorch writes since 1.6: {e}"))?;
        let roots: Vec<String> = (zip.file_names().filter_map(Result::ok))
            .filter_map(|name| name.strip_suffix("data.pkl").map(str::to_owned))
            .collect();
        let [root] = <[String; 1]>::try_from(roots)
            .map_err(|roots| format!("expected one data.pkl in the archive, found {}", roots.len()))?;
        let mut archive = Self { zip, root, budget };
        if archive.byte_order()?.as_deref() == Some(b"big") {
            return Err("the tensors are big-endian".into());
        }
        Ok(archive)
    }

    /// The pickle that describes the checkpoint.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, String> {
        let entry = self.entry("data.pkl")?;
        match entry.size() {
            size @ 0..=MAX_PICKLE => read(entry, size),
            size => Err(format!("data.pkl has {size} bytes, expected at most {MAX_PICKLE}")),
        }
    }

    /// Bytes `start..start + length` of a storage.
    pub(super) fn storage(&mut self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, String> {
        let left = self.budget.checked_sub(length).ok_or("its tensors hold more than the file does")?;
        let mut entry = self.entry(&format!("data/{key}"))?;
        if start.checked_add(length).is_none_or(|end| end > entry.size()) {
            return Err(format!(
                "storage {key:?} has {} bytes, expected {length} from {start}",
                entry.size()
            ));
        }
        io::copy(&mut entry.by_ref().take(start), &mut io::sink()).map_err(|e| e.to_string())?;
        let bytes = read(entry, length)?;
        self.budget = left;
        Ok(bytes)
    }

    /// What the optional entry `byteorder` says.
    fn byte_order(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.zip.index_for_name(&format!("{}byteorder", self.root)).is_none() {
            return Ok(None);
        }
        let entry = self.entry("byteorder")?;
        let size = entry.size().min(16);
        read(entry, size).map(Some)
    }

    fn entry(&mut self, name: &str) -> Result<ZipFile<'_, BufReader<File>>, String> {
        let entry = self
            .zip
            .by_name(&format!("{}{name}", self.root))
            .map_err(|e| format!("{name:?} in the archive: {e}"))?;
        if entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size() {
            return Err(format!("{name:?} in the archive is compressed, which PyTorch never does"));
        }
        Ok(entry)
    }
}

/// Reads `length` bytes, allocating no more than there are.
fn read(entry: impl Read, length: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let got = entry.take(length).read_to_end(&mut bytes).map_err(|e| e.to_string())? as u64;
    if got != length {
        return Err(format!("the archive ends early: expected {length} bytes, got {got}"));
    }
    Ok(bytes)
}
