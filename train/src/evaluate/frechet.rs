//! The Fréchet distance between two sets of features, which FID and FVD are.
//!
//! Both sets are taken for samples of a normal distribution. Between N(μ₁, A) and N(μ₂, B) the distance is
//! |μ₁ − μ₂|² + Tr A + Tr B − 2 Tr (A^½ B A^½)^½ (Dowson and Landau 1982, *The Fréchet distance between multivariate normal
//! distributions*). With factors A = FᵀF and B = GᵀG the last trace is the sum of the singular values of F Gᵀ, which needs no
//! square root of a matrix: it is as exact for a singular covariance, of fewer samples than features, as for any other.

use tch::{Kind, Tensor};

use crate::Error;

/// The distance between features (N, D) and (M, D), computed in f64. Covariances are over N, not N − 1, as StyleGAN-V has them.
///
/// # Errors
/// [`Error::Evaluation`] for other shapes, for fewer than two samples, or for features that are not finite;
/// [`Error::Torch`].
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64, Error> {
    let (a, b) = (Moments::of(a)?, Moments::of(b)?);
    let (width_a, width_b) = (a.mean.size1()?, b.mean.size1()?);
    if width_a != width_b {
        return Err(Error::Evaluation(format!("{width_a} features against {width_b}")));
    }
    let between_means = sum_of_squares(&a.mean.f_sub(&b.mean)?)?;
    let (_, singular_values, _) = a.factor.f_matmul(&b.factor.f_transpose(0, 1)?)?.f_svd(true, false)?;
    let shared = f64::try_from(singular_values.f_sum(Kind::Double)?)?;
    Ok(between_means + sum_of_squares(&a.factor)? + sum_of_squares(&b.factor)? - 2.0 * shared)
}

struct Moments {
    /// (D,)
    mean: Tensor,
    /// (K, D) with K at most D: the covariance is `factorᵀ factor`, and its trace the sum of the factor's squares.
    factor: Tensor,
}

impl Moments {
    fn of(features: &Tensor) -> Result<Self, Error> {
        let [samples, width] = features.size()[..] else {
            return Err(Error::Evaluation(format!("features {:?}, expected (N, D)", features.size())));
        };
        if samples < 2 {
            return Err(Error::Evaluation(format!(
                "features of {samples} clips: a covariance needs at least 2"
            )));
        }
        let features = features.f_to_kind(Kind::Double)?;
        if features.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(Error::Evaluation("features that are not finite numbers".into()));
        }
        let mean = features.f_mean_dim(0, false, Kind::Double)?;
        let centred = features.f_sub(&mean)?.f_div_scalar((samples as f64).sqrt())?;
        let factor = if samples > width { Tensor::f_linalg_qr(&centred, "r")?.1 } else { centred };
        Ok(Self { mean, factor })
    }
}

fn sum_of_squares(x: &Tensor) -> Result<f64, Error> {
    Ok(f64::try_from(x.f_square()?.f_sum(Kind::Double)?)?)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use tch::Device;

    use super::*;

    #[derive(Deserialize)]
    struct Pair {
        a: Vec<Vec<f64>>,
        b: Vec<Vec<f64>>,
        distance: f64,
    }

    fn tensor(rows: &[Vec<f64>]) -> Tensor {
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
    }

    /// Made by tests/fixtures/evaluation/make.py; the second pair has more features than samples.
    #[test]
    fn the_distance_is_that_of_scipy() {
        let text = include_str!("../../../tests/fixtures/evaluation/frechet.json");
        let pairs: Vec<Pair> = serde_json::from_str(text).unwrap();
        assert_eq!(pairs.len(), 2);
        for Pair { a, b, distance } in pairs {
            let (a, b) = (tensor(&a), tensor(&b));
            for got in [frechet_distance(&a, &b).unwrap(), frechet_distance(&b, &a).unwrap()] {
                assert!((got / distance - 1.0).abs() < 1e-6, "{got}, scipy has {distance}");
            }
        }
    }

    #[test]
    fn known_distances() {
        // two points at distance 2 along one axis: variance 1 there, nothing elsewhere
        let two_points =
            |centre: f64| Tensor::from_slice(&[centre - 1.0, 5.0, centre + 1.0, 5.0]).view([2, 2]);
        let near = |a: &Tensor, b: &Tensor, expected: f64| {
            let got = frechet_distance(a, b).unwrap();
            assert!((got - expected).abs() < 1e-12, "{got}, expected {expected}");
        };
        near(&two_points(0.0), &two_points(0.0), 0.0);
        near(&two_points(0.0), &two_points(3.0), 9.0);
        // a standard deviation three times as large: (3 − 1)²
        near(&two_points(0.0), &Tensor::from_slice(&[-3.0, 5.0, 3.0, 5.0]).view([2, 2]), 4.0);
        // across one another they share nothing
        near(&two_points(0.0), &Tensor::from_slice(&[0.0, 4.0, 0.0, 6.0]).view([2, 2]), 2.0);
    }

    #[test]
    fn equal_sets_are_at_no_distance_however_few() {
        for samples in [3, 64, 500] {
            tch::manual_seed(samples);
            let x = Tensor::randn([samples, 64], (Kind::Float, Device::Cpu));
            let got = frechet_distance(&x, &x.flip([0])).unwrap();
            assert!(got.abs() < 1e-10, "{samples} samples: {got}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let refused = |a: &Tensor, needle: &str| {
            let text = frechet_distance(a, &zeros(&[4, 3])).unwrap_err().to_string();
            assert!(text.contains(needle), "{text}");
        };
        refused(&zeros(&[4]), "features [4], expected (N, D)");
        refused(&zeros(&[1, 3]), "features of 1 clips");
        refused(&zeros(&[4, 5]), "5 features against 3");
        refused(&(zeros(&[4, 3]) / 0.0), "not finite");
    }
}
