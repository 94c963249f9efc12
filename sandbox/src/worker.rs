//! The server's side: a process that is given bytes and watched until it ends.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_getfl, fcntl_setfl, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::Error;

/// How often a watcher looks whether anybody still waits.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of stderr that a process may write; beyond that it is not reporting but flooding.
const STDERR: usize = 64 << 10;

/// Characters of stderr that are kept, for the log.
const SAID: usize = 300;

/// The variable by which a program may find its libraries; all others stay behind.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// How much a watcher puts up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Wall time from the start of the process.
    pub wall: Duration,
    /// Bytes on stdout.
    pub stdout: usize,
}

/// A process that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// All that it wrote to stdout: any bytes at all.
    pub stdout: Vec<u8>,
    /// The first line that it wrote to stderr, shortened and without control characters. Not to be shown to strangers.
    pub said: String,
    /// How it ended.
    pub status: ExitStatus,
    /// CPU time used.
    pub cpu: Duration,
    /// Largest resident memory in bytes, or that of the process that started it if that is larger: Linux hands the mark
    /// on.
    pub peak_memory: u64,
}

/// A running process in a process group of its own. Dropped, the group is killed.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    started: Instant,
    reaped: bool,
}

impl Worker {
    /// Starts `command` with `input` on stdin as a memory file that nobody can change any more, with pipes for stdout and
    /// stderr, in the folder `/`, and with no environment.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub fn spawn(mut command: Command, input: &[u8]) -> Result<Self, Error> {
        let failed = |step| move |source| Error::Process { step, source };
        let input = sealed(input).map_err(failed("hand the bytes over"))?;
        command.env_clear().current_dir("/").process_group(0);
        command.envs(std::env::var_os(LIBRARIES).map(|folders| (LIBRARIES, folders)));
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        Ok(Self { child: command.spawn().map_err(failed("start"))?, started, reaped: false })
    }

    /// The process id, which is also the group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process has ended, kills its group, and gives what it wrote. `abandoned` is asked ten times a
    /// second whether to give up.
    ///
    /// # Errors
    /// [`Error::TooSlow`], [`Error::TooMuch`], [`Error::Abandoned`], [`Error::Process`]. The process is gone in any case.
    pub fn finish(mut self, patience: Patience, abandoned: impl Fn() -> bool) -> Result<Finished, Error> {
        let failed = |source: io::Error| Error::Process { step: "watch", source };
        let stdout = self.child.stdout.take().map(OwnedFd::from);
        let stderr = self.child.stderr.take().map(OwnedFd::from);
        let mut stdout = Pipe::new("stdout", stdout, patience.stdout).map_err(failed)?;
        let mut stderr = Pipe::new("stderr", stderr, STDERR).map_err(failed)?;
        let alive = pidfd_open(self.pid(), PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
        let mut ended = false;
        while !(ended && stdout.is_done() && stderr.is_done()) {
            let elapsed = self.started.elapsed();
            let left = patience.wall.saturating_sub(elapsed);
            if left.is_zero() {
                return Err(Error::TooSlow { seconds: elapsed.as_secs_f64() });
            }
            if abandoned() {
                return Err(Error::Abandoned);
            }
            let alive = (!ended).then(|| alive.as_fd());
            let waiting: Vec<_> = [alive, stdout.fd(), stderr.fd()].into_iter().flatten().collect();
            let mut waiting: Vec<_> = waiting.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            match poll(&mut waiting, Some(&timespec(left.min(LOOK)))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            ended |= alive.is_some() && !waiting[0].revents().is_empty();
            stdout.read()?;
            stderr.read()?;
        }
        self.kill_group();
        let (status, cpu, peak_memory) = reap(self.pid()).map_err(failed)?;
        self.reaped = true;
        Ok(Finished { stdout: stdout.bytes, said: first_line(&stderr.bytes), status, cpu, peak_memory })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn kill_group(&self) {
        // Until the process is reaped its id cannot be another's. Nobody is left to kill where all have ended.
        let _ = kill_process_group(self.pid(), Signal::KILL);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill_group();
            // Nobody is left to tell if even this fails.
            let _ = reap(self.pid());
        }
    }
}

/// The parent's end of a pipe, read without waiting.
struct Pipe {
    name: &'static str,
    end: Option<File>,
    bytes: Vec<u8>,
    limit: usize,
}

impl Pipe {
    fn new(name: &'static str, end: Option<OwnedFd>, limit: usize) -> io::Result<Self> {
        if let Some(end) = &end {
            fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { name, end: end.map(File::from), bytes: Vec::new(), limit })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(AsFd::as_fd)
    }

    fn is_done(&self) -> bool {
        self.end.is_none()
    }

    /// Takes what is there; at the end the pipe is closed.
    fn read(&mut self) -> Result<(), Error> {
        let mut part = [0; 64 << 10];
        while let Some(end) = &mut self.end {
            match end.read(&mut part) {
                Ok(0) => self.end = None,
                Ok(count) if self.bytes.len() + count > self.limit => {
                    return Err(Error::TooMuch { stream: self.name, limit: self.limit });
                }
                Ok(count) => self.bytes.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Process { step: "read", source }),
            }
        }
        Ok(())
    }
}

