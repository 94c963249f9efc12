//! A session's source, and the place that it takes for as long as it is there.

use std::{ops::Deref, sync::Arc};

use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::source::WorldSource;

/// A source in its place. Whoever uses the source holds this, so that a place is free only when its source is gone.
///
/// Dropping a source may wait for a block that is being made: that happens on a thread that may wait.
pub(crate) struct Tenant(Option<Parts>);

/// Dropped in this order.
struct Parts {
    source: Arc<dyn WorldSource>,
    /// The main session needs none.
    _place: Option<OwnedSemaphorePermit>,
    _gone: DropGuard,
}

impl Tenant {
    /// Cancels `gone` when the source is gone and the place free.
    pub(super) fn new(
        source: Arc<dyn WorldSource>,
        place: Option<OwnedSemaphorePermit>,
        gone: CancellationToken,
    ) -> Self {
        Self(Some(Parts { source, _place: place, _gone: gone.drop_guard() }))
    }
}

impl Deref for Tenant {
    type Target = dyn WorldSource;

    fn deref(&self) -> &Self::Target {
        &*self.0.as_ref().expect("the parts are there until the drop").source
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let parts = self.0.take();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(parts))),
            Err(_) => drop(parts),
        }
    }
}
