//! Sessions between their beginning and the moment when somebody has learnt their ids.
//!
//! Whoever asked may hang up at any point of that way. What carries the ids there is dropped then, wherever it is, and the
//! sessions end with it.

use tokio::runtime::Handle;

use super::Rooms;

/// Sessions whose ids nobody has learnt yet. Dropping it ends them.
pub(crate) struct Unclaimed {
    rooms: Rooms,
    ids: Vec<String>,
}

impl Unclaimed {
    pub(super) fn new(rooms: Rooms, ids: Vec<String>) -> Self {
        Self { rooms, ids }
    }

    /// In the order in which they were asked for; at least one.
    pub(crate) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The id of a single one, told: it is somebody's from now on.
    pub(crate) fn claim(self) -> String {
        self.claim_all().swap_remove(0)
    }

    /// As [`claim`](Self::claim), for all of them.
    pub(crate) fn claim_all(mut self) -> Vec<String> {
        std::mem::take(&mut self.ids)
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        // Where there is no runtime any more, there is no session either.
        let Ok(runtime) = Handle::try_current() else { return };
        for id in self.ids.drain(..) {
            let rooms = self.rooms.clone();
            let end = async move {
                if rooms.close(&id).await.is_err() {
                    tracing::debug!(id, "a session that nobody waits for any more was gone already");
                }
            };
            self.rooms.tasks.spawn_on(end, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        Control, Hub, Reply, ServerConfig, WorldInfo, WorldSource,
        source::{Opened, Refusal, Sessions, Wanted},
    };

    struct World;

    impl WorldSource for World {
        fn info(&self) -> WorldInfo {
            unreachable!("nobody watches it")
        }
        fn control(&self, _: Control, _: Reply) {}
        fn request_keyframe(&self) {}
        fn viewers(&self, _: usize, _: usize) {}
    }

    struct Maker(mpsc::UnboundedSender<String>);

    impl Sessions for Maker {
        fn open_all(&self, all: &[(String, Wanted)]) -> Result<Vec<Opened>, Refusal> {
            Ok(all.iter().map(|_| (Arc::new(World) as _, Hub::new(Duration::ZERO))).collect())
        }
        fn ended(&self, id: &str) {
            let _ = self.0.send(id.to_owned());
        }
    }

    #[tokio::test]
    async fn sessions_end_unless_somebody_has_learnt_their_ids() {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let config = ServerConfig { max_sessions: 2, ..ServerConfig::default() };
        let maker: Arc<dyn Sessions> = Arc::new(Maker(ended));
        let (stop, tasks, metrics) = Default::default();
        let rooms = Rooms::new(Some(maker), &config, stop, tasks, metrics);
        let kept = rooms.open(Wanted::default()).await.unwrap().claim();
        for _ in 0..3 {
            let begun = rooms.open(Wanted::default()).await.unwrap();
            let id = begun.ids()[0].clone();
            assert!(rooms.get(&id).is_ok());
            drop(begun);
            assert_eq!(ends.recv().await, Some(id), "its place is free again");
        }
        assert_eq!(rooms.census().sessions, 1);
        assert!(rooms.get(&kept).is_ok());
    }
}
