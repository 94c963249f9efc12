//! What a block costs, in seconds and bytes.

use std::ops::AddAssign;

use serde::Serialize;

/// Seconds that one block spent in each stage; in the first two, together with the others of its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Denoising steps.
    pub denoise: f64,
    /// Bringing the window's keys and values up to date.
    pub context: f64,
    /// Latents to pixels.
    pub decode: f64,
    /// Pixels to packets.
    pub encode: f64,
}

impl Timings {
    /// All stages, in seconds.
    pub fn total(&self) -> f64 {
        self.denoise + self.context + self.decode + self.encode
    }

    /// The mean over `blocks` of a sum; zero blocks give zeros.
    pub fn per_block(&self, blocks: u64) -> Self {
        let share = |seconds: f64| seconds / blocks.max(1) as f64;
        Self {
            denoise: share(self.denoise),
            context: share(self.context),
            decode: share(self.decode),
            encode: share(self.encode),
        }
    }
}

impl AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.denoise += other.denoise;
        self.context += other.context;
        self.decode += other.decode;
        self.encode += other.encode;
    }
}

/// The most memory that this process held at once, in bytes; `None` where the kernel does not say.
pub fn peak_memory() -> Option<u64> {
    status_bytes("VmHWM")
}

/// The memory that this process holds now, in bytes; `None` where the kernel does not say.
pub fn resident_memory() -> Option<u64> {
    status_bytes("VmRSS")
}

fn status_bytes(key: &str) -> Option<u64> {
    parse_status(&std::fs::read_to_string("/proc/self/status").ok()?, key)
}

/// A value of `/proc/self/status`, such as `VmHWM:      1234 kB`, in bytes.
fn parse_status(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_in_bytes() {
        let text = "Name:\tx\nVmHWMore:\t9 kB\nVmHWM:\t    1234 kB\nThreads:\t3\n";
        assert_eq!(parse_status(text, "VmHWM"), Some(1234 * 1024));
        assert_eq!(parse_status(text, "VmRSS"), None);
        assert_eq!(parse_status(text, "Threads"), None);
    }

    #[test]
    fn the_peak_covers_what_was_held() {
        let held = vec![1u8; 64 << 20];
        let peak = peak_memory().unwrap();
        assert!(peak >= std::hint::black_box(held).len() as u64, "{peak}");
        assert!(peak >= resident_memory().unwrap());
    }

    #[test]
    fn means_are_per_stage() {
        let mut sum = Timings::default();
        sum += Timings { denoise: 3.0, context: 1.0, decode: 0.5, encode: 0.25 };
        sum += Timings { denoise: 1.0, context: 1.0, decode: 0.5, encode: 0.25 };
        assert_eq!(sum.total(), 7.5);
        let mean = sum.per_block(2);
        assert_eq!((mean.denoise, mean.context, mean.decode, mean.encode), (2.0, 1.0, 0.5, 0.25));
    }
}
