//! Encoded clips, from which the training loop draws windows.
//!
//! A clip's latents lie in memory or in a file that is mapped into it; a bank does not care which, is cheap to clone and may
//! be read by several threads. A window starts at a block boundary of its clip, so that labels, which hold for whole blocks,
//! stay aligned. Which windows a step sees, and which sample of each latent's posterior, is a function of (seed, step): a
//! resumed run sees what the uninterrupted one would have seen.

use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use tch::Tensor;

use crate::description::Streams;
use crate::{Description, Error};

/// Bytes of a number.
const F32: usize = size_of::<f32>();

/// Numbers (f32, little-endian), in memory or in a mapped file.
#[derive(Debug)]
pub(crate) enum Numbers {
    Owned(Vec<u8>),
    Mapped { file: Arc<Mmap>, range: Range<usize> },
}

impl Deref for Numbers {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped { file, range } => &file[range.clone()],
        }
    }
}

/// The latents of a clip, (T, F, C, h, w): their scaled mean, and the standard deviation if the VAE's posterior has one.
#[derive(Debug)]
pub(crate) struct Latents {
    pub(crate) mean: Numbers,
    pub(crate) std: Option<Numbers>,
}

/// An encoded clip.
#[derive(Debug)]
pub(crate) struct Clip {
    /// One label per block: as many as there are blocks T.
    pub(crate) labels: Vec<i64>,
    /// (F, C, h, w).
    pub(crate) block: [usize; 4],
    pub(crate) latents: Latents,
    /// Those of its mirror image, where the dataset has both.
    pub(crate) mirrored: Option<Latents>,
    /// What a network made of it, block by block, where `latents` are what it should have made.
    pub(crate) made: Option<Numbers>,
}

impl Clip {
    /// Blocks at which a window of `blocks` blocks can start.
    fn windows(&self, blocks: usize) -> usize {
        (self.labels.len() + 1).saturating_sub(blocks)
    }

    /// Bytes of all its latents.
    pub(crate) fn bytes(&self) -> usize {
        let of = |latents: &Latents| latents.mean.len() + latents.std.as_ref().map_or(0, |std| std.len());
        of(&self.latents) + self.mirrored.as_ref().map_or(0, of)
    }

    /// Where some of its blocks lie in [`Numbers`].
    fn bytes_of(&self, blocks: Range<usize>) -> Range<usize> {
        let block = self.block.iter().product::<usize>() * F32;
        blocks.start * block..blocks.end * block
    }
}

/// Encoded clips of one shape.
#[derive(Debug, Clone)]
pub struct LatentBank {
    description: Arc<Description>,
    clips: Arc<Vec<Arc<Clip>>>,
}

/// Which windows a run's steps see.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    /// Of all draws.
    pub seed: u64,
    /// Windows of a step.
    pub batch: usize,
    /// Blocks of a window.
    pub blocks: usize,
    /// (rank, processes): of a step's windows those from the rank on, every how many-th there are processes.
    pub share: (usize, usize),
}

impl Draws {
    /// Those of a run by one process.
    pub fn new(seed: u64, batch: usize, blocks: usize) -> Self {
        Self { seed, batch, blocks, share: (0, 1) }
    }
}

/// Windows of clips, as a step sees them.
#[derive(Debug, PartialEq)]
pub struct Windows {
    /// What is to be learnt: (N, T, F, C, h, w).
    pub latents: Tensor,
    /// What later blocks go on from, likewise, where that is something else: of clips that a network made (see [`crate::dagger`]).
    pub context: Option<Tensor>,
    /// (N, T).
    pub labels: Tensor,
}

/// A window as it is drawn.
struct Window<'a> {
    clip: &'a Clip,
    start: usize,
    latents: &'a Latents,
    /// Seed of the sample of its posterior, if it has one.
    noise: Option<u64>,
}

impl LatentBank {
    pub(crate) fn new(description: Description, clips: Vec<Clip>) -> Self {
        let clips = clips.into_iter().map(Arc::new).collect();
        Self { description: Arc::new(description), clips: Arc::new(clips) }
    }

    /// What the clips are.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Clips held.
    pub fn len(&self) -> usize {
        self.clips.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.clips.is_empty()
    }

    /// Latent shape (C, h, w), if there is a clip.
    pub fn latent_shape(&self) -> Option<[i64; 3]> {
        let [_, c, h, w] = self.clips.first()?.block;
        Some([c as i64, h as i64, w as i64])
    }

