//! Classifier-free guidance.

use tch::Tensor;

/// ε = ε_∅ + s · (ε_y − ε_∅) over a batch whose first half is labelled and whose second half is not: (2N, …) → (N, …).
pub fn guided(predictions: &Tensor, scale: f64) -> Tensor {
    let halves = predictions.chunk(2, 0);
    let (labelled, unlabelled) = (&halves[0], &halves[1]);
    unlabelled + (labelled - unlabelled) * scale
}
