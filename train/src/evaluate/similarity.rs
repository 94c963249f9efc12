//! Frame against frame: PSNR, SSIM and, where its network is at hand, LPIPS.

use acdit_codec::{Frame, color};
use serde::Serialize;
use tch::Device;

use super::PerceptualDistance;
use crate::{Error, metrics};

/// Means over frames. Each measure is taken frame by frame and then averaged, as is usual for video prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Similarity {
    /// Frames compared.
    pub frames: u64,
    /// Peak signal-to-noise ratio in dB; infinite as soon as one frame is equal to what it is compared with.
    pub psnr: f64,
    /// Structural similarity; see [`metrics::ssim`].
    pub ssim: f64,
    /// Distance by [`PerceptualDistance`], if there was one.
    pub lpips: Option<f64>,
}

impl Similarity {
    /// Between `frames` and as many `real` ones of their size, at least 11×11 pixels.
    ///
    /// # Errors
    /// [`Error::Evaluation`] for another number of frames; [`Error::Codec`], [`Error::Script`], [`Error::Torch`].
    pub fn between(
        frames: &[Frame],
        real: &[Frame],
        lpips: Option<&PerceptualDistance>,
    ) -> Result<Self, Error> {
        if frames.len() != real.len() {
            return Err(Error::Evaluation(format!(
                "{} frames against {} real ones",
                frames.len(),
                real.len()
            )));
        }
        let (a, b) = (color::to_tensor(frames, Device::Cpu)?, color::to_tensor(real, Device::Cpu)?);
        let count = frames.len() as u64;
        let mut psnr = 0.0;
        for frame in 0..count as i64 {
            psnr += metrics::psnr(&a.f_get(frame)?, &b.f_get(frame)?)? / count as f64;
        }
        let lpips = (lpips.map(|network| network.distances(&a, &b)))
            .transpose()?
            .map(|distances| f64::try_from(distances.f_mean(tch::Kind::Double)?))
            .transpose()?;
        Ok(Self { frames: count, psnr, ssim: metrics::ssim(&a, &b)?, lpips })
    }

    /// Takes the frames of `other` in.
    pub fn add(&mut self, other: &Self) {
        if self.frames == 0 || other.frames == 0 {
            *self = if self.frames == 0 { *other } else { *self };
            return;
        }
        let frames = self.frames + other.frames;
        let share = other.frames as f64 / frames as f64;
        let mean = |a: f64, b: f64| a * (1.0 - share) + b * share;
        self.psnr = mean(self.psnr, other.psnr);
        self.ssim = mean(self.ssim, other.ssim);
        self.lpips = self.lpips.zip(other.lpips).map(|(a, b)| mean(a, b));
        self.frames = frames;
    }
}

#[cfg(test)]
mod tests {
    use acdit_codec::Size;

    use super::*;

    fn flat(shade: u8) -> Frame {
        Frame::new(Size { width: 12, height: 12 }, vec![shade; 12 * 12 * 3]).unwrap()
    }

    #[test]
    fn frames_count_alike() {
        // one level of 255 is 48.13 dB, ten are 28.13
        let one = Similarity::between(&[flat(100)], &[flat(101)], None).unwrap();
        assert!((one.psnr - 48.131).abs() < 1e-3, "{one:?}");
        let two = Similarity::between(&[flat(100), flat(100)], &[flat(110), flat(110)], None).unwrap();
        assert!((two.psnr - 28.131).abs() < 1e-3 && two.ssim < one.ssim, "{two:?}");
        let mut both = Similarity::default();
        both.add(&one);
        both.add(&two);
        both.add(&Similarity::default());
        let once =
            Similarity::between(&[flat(100), flat(100), flat(100)], &[flat(101), flat(110), flat(110)], None);
        let once = once.unwrap();
        assert_eq!((both.frames, once.frames, once.lpips), (3, 3, None));
        assert!((both.psnr - once.psnr).abs() < 1e-9 && (both.ssim - once.ssim).abs() < 1e-9, "{both:?}");
        assert_eq!(Similarity::between(&[flat(9)], &[flat(9)], None).unwrap().psnr, f64::INFINITY);
        let text = Similarity::between(&[flat(9)], &[], None).unwrap_err().to_string();
        assert_eq!(text, "1 frames against 0 real ones");
    }
}