    /// The first `blocks` blocks of up to `count` clips that have as many, for streams to begin with: (clips, frames, C, h, w).
    /// `None` if there are none.
    pub fn prompts(&self, count: usize, blocks: usize) -> Option<Tensor> {
        let long: Vec<&Arc<Clip>> =
            self.clips.iter().filter(|clip| clip.labels.len() >= blocks).take(count).collect();
        let [f, c, h, w] = long.first()?.block;
        let beginning = |clip: &&Arc<Clip>| numbers(&clip.latents.mean[clip.bytes_of(0..blocks)]).collect();
        let beginnings: Vec<Vec<f32>> = long.iter().map(beginning).collect();
        Some(tensor(&beginnings.concat(), &[long.len(), blocks * f, c, h, w]))
    }

    /// With these clips beside its own; `streams` says what they are.
    pub(crate) fn with(&self, streams: Streams, clips: Vec<Clip>) -> Self {
        let description = Description { streams: Some(streams), ..(*self.description).clone() };
        let clips = self.clips.iter().cloned().chain(clips.into_iter().map(Arc::new)).collect();
        Self { description: Arc::new(description), clips: Arc::new(clips) }
    }

    /// The windows of step `step`. Windows of all clips are equally likely, as are a clip and its mirror image.
    ///
    /// # Errors
    /// [`Error::Dataset`] if no clip has that many blocks.
    pub fn batch(&self, draws: &Draws, step: u64) -> Result<Windows, Error> {
        let (blocks, (rank, processes)) = (draws.blocks, draws.share);
        let windows: Vec<_> = self.draw(draws, step)?.into_iter().skip(rank).step_by(processes).collect();
        let batch = windows.len();
        let [f, c, h, w] = windows.first().map_or([0; 4], |window| window.clip.block);
        let mut latents = Vec::with_capacity(batch * blocks * f * c * h * w);
        let mut labels = Vec::with_capacity(batch * blocks);
        let any_made = windows.iter().any(|window| window.clip.made.is_some());
        let mut context = Vec::new();
        for Window { clip, start, latents: from, noise } in &windows {
            let (bytes, place) = (clip.bytes_of(*start..start + blocks), latents.len());
            let mean = numbers(&from.mean[bytes.clone()]);
            match (&from.std, noise) {
                (Some(std), Some(seed)) => {
                    let noise = ChaCha8Rng::seed_from_u64(*seed).sample_iter::<f32, _>(StandardNormal);
                    let sample = mean.zip(numbers(&std[bytes.clone()])).zip(noise);
                    latents.extend(sample.map(|((mean, std), noise)| mean + std * noise));
                }
                _ => latents.extend(mean),
            }
            match &clip.made {
                Some(made) => context.extend(numbers(&made[bytes])),
                None if any_made => context.extend_from_slice(&latents[place..]),
                None => {}
            }
            labels.extend_from_slice(&clip.labels[*start..start + blocks]);
        }
        let labels = Tensor::from_slice(&labels).view([batch as i64, blocks as i64]);
        let shape = [batch, blocks, f, c, h, w];
        let context = any_made.then(|| tensor(&context, &shape));
        Ok(Windows { latents: tensor(&latents, &shape), context, labels })
    }

    /// The windows of all processes.
    fn draw(&self, draws: &Draws, step: u64) -> Result<Vec<Window<'_>>, Error> {
        let &Draws { seed, batch, blocks, .. } = draws;
        let total: usize = self.clips.iter().map(|clip| clip.windows(blocks)).sum();
        if total == 0 {
            return Err(Error::Dataset(format!("none of {} clips has {blocks} blocks", self.clips.len())));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step);
        let window = |_| {
            let mut start = rng.random_range(0..total);
            let found = self.clips.iter().find(|clip| {
                let windows = clip.windows(blocks);
                let here = start < windows;
                start -= if here { 0 } else { windows };
                here
            });
            let clip = found.expect("the draw is below the sum over clips");
            let latents = match &clip.mirrored {
                Some(mirrored) if rng.random() => mirrored,
                _ => &clip.latents,
            };
            let noise = latents.std.as_ref().map(|_| rng.random());
            Window { clip, start, latents, noise }
        };
        Ok((0..batch).map(window).collect())
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(F32).map(|number| {
        f32::from_le_bytes(number.try_into().expect("chunks_exact gives chunks of just that length"))
    })
}

fn tensor(numbers: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(numbers).view(&shape.iter().map(|&length| length as i64).collect::<Vec<_>>()[..])
}

#[cfg(test)]
pub(crate) mod tests {
    use tch::Kind;

    use super::*;
    use crate::listing::Split;

