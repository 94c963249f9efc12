//! Real clips to measure against: drawn at random, as many of one class as of another.

use std::ops::Range;

use acdit_codec::Frame;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::dataset::{BankSize, Dataset, Skipped, Source};
use crate::listing::{Entry, Split};
use crate::procedural::{FRAMES_PER_BLOCK, Procedural};
use crate::{Error, seeds};

/// What a clip must have to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// Frames of the shortest clip.
    pub fewest: usize,
    /// Frames that a procedural clip is made with; files give all that they have.
    pub most: usize,
    /// Frames of [`RealClip::window`].
    pub window: usize,
}

/// A real clip.
#[derive(Debug, Clone)]
pub struct RealClip {
    /// All of its frames, at the dataset's size and interval.
    pub frames: Vec<Frame>,
    /// Where in it to look: [`Needed::window`] frames, every place being as likely as any other.
    pub window: Range<usize>,
    /// One label per block, or the one of all blocks.
    labels: Vec<i64>,
}

impl RealClip {
    /// The label of block `index`, which for a file may lie beyond its end.
    ///
    /// # Panics
    /// For a block beyond the end of a procedural clip.
    pub fn label(&self, index: usize) -> i64 {
        if self.labels.len() == 1 { self.labels[0] } else { self.labels[index] }
    }
}

/// Draws clips until there are no more. The classes take turns, so that their numbers differ by one at most as long as all
/// have clips left; no file comes twice. Files that cannot be used are passed over.
pub struct RealClips<'a> {
    dataset: &'a Dataset,
    needed: Needed,
    rng: ChaCha8Rng,
    source: Draw<'a>,
}

enum Draw<'a> {
    Procedural { world: Procedural, seed: u64, next: u64 },
    Files { classes: Vec<Vec<&'a Entry>>, turn: usize, skipped: Vec<Skipped> },
}

