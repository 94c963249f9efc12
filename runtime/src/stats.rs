//! What a block costs, in seconds and bytes, and what it is like, in two figures.

use std::ops::AddAssign;

use serde::Serialize;
use tch::{Kind, Tensor};

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

/// Mean and deviation of latents: what drifts when a stream does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Moments {
    /// Of all values.
    pub mean: f64,
    /// Root mean square distance from the mean.
    pub deviation: f64,
}

impl Moments {
    /// Of a block, of any shape.
    pub fn of(latents: &Tensor) -> Self {
        let values = latents.to_kind(Kind::Double);
        let mean = values.mean(Kind::Double);
        let deviation = (values - &mean).square().mean(Kind::Double).sqrt();
        Self { mean: mean.double_value(&[]), deviation: deviation.double_value(&[]) }
    }

    /// The means of many blocks' figures, to compare one block's with; `None` of none.
    pub fn mean_of(blocks: impl IntoIterator<Item = Self>) -> Option<Self> {
        let (mut sum, mut count) = (Self::default(), 0.0);
        for Self { mean, deviation } in blocks {
            sum = Self { mean: sum.mean + mean, deviation: sum.deviation + deviation };
            count += 1.0;
        }
        (count > 0.0).then(|| Self { mean: sum.mean / count, deviation: sum.deviation / count })
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
    fn moments_are_those_of_the_values() {
        let of = |values: &[f32]| Moments::of(&Tensor::from_slice(values).view([-1, 1, 2]));
        assert_eq!(of(&[1.0, 3.0, 1.0, 3.0]), Moments { mean: 2.0, deviation: 1.0 });
        assert_eq!(of(&[0.5, 0.5]), Moments { mean: 0.5, deviation: 0.0 });
        let blocks = [Moments { mean: 2.0, deviation: 1.0 }, Moments { mean: 0.0, deviation: 0.5 }];
        assert_eq!(Moments::mean_of(blocks), Some(Moments { mean: 1.0, deviation: 0.75 }));
        assert_eq!(Moments::mean_of([]), None);
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
