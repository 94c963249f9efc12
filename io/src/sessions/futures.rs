//! Several ways to go on from one moment of a session, side by side: all of them begin or none does.

use crate::{
    protocol::Future,
    sessions::{Rooms, Unclaimed, full},
    source::{Fork, Refusal, Wanted},
};

impl Rooms {
    /// Begins a session for each future; they end when nobody watches them.
    pub(crate) async fn futures(&self, fork: &Fork, each: &[Future]) -> Result<Unclaimed, Refusal> {
        let wanted: Vec<Wanted> = each
            .iter()
            .map(|&Future { label, seed }| Wanted {
                label,
                seed,
                fork: Some(fork.clone()),
                ephemeral: true,
                ..Wanted::default()
            })
            .collect();
        // The message says how many there may be: a number that fits.
        let places = self.places.clone().try_acquire_many_owned(wanted.len() as u32).map_err(|_| full())?;
        self.open_all_in(wanted, places).await
    }
}
