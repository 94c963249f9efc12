//! The seam to whatever makes the pictures.
//!
//! A source never waits for the network and the network never waits for a source: controls go in without blocking
//! and are answered later through a [`Reply`]; packets come out through [`Hub::publish`](crate::Hub::publish).

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{Hub, protocol::WorldInfo};

/// A running world, as the server sees it. Methods are called from many tasks at once and must return at once.
pub trait WorldSource: Send + Sync + 'static {
    /// What is streamed; the same for as long as the server runs.
    fn info(&self) -> WorldInfo;

    /// Takes a control. The answer follows on `reply`, from any thread, when the control is in effect or refused.
    fn control(&self, control: Control, reply: Reply);

    /// Publish a keyframe soon, of every kind in demand: a viewer joined or fell behind. It may be the newest picture
    /// again, under the same frame number, and is if the source is paused.
    fn request_keyframe(&self);

    /// How many viewers want each kind, whenever that changes. With none, generation can rest; JPEG is encoded only
    /// when somebody wants it.
    fn viewers(&self, h264: usize, jpeg: usize);

    /// All that its blocks depend on, as JSON lines. May wait for a block.
    ///
    /// # Errors
    /// The world keeps none.
    fn log(&self) -> Result<String, Refusal> {
        Err(unsupported())
    }

    /// The blocks that can be gone back to, oldest first, as far as they were shown. May wait for a block.
    ///
    /// # Errors
    /// The world keeps none.
    fn past(&self) -> Result<Vec<PastBlock>, Refusal> {
        Err(unsupported())
    }

    /// Saves it to disk, and returns the next block. May wait for a block and for the disk.
    ///
    /// # Errors
    /// There is no place to save to.
    fn save(&self) -> Result<u64, Refusal> {
        Err(unsupported())
    }

    /// The next block of what was saved last.
    ///
    /// # Errors
    /// Nothing was.
    fn saved(&self) -> Result<u64, Refusal> {
        Err(unsupported())
    }
}

/// What a block was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PastBlock {
    /// Its number.
    pub block: u64,
    /// Index of the label that it was made with.
    pub label: u32,
    /// Frames, from the first, that came from outside.
    pub injected: u32,
}

fn unsupported() -> Refusal {
    Refusal::new("unsupported", "this world cannot do that")
}

/// A session that has begun, and where it publishes.
pub type Opened = (Arc<dyn WorldSource>, Hub);

/// A world that runs several sessions at once.
pub trait Sessions: Send + Sync + 'static {
    /// Begins several sessions under ids of the server's, all or none. Forks of one session leave the same past, whatever
    /// happens to that session meanwhile. May wait for blocks.
    ///
    /// # Errors
    /// Why there is none.
    fn open_all(&self, wanted: &[(String, Wanted)]) -> Result<Vec<Opened>, Refusal>;

    /// A session was ended for good; its source is dropped.
    fn ended(&self, id: &str);
}

/// A session to be begun. What is left out is as the world has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Its first label, within bounds.
    pub label: Option<u32>,
    /// Its seed.
    pub seed: Option<u64>,
    /// One viewer at a time.
    pub private: bool,
    /// Goes on without viewers.
    pub unattended: bool,
    /// Denoising steps per block.
    pub steps: Option<u32>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// Begins with another session's past; what is given above applies from the fork on.
    pub fork: Option<Fork>,
    /// Ends when nobody has watched it for a while.
    pub ephemeral: bool,
}

/// Where a fork leaves another session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// The other session's id.
    pub session: String,
    /// The first block that is the fork's own.
    pub block: u64,
}

/// A session that is there when the server starts.
pub struct Session {
    /// Names it in URLs; [`MAIN`](crate::MAIN) for the one that `/ws` shows.
    pub id: String,
    /// The session.
    pub source: Arc<dyn WorldSource>,
    /// Where it publishes.
    pub hub: Hub,
    /// One viewer at a time.
    pub private: bool,
    /// Goes on without viewers.
    pub unattended: bool,
}

/// What viewers can make a world do.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Control {
    /// Use another label from the next block on.
    Label {
        /// Index into [`WorldInfo::labels`], within bounds.
        index: u32,
    },
    /// Stop; applied once the blocks under way have been made and shown.
    Pause,
    /// Go on.
    Resume,
    /// Make one block while paused.
    Step,
    /// Use other noise from the next block on.
    Seed {
        /// Seed of the noise.
        seed: u64,
    },
    /// Begin a new generation with a block that was made already.
    Rewind {
        /// Its number.
        block: u64,
    },
    /// Sample otherwise from the next block on; at least one of the two is given.
    Sampling {
        /// Denoising steps per block.
        steps: Option<u32>,
        /// Guidance scale.
        guidance: Option<f64>,
    },
    /// Make these frames the first of the next block, in place of those of an earlier one that no block has taken up.
    Inject {
        /// One to [`WorldInfo::frames_per_block`] of them, oldest first: packed RGB of [`WorldInfo::input`]'s size.
        frames: Vec<Bytes>,
    },
    /// Begin or end a recording.
    Record {
        /// Whether there shall be one.
        on: bool,
    },
    /// Begin a new generation, as the stream began.
    Restart {
        /// Seed of its noise; the world chooses when absent.
        seed: Option<u64>,
    },
    /// Begin a new generation that opens with a clip's frames and goes on from them.
    Continue {
        /// A video file as it was uploaded: any bytes at all.
        clip: Bytes,
    },
}

/// How a control ended: the first block that shows it, or why it was refused.
pub type Outcome = Result<u64, Refusal>;

/// Why a world does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs, in snake case, such as `not_a_video`.
    pub code: String,
    /// For people. Sent to viewers: no paths, no addresses.
    pub message: String,
    /// For the server's log, where it stands beside the request's id. Never sent.
    pub detail: Option<String>,
}

impl Refusal {
    /// A refusal without more to say.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), detail: None }
    }

    /// The same with words for the log.
    pub fn because(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }
}

/// The one answer to a control. Dropped unanswered, it reads as refused.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Outcome>);

impl Reply {
    /// A reply and the end on which its answer arrives.
    pub fn channel() -> (Self, oneshot::Receiver<Outcome>) {
        let (answer, outcome) = oneshot::channel();
        (Self(answer), outcome)
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// The control is in effect from `block` on. A viewer that has left is no error.
    pub fn applied(self, block: u64) {
        let _ = self.0.send(Ok(block));
    }

    /// The control will not be done.
    pub fn refused(self, code: impl Into<String>, message: impl Into<String>) {
        self.refused_for(Refusal::new(code, message));
    }

    /// The control will not be done, for this reason.
    pub fn refused_for(self, refusal: Refusal) {
        let _ = self.0.send(Err(refusal));
    }
}

/// Waits for a reply's answer.
pub(crate) async fn outcome(answer: oneshot::Receiver<Outcome>) -> Outcome {
    answer.await.unwrap_or_else(|_| Err(Refusal::new("unavailable", "the world dropped the request")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_knows_whether_anybody_waits_for_it() {
        let (reply, answer) = Reply::channel();
        assert!(!reply.is_closed());
        drop(answer);
        assert!(reply.is_closed());
        reply.applied(3); // and is no error
    }
}
