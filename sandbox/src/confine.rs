//! The child's side: giving up everything that decoding does not need.

use std::fmt;
use std::fs;
use std::io;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use serde::{Deserialize, Serialize};

use crate::{Error, filter};

/// What a confined process may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes of address space beyond what is mapped already: the libraries of this program take hundreds of megabytes of it
    /// without using them.
    pub memory: u64,
    /// Seconds of CPU time.
    pub cpu_seconds: u64,
}

/// How much of Landlock the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Landlock {
    /// Files, TCP ports, and signals and abstract sockets of other processes (Linux 6.12).
    Full,
    /// Files, but not all of the rest (Linux 5.13).
    Partial,
    /// The kernel has none, or it is switched off.
    Absent,
}

/// Which of the layers that a kernel may lack are in force. Closed descriptors, resource limits, dropped capabilities and
/// `no_new_privs` always are: without them [`confine`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// No file can be opened.
    pub landlock: Landlock,
    /// No system call but those of a short list.
    pub seccomp: bool,
}

impl Layers {
    /// Whether strangers' bytes may be read: at least one layer stands between a broken decoder and the machine.
    pub fn suffice(self) -> bool {
        self.seccomp || self.landlock != Landlock::Absent
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let landlock = match self.landlock {
            Landlock::Full => "landlock",
            Landlock::Partial => "landlock in part",
            Landlock::Absent => "no landlock",
        };
        let seccomp = if self.seccomp { "seccomp" } else { "no seccomp" };
        write!(f, "rlimits, no_new_privs, {landlock}, {seccomp}")
    }
}

/// Confines this process, which must have one thread, for the rest of its life. Descriptors other than stdin, stdout and
/// stderr are closed. Of the layers that a kernel may lack, as many are put on as there are; the caller decides by the
/// answer whether they [suffice](Layers::suffice).
///
/// # Errors
/// [`Error::Confine`] if there are other threads, which would stay free; or if a layer that every supported kernel (Linux 5.9)
/// has could not be put on. The process is then confined in part and must not go on.
pub fn confine(allowance: Allowance) -> Result<Layers, Error> {
    let step = |step| move |error: rustix::io::Errno| Error::Confine { step, source: error.into() };
    check_one_thread().map_err(|source| Error::Confine { step: "one thread", source })?;
    let mapped = mapped_bytes().map_err(|source| Error::Confine { step: "address space in use", source })?;
    close_descriptors().map_err(|source| Error::Confine { step: "close descriptors", source })?;
    // SAFETY: no other thread reads the environment, as there is none.
    unsafe { libc::clearenv() };

    for (resource, limit) in [
        (Resource::As, mapped.saturating_add(allowance.memory)),
        (Resource::Cpu, allowance.cpu_seconds),
        (Resource::Fsize, 0),
        (Resource::Nproc, 0),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ] {
        let both = Rlimit { current: Some(limit), maximum: Some(limit) };
        setrlimit(resource, both).map_err(step("resource limits"))?;
    }
    // A core dump that goes to a program is not bound by a limit of zero.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step("no core dumps"))?;
    set_no_new_privs(true).map_err(step("no_new_privs"))?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).map_err(step("drop capabilities"))?;

    let landlock =
        deny_files().map_err(|error| Error::Confine { step: "landlock", source: io::Error::other(error) })?;
    // Landlock itself needed a descriptor.
    let no_more = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Nofile, no_more).map_err(step("resource limits"))?;
    // Last, as none of the above is on its list. Kernels without it, and containers that forbid it, refuse.
    let seccomp = filter::apply().is_ok();
    Ok(Layers { landlock, seccomp })
}

/// Ends this process as soon as the thread that started it, in process `parent`, is gone. Kept when confined.
///
/// # Errors
/// [`Error::Confine`] if it is gone already.
pub fn die_with_parent(parent: u32) -> Result<(), Error> {
    let failed = |source| Error::Confine { step: "die with the parent", source };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    // A parent that died before the call above has sent nothing.
    if std::os::unix::process::parent_id() != parent {
        return Err(failed(io::Error::other("it is gone already")));
    }
    Ok(())
}

/// seccomp, Landlock and capabilities bind the thread that asks for them and those it starts, not those that run already: a
/// library may have started one as it was loaded.
fn check_one_thread() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => Err(io::Error::other(format!("there are {threads}"))),
    }
}

/// Address space in use, in bytes (proc(5), statm).
fn mapped_bytes() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().next().and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm is not understood"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

fn close_descriptors() -> io::Result<()> {
    // SAFETY: nothing in this process uses a descriptor above the standard three after this; a libc call that changes no
    // memory.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A rule set that handles every right there is and grants none.
fn deny_files() -> Result<Landlock, RulesetError> {
    let newest = ABI::V6;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_other_threads_is_left_as_it_is() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv());
        let error = confine(Allowance { memory: 1, cpu_seconds: 1 }).unwrap_err();
        assert!(error.to_string().contains("one thread"), "{error}");
        drop(stop);
        assert!(other.join().unwrap().is_err());
        assert!(fs::read("/proc/self/status").is_ok(), "not even files are closed to it");
    }
}
