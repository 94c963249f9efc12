//! A kernel without Landlock and seccomp, as far as a program can tell.

use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Makes the system calls by which a program confines itself unknown to `command` and whatever it starts.
pub(crate) fn pretend(command: &mut Command) {
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let missing = [libc::SYS_seccomp, libc::SYS_landlock_create_ruleset].map(|call| (call, Vec::new()));
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(missing.into(), SeccompAction::Allow, unknown, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let apply = move || seccompiler::apply_filter(&program).map_err(|_| std::io::ErrorKind::Other.into());
    // SAFETY: two system calls, which a forked process may make.
    unsafe { command.pre_exec(apply) };
}
