//! A session that begins as the continuation of a clip: with it or not at all.

use tokio::sync::oneshot;

use super::{Rooms, asked::Clip, failed, rejected};
use crate::{guard::Rejection, server::App, source::Wanted, upload};

/// Begins a session and returns its id once it goes on from the clip. It is ended again if the world does not take the
/// clip, or if nobody is left to learn its id.
pub(super) async fn begin(app: App, wanted: Wanted, clip: Clip) -> Result<String, Rejection> {
    let (mut answer, answered) = oneshot::channel();
    let tasks = app.tasks.clone();
    let Clip { bytes, turn } = clip;
    tasks.spawn(async move {
        let id = match app.rooms.open(wanted).await {
            Ok(session) => session.claim(),
            Err(refusal) => {
                let _ = answer.send(Err(rejected(refusal)));
                return;
            }
        };
        let continued = async {
            let room = app.clone().of(app.rooms.get(&id)?);
            upload::continue_from(&room, bytes).await
        };
        let continued = tokio::select! {
            continued = continued => continued.map(|_| id.clone()),
            () = answer.closed() => Ok(id.clone()),
        };
        drop(turn);
        let end = async |rooms: &Rooms| {
            if rooms.close(&id).await.is_err() {
                tracing::debug!(id, "a session that nobody waits for any more was gone already");
            }
        };
        if continued.is_err() {
            // Whoever is told so may ask again at once, and finds the place free.
            end(&app.rooms).await;
        }
        if let Err(Ok(_)) = answer.send(continued) {
            end(&app.rooms).await;
        }
    });
    answered.await.unwrap_or_else(|_| Err(rejected(failed())))
}