    /// Clips of that many blocks of one number each, which counts on from clip to clip; a clip's label is its place.
    pub(crate) fn counting(blocks: &[usize]) -> LatentBank {
        let description = Description {
            dataset: "counting".into(),
            labels: (0..blocks.len()).map(|label| label.to_string()).collect(),
            fps: 1.0,
            seed: None,
            streams: None,
            list: None,
            fold: None,
            split: Split::Train,
            mirrored: false,
            width: 1,
            height: 1,
            frame_interval: 1,
            frames_per_block: 1,
            blocks: 1,
        };
        let mut numbers = 0u8..;
        let mut clip = |(label, &blocks): (usize, &usize)| {
            let mean =
                numbers.by_ref().take(blocks).flat_map(|number| f32::from(number).to_le_bytes()).collect();
            let latents = Latents { mean: Numbers::Owned(mean), std: None };
            Clip { labels: vec![label as i64; blocks], block: [1; 4], latents, mirrored: None, made: None }
        };
        LatentBank::new(description, blocks.iter().enumerate().map(&mut clip).collect())
    }

    #[test]
    fn windows_of_all_clips_are_equally_likely() {
        let bank = counting(&[3, 1, 4]);
        let Windows { latents, labels, .. } = bank.batch(&Draws::new(1, 5000, 2), 0).unwrap();
        assert_eq!((latents.size(), labels.size()), (vec![5000, 2, 1, 1, 1, 1], vec![5000, 2]));
        let latents = Vec::<Vec<f32>>::try_from(latents.view([5000, 2])).unwrap();
        let labels = Vec::<Vec<i64>>::try_from(labels).unwrap();
        let starts = [(0.0, 0), (1.0, 0), (4.0, 2), (5.0, 2), (6.0, 2)];
        for (start, label) in starts {
            let drawn = latents.iter().zip(&labels).filter(|(window, _)| window[0] == start);
            let right =
                drawn.filter(|(window, labels)| window[1] == start + 1.0 && **labels == [label, label]);
            let count = right.count();
            assert!((900..1100).contains(&count), "{start}: {count} of 5000");
        }
        assert!(
            bank.batch(&Draws::new(1, 1, 5), 0)
                .unwrap_err()
                .to_string()
                .contains("none of 3 clips has 5 blocks")
        );
    }

    #[test]
    fn processes_take_windows_in_turn() {
        let (bank, draws) = (counting(&[30, 20]), Draws::new(1, 6, 2));
        let Windows { latents, labels, .. } = bank.batch(&draws, 4).unwrap();
        for rank in 0..3 {
            let share = bank.batch(&Draws { share: (rank, 3), ..draws }, 4).unwrap();
            let every_third = |rows: &Tensor| rows.slice(0, rank as i64, None, 3);
            assert_eq!((share.latents, share.labels), (every_third(&latents), every_third(&labels)));
        }
    }

    #[test]
    fn a_made_clip_is_the_context_and_what_it_should_have_been_the_lesson() {
        let own = counting(&[3, 3]);
        let bytes =
            |numbers: [f32; 3]| Numbers::Owned(numbers.iter().flat_map(|n| n.to_le_bytes()).collect());
        let clip = Clip {
            labels: vec![7; 3],
            block: [1; 4],
            latents: Latents { mean: bytes([9.0; 3]), std: None },
            mirrored: None,
            made: Some(bytes([5.0, 6.0, 7.0])),
        };
        let streams = Streams { count: 1, weights: "f00".into() };
        let bank = own.with(streams.clone(), vec![clip]);
        assert_eq!((bank.len(), &bank.description().streams), (3, &Some(streams)));
        let Windows { latents, context, labels } = bank.batch(&Draws::new(1, 300, 3), 0).unwrap();
        let rows =
            |tensor: Tensor| Vec::<Vec<f64>>::try_from(tensor.to_kind(Kind::Double).view([300, 3])).unwrap();
        let (latents, context, labels) = (rows(latents), rows(context.unwrap()), rows(labels));
        let mut seen = 0;
        for ((latents, context), labels) in latents.into_iter().zip(context).zip(labels) {
            if labels[0] == 7.0 {
                assert_eq!((latents, context), (vec![9.0; 3], vec![5.0, 6.0, 7.0]));
                seen += 1;
            } else {
                assert_eq!(latents, context);
            }
        }
        assert!((70..130).contains(&seen), "{seen} of 300");
    }

    #[test]
    fn prompts_are_the_beginnings_of_clips_that_are_long_enough() {
        let bank = counting(&[3, 1, 4]);
        let prompts = bank.prompts(5, 2).unwrap();
        assert_eq!(prompts.size(), [2, 2, 1, 1, 1]);
        assert_eq!(Vec::<f32>::try_from(prompts.view([-1])).unwrap(), [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(bank.prompts(1, 2).unwrap().size()[0], 1);
        assert!(bank.prompts(5, 5).is_none() && bank.prompts(0, 1).is_none());
    }
}
