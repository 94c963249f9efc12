//! Strangers' clips: who may have one decoded, how many at once, and what they are told.

use std::sync::Arc;

use acdit_codec::Frame;
use acdit_io::Reply;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use tokio::sync::Semaphore;

use crate::film::Wanted;

#[cfg(feature = "video")]
mod apart;
#[cfg(not(feature = "video"))]
mod without_video;

#[cfg(feature = "video")]
pub(crate) use apart::layers;
#[cfg(feature = "video")]
use apart::{announce, last_frames};
#[cfg(not(feature = "video"))]
use without_video::{announce, last_frames};

/// Clips that are decoded at once.
const RUNNING: usize = 2;

/// Clips that wait for that; one more is refused as busy.
const WAITING: usize = 2;

/// How uploads are treated.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct UploadArgs {
    /// Seconds after which decoding an uploaded clip is given up, up to 30
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = RangedU64ValueParser::<u64>::new().range(1..=30))]
    pub(crate) upload_seconds: u64,
    /// Decode uploads even where the kernel has neither Landlock nor seccomp to confine the decoder with
    #[arg(long)]
    pub(crate) allow_unsandboxed_uploads: bool,
}

/// Decodes clips, each in a process of its own.
#[derive(Debug)]
pub(crate) struct Uploads {
    wanted: Wanted,
    args: UploadArgs,
    running: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Uploads {
    /// Takes `wanted` of each clip.
    pub(crate) fn new(wanted: Wanted, args: UploadArgs) -> Self {
        announce(args);
        let running = Arc::new(Semaphore::new(RUNNING));
        Self { wanted, args, running, places: Arc::new(Semaphore::new(RUNNING + WAITING)) }
    }

    /// Decodes a clip and passes its last frames on, or answers why there are none. Returns at once; to be called inside a
    /// Tokio runtime. If nobody waits for the reply any more, decoding ends and nothing is passed on.
    pub(crate) fn decode(
        &self,
        clip: impl AsRef<[u8]> + Send + 'static,
        reply: Reply,
        pass_on: impl FnOnce(Vec<Frame>, Reply) + Send + 'static,
    ) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return reply.refused("busy", "other clips are being decoded: try again");
        };
        let (running, wanted, args) = (self.running.clone(), self.wanted, self.args);
        tokio::spawn(async move {
            let turn = running.acquire_owned().await.expect("the semaphore is never closed");
            let decoding = tokio::task::spawn_blocking(move || {
                match last_frames(clip.as_ref(), wanted, args, || reply.is_closed()) {
                    // Whoever sent it was told that it took too long, or has left: the stream must not change now.
                    Ok(_) if reply.is_closed() => {}
                    Ok(frames) => pass_on(frames, reply),
                    Err(refusal) => reply.refused_for(refusal),
                }
                drop((turn, place));
            });
            // A panic there dropped the reply, which says so.
            let _ = decoding.await;
        });
    }
}
