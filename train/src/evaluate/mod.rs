//! Figures of quality: how far films are from real ones, and whether they keep the rules of a world that is known.
//!
//! [`frechet_distance`] compares sets of clips by the features of a network ([`ClipFeatures`]), [`Similarity`] compares
//! frame with frame, [`RealClips`] draws what is compared with, and [`Report`] keeps what the judges of the procedural
//! worlds count. `docs/evaluation.md` says what each figure means.

mod clips;
mod frechet;
mod report;
mod script;
mod similarity;

pub use clips::{Needed, RealClip, RealClips};
pub use frechet::frechet_distance;
pub use report::{Counts, Report, WINDOW_FRAMES, share};
pub use script::{ClipFeatures, FeatureSet, PerceptualDistance};
pub use similarity::Similarity;
