//! Finding and loading shared libraries that this binary does not link: `libtorch_cuda` and `libnvrtc`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::AsFilename;
use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY, RTLD_NOW};

use super::Library;

/// The PyTorch release that tch is bound to; another one's CUDA library has another ABI.
pub(super) const PYTORCH: &str = "2.11.0";

/// Loads the CUDA half of PyTorch and returns its file, or says what is missing.
pub(super) fn load() -> Result<PathBuf, String> {
    open("libcuda.so.1", RTLD_LAZY)
        .map_err(|_| "no NVIDIA driver (libcuda.so.1 is not installed)".to_owned())?;
    let mut refused = Vec::new();
    for folder in folders_of_torch() {
        let file = folder.join("libtorch_cuda.so");
        if !file.is_file() {
            continue;
        }
        match version_beside(&folder) {
            Some(version) if !version.starts_with(PYTORCH) => {
                refused.push(format!("{} is PyTorch {version}, expected {PYTORCH}", file.display()));
            }
            _ => match open(&file, RTLD_NOW | RTLD_GLOBAL) {
                Ok(()) => return Ok(file),
                Err(error) => refused.push(format!("{} does not load: {error}", file.display())),
            },
        }
    }
    if refused.is_empty() {
        refused.push(format!(
            "no libtorch_cuda.so: put the lib folder of PyTorch {PYTORCH} on LD_LIBRARY_PATH, or activate a Python \
             environment that has it"
        ));
    }
    Err(refused.join("; "))
}

/// Opens a library for the rest of the process.
fn open(file: impl AsFilename, flags: i32) -> Result<(), String> {
    // SAFETY: these are NVIDIA's and PyTorch's own libraries; their initialisers only register what they offer.
    let handle = unsafe { Handle::open(Some(file), flags) }.map_err(|error| error.to_string())?;
    std::mem::forget(handle);
    Ok(())
}

/// Folders that may hold PyTorch's libraries, the likeliest first.
fn folders_of_torch() -> Vec<PathBuf> {
    let linked = loaded("libtorch_cpu.so").and_then(|file| Some(file.parent()?.to_owned()));
    let on_path = std::env::var_os("LD_LIBRARY_PATH");
    let on_path = on_path.iter().flat_map(std::env::split_paths);
    let mut folders: Vec<PathBuf> = linked.into_iter().chain(on_path).collect();
    for site in site_packages() {
        folders.push(site.join("torch/lib"));
    }
    folders
}

/// Package folders of the active Python environment, the user's, and the system's.
fn site_packages() -> Vec<PathBuf> {
    let environment = |name| std::env::var_os(name).map(PathBuf::from);
    let prefixes = [
        environment("VIRTUAL_ENV"),
        environment("CONDA_PREFIX"),
        environment("HOME").map(|home| home.join(".local")),
        Some(PathBuf::from("/usr/local")),
        Some(PathBuf::from("/usr")),
    ];
    let mut found = Vec::new();
    for prefix in prefixes.into_iter().flatten() {
        let Ok(entries) = std::fs::read_dir(prefix.join("lib")) else { continue };
        for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("python3")) {
            found.extend(["site-packages", "dist-packages"].map(|name| entry.path().join(name)));
        }
    }
    found
}

/// The PyTorch version that a `lib` folder belongs to, as `build-version` or `version.py` beside it says.
fn version_beside(lib: &Path) -> Option<String> {
    let torch = lib.parent()?;
    if let Ok(version) = std::fs::read_to_string(torch.join("build-version")) {
        return Some(version.trim().to_owned());
    }
    let python = std::fs::read_to_string(torch.join("version.py")).ok()?;
    let (_, value) = python.lines().find_map(|line| line.strip_prefix("__version__")?.split_once('='))?;
    Some(value.trim().trim_matches(['\'', '"']).to_owned())
}

/// The file that a loaded library came from.
fn loaded(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
    files
        .find(|file| file.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name)))
        .map(Path::to_owned)
}

/// PyTorch as linked.
pub(super) fn torch() -> Library {
    let path = loaded("libtorch_cpu.so");
    let version = path.as_deref().and_then(Path::parent).and_then(version_beside);
    Library { name: "libtorch", version, path }
}

/// NVRTC, which compiles our CUDA kernels, where it is found.
pub(super) fn nvrtc() -> Library {
    let path = load_nvrtc().then(|| loaded("libnvrtc.so")).flatten();
    Library { name: "libnvrtc", version: None, path }
}

/// Loads NVRTC so that a later search by name finds it: from the library path, from where pip puts it beside PyTorch, or
/// from the project's cache (`$XDG_CACHE_HOME/acdit-world/nvrtc-13.0/lib`). Returns whether it is there.
pub(crate) fn load_nvrtc() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let beside_torch = folders_of_torch().into_iter().map(|lib| lib.join("../../nvidia/cu13/lib"));
        let cached = cache().map(|cache| cache.join("acdit-world/nvrtc-13.0/lib"));
        let mut folders = beside_torch.chain(cached);
        open(NVRTC, RTLD_NOW).is_ok() || folders.any(|folder| open_nvrtc_in(&folder).is_ok())
    })
}

const NVRTC: &str = "libnvrtc.so.13";

/// NVRTC opens its builtins by bare name when it first compiles, so they are loaded beforehand, from its own folder.
fn open_nvrtc_in(folder: &Path) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so") {
            open(entry.path(), RTLD_NOW)?;
        }
    }
    open(folder.join(NVRTC), RTLD_NOW)
}

fn cache() -> Option<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    xdg.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_either_file() {
        let torch = tempfile::tempdir().unwrap();
        let lib = torch.path().join("lib");
        assert_eq!(version_beside(&lib), None);
        let python = "from typing import Optional\n__all__ = ['__version__']\n__version__ = '2.11.0+cu130'\ndebug = False\n";
        std::fs::write(torch.path().join("version.py"), python).unwrap();
        assert_eq!(version_beside(&lib).as_deref(), Some("2.11.0+cu130"));
        std::fs::write(torch.path().join("build-version"), "2.11.0\n").unwrap();
        assert_eq!(version_beside(&lib).as_deref(), Some("2.11.0"));
    }

    #[test]
    fn a_loaded_library_is_found_and_an_absent_one_is_not() {
        assert!(loaded("libc.so").is_some_and(|file| file.is_file()));
        assert_eq!(loaded("libnothing.so"), None);
    }
}