/// A file in memory with these bytes, at its start, which can neither be written nor cut any more.
fn sealed(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Some systems demand that it can never be executed; kernels before 6.3 do not know the flag.
    let created =
        memfd_create("clip", flags | MemfdFlags::NOEXEC_SEAL).or_else(|_| memfd_create("clip", flags));
    let mut file = File::from(created?);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// Waits for a child's end and gives its status, CPU time and largest resident memory in bytes.
fn reap(pid: Pid) -> io::Result<(ExitStatus, Duration, u64)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are valid for the call, which fills them.
        let waited = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, usage.as_mut_ptr()) };
        match waited {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => break,
        }
    }
    // SAFETY: zeroed, and filled by the call that succeeded: plain numbers in any case.
    let usage = unsafe { usage.assume_init() };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs()) + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok((ExitStatus::from_raw(status), cpu, usage.ru_maxrss.unsigned_abs() << 10))
}

fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).take(SAID).collect()
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &[u8]) -> Worker {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Worker::spawn(command, input).unwrap()
    }

    fn patience(millis: u64, stdout: usize) -> Patience {
        Patience { wall: Duration::from_millis(millis), stdout }
    }

    const LONG: u64 = 60_000;

    fn is_gone(id: u32) -> bool {
        rustix::process::test_kill_process(Pid::from_raw(id.cast_signed()).unwrap()).is_err()
    }

    #[test]
    fn bytes_go_in_and_come_out_and_the_end_is_told() {
        let input = vec![7; 1 << 20];
        let done = shell("cat; echo 'a\tb' >&2; echo more >&2; exit 3", &input);
        let done = done.finish(patience(LONG, 1 << 20), || false).unwrap();
        assert_eq!(done.stdout, input);
        assert_eq!((done.said.as_str(), done.status.code()), ("ab", Some(3)));
        assert!(done.peak_memory > 0);
    }

    #[test]
    fn the_input_cannot_be_changed_and_the_surroundings_are_bare() {
        let script = "echo x 1>&0 && echo writable; pwd; env | grep -v ^PWD= | grep -v ^_=";
        let done = shell(script, b"input").finish(patience(LONG, 4096), || false).unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with(LIBRARIES)).collect();
        assert_eq!(lines, ["/"]);
    }

    #[test]
    fn one_byte_too_many_ends_it() {
        let flood = shell("yes", b"");
        let id = flood.id();
        let error = flood.finish(patience(LONG, 4096), || false).unwrap_err();
        assert!(matches!(error, Error::TooMuch { stream: "stdout", limit: 4096 }), "{error}");
        assert!(is_gone(id));
        let error = shell("yes >&2", b"").finish(patience(LONG, 4096), || false).unwrap_err();
        assert!(matches!(error, Error::TooMuch { stream: "stderr", .. }), "{error}");
    }

    #[test]
    fn whoever_is_late_is_killed_with_all_of_its_group() {
        let stopped = shell("sleep 1000 & echo $!; kill -STOP $$", b"");
        let id = stopped.id();
        let error = stopped.finish(patience(300, 4096), || false).unwrap_err();
        assert!(matches!(error, Error::TooSlow { .. }), "{error}");
        assert!(is_gone(id));
        // Its child held the group's id, and the pipe, until it was killed as well.
        let left = shell("sleep 1000 >/dev/null 2>&1 & echo $!", b"");
        let done = left.finish(patience(LONG, 4096), || false).unwrap();
        let orphan: u32 = String::from_utf8(done.stdout).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{orphan}/stat")).unwrap_or_default();
        while state().contains("(sleep) S") {}
    }

    #[test]
    fn what_nobody_waits_for_is_killed() {
        let worker = shell("sleep 1000", b"");
        let id = worker.id();
        assert!(matches!(worker.finish(patience(LONG, 0), || true), Err(Error::Abandoned)));
        assert!(is_gone(id));
        let dropped = shell("sleep 1000", b"");
        let id = dropped.id();
        drop(dropped);
        assert!(is_gone(id));
    }

    #[test]
    fn a_death_by_signal_is_told() {
        let done = shell("kill -KILL $$", b"").finish(patience(LONG, 0), || false).unwrap();
        assert_eq!(done.status.signal(), Some(9));
    }
}
