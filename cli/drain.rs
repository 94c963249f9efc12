//! How `serve` ends, and what it tells the service manager: readiness off, sessions saved, viewers told, gone within ten seconds.

use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use acdit_io::Readiness;
use sd_notify::NotifyState;

use crate::sessions::House;
use crate::signals::{Ending, INTERRUPTED};

/// A server that has not ended so long after it was asked to is ended: something in it hangs.
const PATIENCE: Duration = Duration::from_millis(9_500);

/// The part of it that closing connections may take, once sessions are saved.
pub(crate) const CLOSING: Duration = Duration::from_secs(5);

/// What a server reports that had to be ended.
const HUNG: i32 = 1;

/// Completes when the server may close its sockets: after the first signal, and when `farewell` has saved every session.
pub(crate) async fn asked(
    mut ending: Ending,
    readiness: Readiness,
    farewell: impl FnOnce() + Send + 'static,
) {
    ending.asked().await;
    readiness.withdraw();
    tell(NotifyState::Stopping);
    tracing::info!("stopping: no new viewers");
    tokio::spawn(async move {
        ending.asked().await;
        exit(INTERRUPTED);
    });
    // A thread: what hangs may be the runtime.
    let hung = std::thread::Builder::new().name("patience".into()).spawn(|| {
        std::thread::sleep(PATIENCE);
        tracing::error!("not done {} s after the request to stop", PATIENCE.as_secs_f64());
        exit(HUNG);
    });
    if let Err(error) = hung {
        tracing::error!("nothing bounds the time to stop: {error}");
    }
    if tokio::task::spawn_blocking(farewell).await.is_err() {
        tracing::error!("the sessions could not be saved");
    }
}

/// Tells systemd that the server is there, and from then on, if it wants to know, that it still answers.
pub(crate) fn ready(house: &Arc<House>) {
    tell(NotifyState::Ready);
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // Not kept alive from here: the engine ends before the process does.
    let house = Arc::downgrade(house);
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(limit / 2);
        loop {
            beat.tick().await;
            let Some(house) = house.upgrade() else { return };
            // Through the engine's thread and back: a runtime that turns over is not all that has to live.
            if tokio::task::spawn_blocking(move || house.answers()).await.unwrap_or(false) {
                tell(NotifyState::Watchdog);
            }
        }
    });
}

/// Nothing without a service manager.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd was not told: {error}");
    }
}
