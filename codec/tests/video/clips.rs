//! Clips made on the spot, and the measures that the tests share.

use std::path::{Path, PathBuf};
use std::process::Command;

use acdit_codec::video::{DecodeOptions, Limits};
use acdit_codec::{Frame, Size};
use tempfile::TempDir;

pub(crate) fn size(width: u32, height: u32) -> Size {
    Size { width, height }
}

pub(crate) fn options(width: u32, height: u32, frames_per_second: f64) -> DecodeOptions {
    DecodeOptions { size: size(width, height), frames_per_second, limits: Limits::FILE }
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} failed: {errors}");
    output.stdout
}

/// A folder of clips that goes away with the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Draws with a lavfi graph and encodes into `name`.
    pub(crate) fn draw(&self, name: &str, graph: &str, encoding: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut args = vec!["-v", "error", "-y", "-f", "lavfi", "-i", graph];
        args.extend(encoding);
        args.push(path.to_str().unwrap());
        run("ffmpeg", &args);
        path
    }

    /// Re-muxes an existing clip.
    pub(crate) fn remux(&self, from: &Path, name: &str, args: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut all = vec!["-v", "error", "-y", "-i", from.to_str().unwrap(), "-c", "copy"];
        all.extend(args);
        all.push(path.to_str().unwrap());
        run("ffmpeg", &all);
        path
    }
}

/// What the ffmpeg command line decodes from a file, as RGB frames of the size it comes out at.
pub(crate) fn reference(path: &Path, size: Size) -> Vec<Frame> {
    let colours = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp";
    let path = path.to_str().unwrap();
    let args = ["-v", "error", "-i", path, "-sws_flags", colours, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"];
    let rgb = run("ffmpeg", &args);
    let bytes = (size.width * size.height * 3) as usize;
    assert_eq!(rgb.len() % bytes, 0, "{path} does not come out at {size}");
    rgb.chunks(bytes).map(|frame| Frame::new(size, frame.to_vec()).unwrap()).collect()
}

/// The wanted fields of every entry that ffprobe lists, such as `frame=pict_type`.
pub(crate) fn ffprobe(path: &Path, entries: &str) -> Vec<String> {
    let path = path.to_str().unwrap();
    let args = [
        "-v",
        "error",
        "-select_streams",
        "v",
        "-count_frames",
        "-show_entries",
        entries,
        "-of",
        "csv=p=0",
        path,
    ];
    let text = String::from_utf8(run("ffprobe", &args)).unwrap();
    text.lines().map(|line| line.trim_end_matches(',').to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Peak signal-to-noise ratio over all frames, in dB.
pub(crate) fn psnr(a: &[Frame], b: &[Frame]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.size(), b.size());
        a.rgb().iter().zip(b.rgb())
    });
    let (sum, count) =
        pairs.fold((0u64, 0u64), |(sum, count), (&a, &b)| (sum + u64::from(a.abs_diff(b)).pow(2), count + 1));
    10.0 * (255.0 * 255.0 / (sum as f64 / count as f64)).log10()
}

pub(crate) fn pixel(frame: &Frame, x: u32, y: u32) -> [u8; 3] {
    let start = ((y * frame.size().width + x) * 3) as usize;
    frame.rgb()[start..start + 3].try_into().unwrap()
}

pub(crate) fn assert_near(got: [u8; 3], expected: [u8; 3], tolerance: u8, what: &str) {
    let near = got.iter().zip(expected).all(|(&g, e)| g.abs_diff(e) <= tolerance);
    assert!(near, "{what}: got {got:?}, expected {expected:?} ± {tolerance}");
}

/// A graph whose frame N is grey of luma 16 + 4 N (N ≤ 54), and the N that a decoded frame shows.
pub(crate) fn numbered(rate: &str, frames: u32) -> String {
    let end = format!("trim=end_frame={frames}");
    format!("color=black:s=32x32:r={rate},format=yuv420p,geq=lum=16+4*N:cb=128:cr=128,{end}")
}

pub(crate) fn number(frame: &Frame) -> u32 {
    let grey = f64::from(pixel(frame, frame.size().width / 2, frame.size().height / 2)[1]);
    (grey * 219.0 / 255.0 / 4.0).round() as u32
}

/// Exact H.264, for clips whose values are looked at.
pub(crate) const LOSSLESS: [&str; 6] = ["-c:v", "libx264", "-preset", "veryfast", "-qp", "0"];
