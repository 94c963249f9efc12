//! Whether a server takes new viewers: withdrawn before anything is closed, so that a load balancer looks elsewhere first.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    withdrawn: Arc<AtomicBool>,
}

impl Readiness {
    /// From now on `/readyz` answers 503, and no viewer and no session is taken any more. Those that are there stay.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Relaxed);
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Relaxed)
    }
}
