//! Ctrl-C and SIGTERM, as a request to end well.

use std::process::exit;

use acdit_train::Interrupt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What shells report for a program that was interrupted.
pub(crate) const INTERRUPTED: i32 = 130;

/// Completes at the first of the signals that ask a program to end.
pub(crate) struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    /// Listens from now on; must be called inside a Tokio runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A flag that the first signal sets; the second one ends the program at once.
pub(crate) fn interrupt() -> anyhow::Result<Interrupt> {
    let interrupt = Interrupt::default();
    let flag = interrupt.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut ending = {
        let _inside = runtime.enter();
        Ending::listen()?
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            ending.asked().await;
            flag.set();
            ending.asked().await;
            exit(INTERRUPTED);
        });
    })?;
    Ok(interrupt)
}