impl<'a> RealClips<'a> {
    /// Draws from the list `split`, in an order that `seed` decides. The clips of procedural worlds are never those that
    /// training sees.
    ///
    /// # Errors
    /// [`Error::Options`] for a frame interval that a procedural world does not have.
    pub fn new(dataset: &'a Dataset, split: Split, needed: Needed, seed: u64) -> Result<Self, Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let source = match &dataset.source {
            Source::Procedural(world) => {
                dataset.check(BankSize { clips: 0, blocks: 0, frames_per_block: FRAMES_PER_BLOCK })?;
                Draw::Procedural { world: *world, seed, next: 0 }
            }
            Source::Clips(listing) => {
                let mut classes = vec![Vec::new(); listing.classes.len()];
                for entry in listing.entries(split) {
                    classes[entry.label].push(entry);
                }
                // the draw takes from the end; which classes give one clip more is random too
                classes.iter_mut().for_each(|class| class.shuffle(&mut rng));
                classes.shuffle(&mut rng);
                Draw::Files { classes, turn: 0, skipped: Vec::new() }
            }
        };
        Ok(Self { dataset, needed, rng, source })
    }

    /// Files that may be drawn yet, whether they can be used or not; `None` where clips are made.
    pub fn left(&self) -> Option<usize> {
        match &self.source {
            Draw::Procedural { .. } => None,
            Draw::Files { classes, .. } => Some(classes.iter().map(Vec::len).sum()),
        }
    }

    /// Files that were passed over.
    pub fn skipped(&self) -> &[Skipped] {
        match &self.source {
            Draw::Procedural { .. } => &[],
            Draw::Files { skipped, .. } => skipped,
        }
    }

    /// The next clip; `None` if no file is left.
    ///
    /// # Errors
    /// [`Error::Codec`] for an empty size.
    pub fn draw(&mut self) -> Result<Option<RealClip>, Error> {
        let (frames, labels) = match &mut self.source {
            Draw::Procedural { world, seed, next } => {
                let blocks = self.needed.most.div_ceil(FRAMES_PER_BLOCK);
                let seed = seeds::held_out(*seed, *next);
                let (frames, labels) = world.trajectory(seed, blocks, self.dataset.size)?;
                *next += 1;
                (frames, labels.into_iter().map(|label| label as i64).collect())
            }
            Draw::Files { classes, turn, skipped } => loop {
                let turns = (0..classes.len()).map(|ahead| (*turn + ahead) % classes.len());
                let Some(class) = turns.into_iter().find(|&class| !classes[class].is_empty()) else {
                    return Ok(None);
                };
                let Some(entry) = classes[class].pop() else { continue };
                let frames =
                    self.dataset.frames(&entry.path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let reason = match frames {
                    Ok(frames) if frames.len() >= self.needed.fewest => {
                        *turn = class + 1;
                        break (frames, vec![entry.label as i64]);
                    }
                    Ok(frames) => {
                        format!("{} frames at this interval, {} needed", frames.len(), self.needed.fewest)
                    }
                    Err(error) => error.to_string(),
                };
                skipped.push(Skipped::new(&entry.path, &reason));
            },
        };
        let first = self.rng.random_range(0..=frames.len().saturating_sub(self.needed.window));
        let window = first..(first + self.needed.window).min(frames.len());
        Ok(Some(RealClip { frames, window, labels }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use acdit_codec::Size;

    use super::*;
    use crate::listing::Listing;

    const NEEDED: Needed = Needed { fewest: 8, most: 12, window: 8 };

    fn dataset(source: Source) -> Dataset {
        Dataset { source, size: Size { width: 16, height: 16 }, frame_interval: 1, seed: 0 }
    }

    #[test]
    fn procedural_clips_follow_their_seed_and_are_not_those_of_training() {
        let gravity = dataset(Source::Procedural(Procedural::Gravity));
        let draw = |seed| {
            let mut clips = RealClips::new(&gravity, Split::Train, NEEDED, seed).unwrap();
            [0, 1].map(|_| clips.draw().unwrap().unwrap())
        };
        let [first, second] = draw(3);
        assert_eq!((first.frames.len(), first.labels.len(), first.window.len()), (12, 3, 8));
        assert!(first.frames != second.frames && first.frames == draw(3)[0].frames);
        assert_ne!(first.frames, draw(4)[0].frames);
        for seed in 0..20 {
            let seen = Procedural::Gravity.trajectory(seed, 3, gravity.size).unwrap().0;
            assert!(seen != first.frames, "seed {seed} is one of training");
        }
        let third = Dataset { frame_interval: 3, ..gravity.clone() };
        let text = RealClips::new(&third, Split::Train, NEEDED, 0).err().unwrap().to_string();
        assert!(text.contains("a frame interval of 1"), "{text}");
    }

    #[test]
    fn classes_take_turns_and_what_cannot_be_read_is_passed_over() {
        let names = [("a", 5), ("b", 1), ("c", 3)];
        let train = names.iter().enumerate().flat_map(|(label, (class, count))| {
            (0..*count).map(move |clip| Entry { path: PathBuf::from(format!("{class}/{clip}.avi")), label })
        });
        let listing = Listing {
            name: "none".into(),
            rate: 25.0,
            classes: names.map(|(class, _)| class.to_owned()).into(),
            train: train.collect(),
            test: Vec::new(),
            fold: None,
            mirrored: false,
        };
        let files = dataset(Source::Clips(listing));
        let mut clips = RealClips::new(&files, Split::Train, NEEDED, 0).unwrap();
        assert_eq!((clips.left(), clips.skipped().len()), (Some(9), 0));
        assert!(clips.draw().unwrap().is_none());
        assert_eq!((clips.left(), clips.skipped().len()), (Some(0), 9));
    }

    /// Clips of one shade each, by which they are known.
    #[cfg(feature = "video")]
    #[test]
    fn classes_take_turns_and_no_file_comes_twice() {
        use acdit_codec::video::{FileConfig, FileWriter};

        let size = Size { width: 16, height: 16 };
        let folder = tempfile::tempdir().unwrap();
        let names = [("a", 5), ("b", 1), ("c", 3)];
        let shade = |class: usize, clip: usize| (20 + 60 * class + 10 * clip) as u8;
        for (class, (name, count)) in names.iter().enumerate() {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            for clip in 0..*count {
                let path = folder.path().join(name).join(format!("{clip}.mp4"));
                let config = FileConfig { source: size, scale: 1, frames_per_second: 25.0, quality: 4 };
                let mut file = FileWriter::create(path, &config).unwrap();
                // the third of class c is too short
                for _ in 0..if (class, clip) == (2, 2) { 4 } else { 20 } {
                    file.write(&Frame::new(size, vec![shade(class, clip); 16 * 16 * 3]).unwrap()).unwrap();
                }
                file.finish().unwrap();
            }
        }
        let files = dataset(Source::Clips(Listing::of_folder(folder.path()).unwrap()));
        for seed in 0..4 {
            let mut clips = RealClips::new(&files, Split::Train, NEEDED, seed).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            let mut counts = [0; 3];
            while let Some(clip) = clips.draw().unwrap() {
                let shown = clip.frames[0].rgb()[0];
                let class = clip.label(99) as usize;
                let known = (0..5).find(|&index| shown.abs_diff(shade(class, index)) < 5);
                assert!(known.is_some_and(|index| seen.insert((class, index))), "{shown} of class {class}");
                assert!((clip.frames.len(), clip.window.len()) == (20, 8) && clip.window.end <= 20);
                counts[class] += 1;
                if seen.len() == 3 {
                    assert_eq!(counts, [1, 1, 1]);
                }
                if seen.len() == 5 {
                    assert_eq!(counts, [2, 1, 2]);
                }
            }
            assert_eq!((counts, clips.skipped().len()), ([5, 1, 2], 1));
        }
    }
}
