//! Clips as latents, encoded once and kept in memory, from which the training loop draws windows.
//!
//! A window starts at a block boundary of its clip, so that labels, which hold for whole blocks, stay aligned. Which
//! windows a step sees is a function of (seed, step): a resumed run sees what the uninterrupted one would have seen.

use acdit_codec::vae::VaeEncoder;
use acdit_codec::{Frame, color};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use crate::Error;

/// Frames encoded at a time: bounds memory, and keeps a VAE's temporaries in cache.
const ENCODE_FRAMES: usize = 32;

/// Encoded clips of one shape.
#[derive(Debug)]
pub struct LatentBank {
    frames_per_block: i64,
    clips: Vec<Clip>,
}

#[derive(Debug)]
struct Clip {
    /// (T, F, C, h, w) f32.
    blocks: Tensor,
    /// One label per block.
    labels: Vec<i64>,
}

impl LatentBank {
    /// An empty bank of clips in blocks of `frames_per_block` frames.
    pub fn new(frames_per_block: i64) -> Self {
        Self { frames_per_block, clips: Vec::new() }
    }

    /// Encodes one clip and adds it: `labels` has one entry per whole block; frames beyond are left out.
    ///
    /// # Errors
    /// [`Error::Dataset`] for a clip shorter than its labels; [`Error::Codec`].
    pub fn push(&mut self, encoder: &VaeEncoder, frames: &[Frame], labels: &[i64]) -> Result<(), Error> {
        let needed = labels.len() * self.frames_per_block as usize;
        if labels.is_empty() || frames.len() < needed {
            let (given, blocks) = (frames.len(), labels.len());
            return Err(Error::Dataset(format!("a clip of {given} frames for {blocks} blocks")));
        }
        let pieces = (frames[..needed].chunks(ENCODE_FRAMES))
            .map(|chunk| Ok(encoder.encode(&color::to_tensor(chunk, Device::Cpu)?)?.to_device(Device::Cpu)))
            .collect::<Result<Vec<_>, Error>>()?;
        let latents = Tensor::cat(&pieces, 0);
        let (_, c, h, w) = latents.size4()?;
        let blocks = latents.view([labels.len() as i64, self.frames_per_block, c, h, w]);
        self.clips.push(Clip { blocks, labels: labels.to_vec() });
        Ok(())
    }

    /// Clips held.
    pub fn len(&self) -> usize {
        self.clips.len()
    }

    /// Whether nothing has been pushed.
    pub fn is_empty(&self) -> bool {
        self.clips.is_empty()
    }

    /// The first `blocks` blocks of up to `count` clips that have as many, for streams to begin with: (clips, frames, C, h, w).
    /// `None` if there are none.
    pub fn prompts(&self, count: usize, blocks: usize) -> Option<Tensor> {
        let long = self.clips.iter().filter(|clip| clip.labels.len() >= blocks);
        let clips: Vec<Tensor> =
            long.take(count).map(|clip| clip.blocks.narrow(0, 0, blocks as i64).flatten(0, 1)).collect();
        (!clips.is_empty()).then(|| Tensor::stack(&clips, 0))
    }

    /// Latent shape (C, h, w), if there is a clip.
    pub fn latent_shape(&self) -> Option<[i64; 3]> {
        let size = self.clips.first()?.blocks.size();
        Some([size[2], size[3], size[4]])
    }

    /// The windows of step `step`: latents (batch, T, F, C, h, w) and labels (batch, T), T being `blocks`. Windows of all
    /// clips are equally likely.
    ///
    /// # Errors
    /// [`Error::Dataset`] if no clip has that many blocks.
    pub fn batch(
        &self,
        seed: u64,
        step: u64,
        batch: usize,
        blocks: usize,
    ) -> Result<(Tensor, Tensor), Error> {
        let windows = |clip: &Clip| (clip.labels.len() + 1).saturating_sub(blocks);
        let total: usize = self.clips.iter().map(windows).sum();
        if total == 0 {
            return Err(Error::Dataset(format!("none of {} clips has {blocks} blocks", self.clips.len())));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step);
        let (mut latents, mut labels) = (Vec::with_capacity(batch), Vec::with_capacity(batch * blocks));
        for _ in 0..batch {
            let mut start = rng.random_range(0..total);
            let found = self.clips.iter().find(|clip| {
                let here = start < windows(clip);
                start -= if here { 0 } else { windows(clip) };
                here
            });
            let clip = found.expect("the draw is below the sum over clips");
            latents.push(clip.blocks.narrow(0, start as i64, blocks as i64));
            labels.extend_from_slice(&clip.labels[start..start + blocks]);
        }
        let labels = Tensor::from_slice(&labels).view([batch as i64, blocks as i64]);
        Ok((Tensor::stack(&latents, 0), labels))
    }
}
