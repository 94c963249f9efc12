//! Ends what FFmpeg waits for: it asks, many times a second, whether it should give up.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ffmpeg_next::ffi::AVIOInterruptCB;

/// Says when the calls of a [`Publication`](super::Publication) give up. Clones share one; any thread may ask for the end.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<Limits>);

/// Milliseconds since `origin`.
#[derive(Debug)]
struct Limits {
    origin: Instant,
    /// Of the call that is running.
    call: AtomicU64,
    /// Of everything, once the end was asked for.
    end: AtomicU64,
}

impl Limits {
    fn in_future(&self, time: Duration) -> u64 {
        u64::try_from((self.origin.elapsed() + time).as_millis()).unwrap_or(u64::MAX)
    }

    fn is_over(&self) -> bool {
        let limit = self.call.load(Ordering::Relaxed).min(self.end.load(Ordering::Relaxed));
        self.in_future(Duration::ZERO) >= limit
    }
}

impl Default for Interrupt {
    fn default() -> Self {
        Self(Arc::new(Limits {
            origin: Instant::now(),
            call: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(u64::MAX),
        }))
    }
}

impl Interrupt {
    /// Everything is given up when `grace` has passed: what can be ended properly until then, is.
    pub fn end_within(&self, grace: Duration) {
        self.0.end.store(self.0.in_future(grace), Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    pub fn is_ending(&self) -> bool {
        self.0.end.load(Ordering::Relaxed) != u64::MAX
    }

    /// The next call may take so long.
    pub(super) fn allow(&self, time: Duration) {
        self.0.call.store(self.0.in_future(time), Ordering::Relaxed);
    }

    /// Whether a call that fails now was given up.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_over()
    }

    /// What FFmpeg asks. Valid for as long as this or a clone of it is.
    pub(super) fn callback(&self) -> AVIOInterruptCB {
        AVIOInterruptCB { callback: Some(ask), opaque: Arc::as_ptr(&self.0).cast_mut().cast() }
    }
}

extern "C" fn ask(limits: *mut c_void) -> c_int {
    // SAFETY: `callback` made it of limits that its caller keeps alive; they are atomic.
    let limits = unsafe { &*limits.cast::<Limits>() };
    limits.is_over().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_comes_before_what_a_call_may_take() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.is_over() && !interrupt.is_ending());
        interrupt.allow(Duration::ZERO);
        assert!(interrupt.is_over() && !interrupt.is_ending());
        interrupt.allow(Duration::from_secs(1000));
        assert!(!interrupt.is_over());
        interrupt.clone().end_within(Duration::from_secs(1000));
        assert!(!interrupt.is_over() && interrupt.is_ending());
        interrupt.end_within(Duration::ZERO);
        let AVIOInterruptCB { callback, opaque } = interrupt.callback();
        // SAFETY: the interrupt is there until the end of the test.
        assert_eq!(unsafe { callback.unwrap()(opaque) }, 1);
    }
}
