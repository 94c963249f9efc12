//! Tries what a decoder that was taken over would try: `escape [--confined] [--without LAYER]… ACT [FILE]`.
//!
//! Exit status 0: it worked. 1: the kernel refused, and the reason is on stderr. Death by SIGSYS: seccomp. For the tests, and
//! for whoever wants to see it; `--without` takes a layer away as a kernel without it would.

use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::ptr;

use acdit_sandbox::{Allowance, confine};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const ALLOWANCE: Allowance = Allowance { memory: 64 << 20, cpu_seconds: 1 };

fn main() -> ExitCode {
    let mut confined = false;
    let mut missing = Vec::new();
    let mut words = std::env::args().skip(1);
    let act = loop {
        match words.next().unwrap_or_default().as_str() {
            "--confined" => confined = true,
            "--without" => missing.extend(calls_of(&words.next().unwrap_or_default())),
            act => break act.to_owned(),
        }
    };
    let file = words.next().unwrap_or_default();
    take_away(&missing);
    if confined {
        match confine(ALLOWANCE) {
            Ok(layers) => println!("{layers}"),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        }
    }
    match attempt(&act, Path::new(&file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{act}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn attempt(act: &str, file: &Path) -> io::Result<()> {
    let done = |result: i64| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    match act {
        "nothing" => Ok(()),
        "open" => File::open(file).map(drop),
        // SAFETY: reads one byte from a descriptor that nothing here owns.
        "inherited" => done(unsafe { libc::read(9, [0u8].as_mut_ptr().cast(), 1) } as i64),
        "look" => fs::metadata(file).map(drop),
        "remove" => fs::remove_file(file),
        "socket" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "execute" => Err(Command::new("/bin/true").exec()),
        "thread" => std::thread::Builder::new().spawn(|| ())?.join().map_err(|_| io::ErrorKind::Other.into()),
        // SAFETY: the child does nothing but end.
        "fork" => unsafe {
            match libc::fork() {
                0 => libc::_exit(0),
                pid => done(pid.into()),
            }
        },
        // SAFETY: asks to be traced by its parent, which does not.
        "trace" => done(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }),
        // SAFETY: signal 0 asks only whether one could be sent.
        "signal" => done(unsafe { libc::kill(libc::getppid(), 0) }.into()),
        "code" => {
            let (write, execute) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
            // SAFETY: a fresh page, which nothing refers to, is made executable.
            unsafe {
                let page =
                    libc::mmap(ptr::null_mut(), 4096, write, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
                done(libc::mprotect(page, 4096, execute).into())
            }
        }
        "memory" => {
            Vec::<u8>::new().try_reserve_exact(2 * ALLOWANCE.memory as usize).map_err(io::Error::other)
        }
        "environment" if std::env::vars_os().count() > 0 => Ok(()),
        "environment" => Err(io::Error::other("there is none")),
        "compute" => {
            while cpu_seconds() <= ALLOWANCE.cpu_seconds {}
            Ok(())
        }
        other => Err(io::Error::other(format!("unknown act {other}"))),
    }
}

/// Whole seconds of CPU time that this process has used.
fn cpu_seconds() -> u64 {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut used) };
    used.tv_sec.unsigned_abs()
}

fn calls_of(layer: &str) -> Vec<i64> {
    match layer {
        "seccomp" => vec![libc::SYS_seccomp],
        "landlock" => vec![libc::SYS_landlock_create_ruleset],
        other => panic!("unknown layer {other}"),
    }
}

/// Makes these system calls unknown, as a kernel without them does.
fn take_away(calls: &[i64]) {
    if calls.is_empty() {
        return;
    }
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into().expect("seccompiler compiles for it");
    let program: Result<BpfProgram, _> =
        SeccompFilter::new(rules, SeccompAction::Allow, unknown, architecture).and_then(TryInto::try_into);
    let program = program.expect("a filter of numbers alone is valid");
    seccompiler::apply_filter(&program).expect("the tests need a kernel with seccomp");
}
