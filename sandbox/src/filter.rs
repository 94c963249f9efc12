//! The system calls that are left: those that computing, allocating, and reading and writing open descriptors need.
//!
//! Anything else kills the process: opening, sockets, new processes and threads, `ptrace`, signals to others, new executable
//! memory. Decoders run on one thread, so not even `clone` is needed.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule,
};

/// Allowed whatever the arguments are. There are no descriptors but stdin, stdout and stderr, and no way to new ones.
const ALWAYS: [i64; 27] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // Stack overflows and aborts are reported by handlers.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Puts the filter on this thread and all it could start.
pub(crate) fn apply() -> io::Result<()> {
    let program = compile().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        other => io::Error::other(other),
    })
}

fn compile() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<Rule>> = ALWAYS.map(|call| (call, Vec::new())).into();
    // Memory, as long as it is not made executable.
    let not_executable = |argument| {
        let bits = Is::MaskedEq(libc::PROT_EXEC.unsigned_abs().into());
        Rule::new(vec![Condition::new(argument, Width::Dword, bits, 0)?])
    };
    rules.insert(libc::SYS_mmap, vec![not_executable(2)?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable(2)?]);
    // `abort` signals its own process, and its end is then told from a forbidden call.
    let own = Condition::new(0, Width::Dword, Is::Eq, std::process::id().into())?;
    let abort = Condition::new(2, Width::Dword, Is::Eq, libc::SIGABRT.unsigned_abs().into())?;
    rules.insert(libc::SYS_tgkill, vec![Rule::new(vec![own, abort])?]);

    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?.try_into()
}
