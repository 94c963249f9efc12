//! Offline: blocks as fast as they come, for files instead of viewers.

use acdit_codec::vae::VaeDecoder;
use acdit_codec::{Frame, color};

use crate::batch::{self, Row};
use crate::{Block, Result, Session, StepInput, Timings, World};

/// A block with its pictures.
#[derive(Debug)]
pub struct Rendered {
    /// The block as the session committed it.
    pub block: Block,
    /// Its F frames.
    pub frames: Vec<Frame>,
    /// What it cost.
    pub timings: Timings,
}

/// Steps `session` once per label and decodes each block. Lazy: a block is made when it is asked for.
///
/// An error leaves the session as it was before that block; asking again goes on with the next label.
pub fn render(
    world: &World,
    decoder: &VaeDecoder,
    session: &mut Session,
    labels: impl IntoIterator<Item = i64>,
) -> impl Iterator<Item = Result<Rendered>> {
    labels.into_iter().map(move |label| {
        let (block, mut timings) =
            batch::step_at(world, session, &StepInput { label, inject: None }, Row::ALONE)?;
        let started = std::time::Instant::now();
        let frames =
            tch::no_grad(|| Ok::<_, crate::Error>(color::to_frames(&decoder.decode(&block.latents)?)?))?;
        timings.decode = started.elapsed().as_secs_f64();
        Ok(Rendered { block, frames, timings })
    })
}
