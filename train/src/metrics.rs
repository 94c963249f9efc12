//! How close pictures are: PSNR and SSIM over pixels in [-1, 1].

use tch::{Kind, Tensor};

/// The range of the pixels, which both measures are relative to.
const RANGE: f64 = 2.0;
const SSIM_WINDOW: i64 = 11;
const SSIM_SIGMA: f64 = 1.5;

/// Peak signal-to-noise ratio in dB, from the mean squared error over all of `a` and `b`; infinite where they are equal.
///
/// # Errors
/// libtorch's, for shapes that differ.
pub fn psnr(a: &Tensor, b: &Tensor) -> Result<f64, tch::TchError> {
    let error = f64::try_from(a.f_sub(b)?.f_square()?.f_mean(Kind::Double)?)?;
    Ok(10.0 * (RANGE * RANGE / error).log10())
}

/// Structural similarity (Wang et al. 2004): Gaussian windows of 11×11 pixels, σ = 1.5, K = (0.01, 0.03), mean over
/// windows that lie inside the picture, over channels and over frames.
///
/// # Shapes
/// Both (F, C, H, W), at least 11×11 pixels.
///
/// # Errors
/// libtorch's, for other shapes.
pub fn ssim(a: &Tensor, b: &Tensor) -> Result<f64, tch::TchError> {
    let (_, channels, _, _) = a.size4()?;
    let offsets = Tensor::arange(SSIM_WINDOW, (Kind::Double, a.device())) - (SSIM_WINDOW / 2) as f64;
    let bell = (offsets.square() / (-2.0 * SSIM_SIGMA * SSIM_SIGMA)).exp();
    let bell = &bell / bell.sum(Kind::Double);
    let window = bell.outer(&bell).f_view([1, 1, SSIM_WINDOW, SSIM_WINDOW])?;
    let window = window.f_expand([channels, 1, SSIM_WINDOW, SSIM_WINDOW], false)?;
    let blur = |xs: &Tensor| xs.f_conv2d(&window, None::<Tensor>, 1, 0, 1, channels);

    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    let (mean_a, mean_b) = (blur(&a)?, blur(&b)?);
    let variance_a = blur(&a.square())? - mean_a.square();
    let variance_b = blur(&b.square())? - mean_b.square();
    let covariance = blur(&a.f_mul(&b)?)? - &mean_a * &mean_b;
    let (c1, c2) = ((0.01 * RANGE).powi(2), (0.03 * RANGE).powi(2));
    let luminance = (&mean_a * &mean_b * 2.0 + c1) / (mean_a.square() + mean_b.square() + c1);
    let structure = (covariance * 2.0 + c2) / (variance_a + variance_b + c2);
    f64::try_from((luminance * structure).f_mean(Kind::Double)?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn ramp() -> Tensor {
        Tensor::linspace(-1.0, 1.0, 2 * 3 * 16 * 16, (Kind::Float, Device::Cpu)).view([2, 3, 16, 16])
    }

    #[test]
    fn psnr_of_a_known_error() {
        let a = ramp();
        assert!((psnr(&a, &(&a + 0.02)).unwrap() - 40.0).abs() < 1e-3); // range 2, error 0.02: 20 log10(100)
        assert_eq!(psnr(&a, &a).unwrap(), f64::INFINITY);
        assert!(psnr(&a, &a.narrow(3, 0, 15)).is_err());
    }

    #[test]
    fn ssim_of_flat_pictures_is_the_luminance_term() {
        let flat = |value: f64| Tensor::full([1, 3, 12, 12], value, (Kind::Float, Device::Cpu));
        let expected = (2.0 * 0.5 * 0.25 + 4e-4) / (0.25 + 0.0625 + 4e-4);
        assert!((ssim(&flat(0.5), &flat(0.25)).unwrap() - expected).abs() < 1e-6);
        assert!((ssim(&ramp(), &ramp()).unwrap() - 1.0).abs() < 1e-9);
        assert!(ssim(&ramp(), &-ramp()).unwrap() < 0.0);
        assert!(ssim(&flat(0.5).narrow(3, 0, 10), &flat(0.5).narrow(3, 0, 10)).is_err());
    }
}
