//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Error;

/// Writes `bytes` to `path` so that it holds either its old contents or all of the new ones, whatever happens.
///
/// # Errors
/// [`Error::Io`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let partial = partial(path);
    fs::write(&partial, bytes).map_err(|e| Error::io(path, e))?;
    take_place(&partial, path)
}

/// Where a file is written before it takes its place.
pub(crate) fn partial(path: &Path) -> PathBuf {
    path.with_extension("partial")
}

/// Renames `partial`, once its bytes are on the disk.
pub(crate) fn take_place(partial: &Path, path: &Path) -> Result<(), Error> {
    let synced = File::open(partial).and_then(|file| file.sync_all());
    synced.and_then(|()| fs::rename(partial, path)).map_err(|e| Error::io(path, e))
}
