//! The seam to whatever makes the pictures.
//!
//! A source never waits for the network and the network never waits for a source: controls go in without blocking
//! and are answered later through a [`Reply`]; packets come out through [`Hub::publish`](crate::Hub::publish).

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::protocol::WorldInfo;

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
}

/// What viewers can make a world do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Use another label from the next block on.
    Label {
        /// Index into [`WorldInfo::labels`], within bounds.
        index: u32,
    },
    /// Stop after the block being made.
    Pause,
    /// Go on.
    Resume,
    /// Make one block while paused.
    Step,
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
