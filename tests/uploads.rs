//! The process in which uploads are decoded, alone: what it takes, what it refuses, and what either costs.
//!
//! Apart from the other tests of the command because this program must stay smaller than the process it measures: Linux
//! hands a parent's memory mark on to its children. So no tensors here.
#![cfg(feature = "video")]

mod old_kernel;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use acdit_sandbox::{Finished, Patience, Worker};
use tempfile::TempDir;

/// Side in pixels and most frames of what is asked for.
const SIDE: u32 = 32;
const COUNT: u32 = 12;

/// The reply's reasons, by number.
const NOT_A_VIDEO: u32 = 1;
const CODEC: u32 = 2;
const TOO_LARGE: u32 = 3;
const UNCONFINED: u32 = 5;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the ffmpeg command makes of these words, in one file.
    fn make(&self, name: &str, words: &str) -> Vec<u8> {
        let made = Command::new("ffmpeg")
            .args(["-v", "error"])
            .args(words.split(' '))
            .arg(self.path(name))
            .current_dir(self.0.path())
            .status()
            .unwrap();
        assert!(made.success(), "{name}");
        std::fs::read(self.path(name)).unwrap()
    }
}

fn decoder(more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acdit-world"));
    let size = format!("--size={SIDE}x{SIDE}");
    let count = format!("--count={COUNT}");
    command.args(["decode-upload", "last", &size, "--fps=8", &count, "--seconds=20"]).args(more);
    command
}

fn finish(command: Command, clip: &[u8]) -> Finished {
    let worker = Worker::spawn(command, clip).unwrap();
    worker.finish(Patience { wall: Duration::from_secs(120), stdout: 1 << 20 }, || false).unwrap()
}

/// Reason and number of frames in a reply.
fn header(finished: &Finished) -> (u32, u32) {
    let fields: Vec<u32> =
        finished.stdout.chunks(4).take(5).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let &[version, reason, count, width, height] = &fields[..] else { panic!("{finished:?}") };
    assert_eq!((version, finished.stdout.len() as u32), (1, 20 + count * width * height * 3), "{finished:?}");
    (reason, count)
}

#[test]
fn decode_bombs_are_refused_before_they_cost_anything() {
    let folder = Folder::new();
    folder.make("second.mp4", "-f lavfi -i color=black:s=16x16:r=25 -frames:v 1000 -c:v mpeg4");
    let clip = folder.make("clip.mp4", "-f lavfi -i testsrc2=s=64x64:d=1 -pix_fmt yuv420p");
    let inner = folder.path("clip.mp4").display().to_string();
    let noise: Vec<u8> = (0..300_000u32).map(|k| (k.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let huge =
        "-f lavfi -i color=black:s=8192x8192:r=1 -frames:v 1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let bombs = [
        ("pictures of 8192x8192", TOO_LARGE, folder.make("huge.mp4", huge)),
        ("600,000 frames", TOO_LARGE, folder.make("long.mp4", "-stream_loop 599 -i second.mp4 -c copy")),
        (
            "a playlist named .avi",
            NOT_A_VIDEO,
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{inner}\n#EXT-X-ENDLIST\n").into_bytes(),
        ),
        ("ffconcat named .mp4", NOT_A_VIDEO, format!("ffconcat version 1.0\nfile '{inner}'\n").into_bytes()),
        ("an exotic codec", CODEC, folder.make("exotic.mkv", "-f lavfi -i testsrc2=s=64x64:d=1 -c:v ffv1")),
        ("a truncated file", NOT_A_VIDEO, clip[..clip.len() / 2].to_vec()),
        ("a header and noise", NOT_A_VIDEO, [&clip[..40], &noise].concat()),
        ("noise", NOT_A_VIDEO, noise),
        ("nothing", NOT_A_VIDEO, Vec::new()),
    ];
    for (what, reason, bytes) in bombs {
        let refused = finish(decoder(&[]), &bytes);
        let (megabytes, cpu) = (refused.peak_memory >> 20, refused.cpu);
        println!("{what}: {} bytes, {megabytes} MiB at most, {cpu:?} of CPU", bytes.len());
        assert_eq!(header(&refused), (reason, 0), "{what}: {}", refused.said);
        assert!(megabytes < 256, "{what}: {megabytes} MiB");
        assert!(cpu < Duration::from_secs(1), "{what}: {cpu:?}");
    }
}

#[test]
fn every_accepted_codec_decodes_under_confinement() {
    let folder = Folder::new();
    for (name, codec) in [
        ("a.mp4", "libx264 -pix_fmt yuv420p"),
        ("a.mov", "libx265 -x265-params log-level=none"),
        ("a.webm", "libvpx"),
        ("b.webm", "libvpx-vp9"),
        ("a.mkv", "libaom-av1 -cpu-used 8"),
        ("a.avi", "mpeg4"),
        ("b.avi", "mjpeg -pix_fmt yuvj420p"),
    ] {
        let clip = folder.make(name, &format!("-f lavfi -i testsrc2=s=64x48:r=16:d=1 -c:v {codec}"));
        let finished = finish(decoder(&[]), &clip);
        assert_eq!(header(&finished), (0, 8), "{codec}: {finished:?}");
        assert_eq!(finished.status.code(), Some(0), "{codec}");
        assert!(finished.stdout[20..].iter().any(|&byte| byte > 100), "{codec}: not black");
    }
}

/// As on a kernel that has neither Landlock nor seccomp.
fn on_an_old_kernel(mut command: Command) -> Command {
    old_kernel::pretend(&mut command);
    command
}

#[test]
fn nothing_is_read_where_nothing_would_confine_the_decoder() {
    let folder = Folder::new();
    let clip = folder.make("a.mp4", "-f lavfi -i testsrc2=s=64x48:r=16:d=1 -pix_fmt yuv420p");
    let refused = finish(on_an_old_kernel(decoder(&[])), &clip);
    assert_eq!(header(&refused), (UNCONFINED, 0));
    assert_eq!(refused.said, "rlimits, no_new_privs, no landlock, no seccomp");
    let anyway = finish(on_an_old_kernel(decoder(&["--even-unconfined"])), &clip);
    assert_eq!(header(&anyway), (0, 8), "{}", anyway.said);
}

#[test]
fn a_decoder_whose_parent_is_gone_does_not_begin() {
    let orphan = finish(decoder(&["--parent=1"]), b"");
    assert_eq!((orphan.stdout.len(), orphan.status.code()), (0, Some(1)), "{orphan:?}");
    assert!(orphan.said.contains("die with the parent"), "{}", orphan.said);
}
