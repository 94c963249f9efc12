//! Clips become latents: decoded by several threads, encoded on one, in the order of their list.
//!
//! A clip is passed on in pieces, so that a long one needs no memory for all its frames; only its latents, a small part of
//! that, wait for its end.

use std::collections::VecDeque;
use std::thread;

use acdit_codec::vae::{Distribution, VaeEncoder};
use acdit_codec::{Error as CodecError, Frame, color};
use crossbeam::channel::{Receiver, Sender, bounded};
use tch::Device;

use crate::bank::{Clip, Latents, Numbers};
use crate::checkpoint::bytes;
use crate::dataset::{BankSize, Dataset, Source};
use crate::listing::{Entry, Split};
use crate::procedural::Procedural;
use crate::{Error, Interrupt, seeds};

/// Frames that are decoded and encoded at a time: bounds memory, and keeps a VAE's temporaries in cache.
const PIECE_FRAMES: usize = 32;
/// Pieces of a clip that wait for the VAE; a decoder waits before it adds another.
const PIECES_AHEAD: usize = 2;

/// Whole blocks of a clip, each with its label.
struct Piece {
    frames: Vec<Frame>,
    labels: Vec<i64>,
}

/// What a decoder sends of one clip.
enum Decoded {
    Piece(Piece),
    /// That was all of it, or why it cannot be used. A decoder that fails in another way sends no end.
    End(Result<(), String>),
}

/// Which clips are encoded, and by how many threads decoded.
pub(crate) struct Encoding<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) split: Split,
    pub(crate) size: BankSize,
    pub(crate) workers: usize,
}

impl Encoding<'_> {
    /// Hands the clips from number `first` of the list on to `each`, in order, each as latents or as the reason why it cannot
    /// be used, until `each` wants no more.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::Codec`] if the VAE does not fit the frames; those of `each`.
    pub(crate) fn run(
        &self,
        encoder: &VaeEncoder,
        first: usize,
        interrupt: &Interrupt,
        mut each: impl FnMut(usize, Result<Clip, String>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut numbers = first..self.dataset.count(self.split, self.size);
        let ahead = self.workers + 1; // one is being encoded
        thread::scope(|scope| {
            // All channels end in this closure: if it returns early, the decoders find them closed and return too.
            let (work, waiting) = bounded::<(usize, Sender<Decoded>)>(ahead);
            for _ in 0..self.workers {
                let waiting = waiting.clone();
                scope.spawn(move || waiting.iter().for_each(|(number, pieces)| self.decode(number, &pieces)));
            }
            let mut begun = VecDeque::with_capacity(ahead);
            loop {
                for number in numbers.by_ref().take(ahead - begun.len()) {
                    let (pieces, decoded) = bounded(PIECES_AHEAD);
                    work.send((number, pieces)).expect("`waiting` is still held here");
                    begun.push_back((number, decoded));
                }
                let Some((number, decoded)) = begun.pop_front() else { return Ok(()) };
                if !each(number, self.encode(encoder, &decoded, interrupt)?)? {
                    return Ok(());
                }
            }
        })
    }

    /// Sends a clip's pieces until all are sent or nobody wants them.
    fn decode(&self, number: usize, pieces: &Sender<Decoded>) {
        let send = |frames, labels| pieces.send(Decoded::Piece(Piece { frames, labels })).is_ok();
        let outcome = match &self.dataset.source {
            Source::Procedural(world) => self.film(*world, number, send).map_err(|e| e.to_string()),
            Source::Clips(listing) => self.read(&listing.entries(self.split)[number], send),
        };
        // Fails only where nobody waits for this clip any more.
        let _ = pieces.send(Decoded::End(outcome));
    }

    fn blocks_per_piece(&self) -> usize {
        (PIECE_FRAMES / self.size.frames_per_block).max(1)
    }

    fn film(
        &self,
        world: Procedural,
        number: usize,
        send: impl Fn(Vec<Frame>, Vec<i64>) -> bool,
    ) -> Result<(), CodecError> {
        let seed = seeds::training(self.dataset.seed, number as u64);
        let (frames, labels) = world.trajectory(seed, self.size.blocks, self.dataset.size)?;
        let blocks = self.blocks_per_piece();
        for (frames, labels) in frames.chunks(blocks * self.size.frames_per_block).zip(labels.chunks(blocks))
        {
            if !send(frames.to_vec(), labels.iter().map(|&label| label as i64).collect()) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read(&self, entry: &Entry, send: impl Fn(Vec<Frame>, Vec<i64>) -> bool) -> Result<(), String> {
        let per_block = self.size.frames_per_block;
        let mut frames = self.dataset.frames(&entry.path).map_err(|e| e.to_string())?;
        let mut count = 0;
        loop {
            let mut piece = (frames.by_ref().take(self.blocks_per_piece() * per_block))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| e.to_string())?;
            count += piece.len();
            let blocks = piece.len() / per_block;
            if blocks == 0 {
                break;
            }
            piece.truncate(blocks * per_block);
            if !send(piece, vec![entry.label as i64; blocks]) {
                return Ok(());
            }
        }
        let needed = self.size.blocks.max(1) * per_block;
        if count < needed {
            return Err(format!("{count} frames at this interval, {needed} needed"));
        }
        Ok(())
    }

    /// A clip's latents, once all of it is there.
    fn encode(
        &self,
        encoder: &VaeEncoder,
        pieces: &Receiver<Decoded>,
        interrupt: &Interrupt,
    ) -> Result<Result<Clip, String>, Error> {
        let mut labels = Vec::new();
        let (mut seen, mut mirrored) = (Parts::default(), Parts::default());
        loop {
            interrupt.check()?;
            let piece = match pieces.recv() {
                Ok(Decoded::Piece(piece)) => piece,
                Ok(Decoded::End(Ok(()))) => break,
                Ok(Decoded::End(Err(reason))) => return Ok(Err(reason)),
                Err(_) => return Ok(Err("its decoder failed".to_owned())),
            };
            let pixels = color::to_tensor(&piece.frames, Device::Cpu)?;
            seen.add(encoder.encode_distribution(&pixels)?)?;
            if self.dataset.is_mirrored() {
                mirrored.add(encoder.encode_distribution(&pixels.flip([3]))?)?;
            }
            labels.extend(piece.labels);
        }
        let [c, h, w] = seen.shape;
        let block = [self.size.frames_per_block, c, h, w];
        let mirrored = self.dataset.is_mirrored().then(|| mirrored.whole());
        Ok(Ok(Clip { labels, block, latents: seen.whole(), mirrored, made: None }))
    }
}

/// What has been encoded of a clip.
#[derive(Default)]
struct Parts {
    /// (C, h, w).
    shape: [usize; 3],
    mean: Vec<u8>,
    std: Option<Vec<u8>>,
}

impl Parts {
    fn add(&mut self, more: Distribution) -> Result<(), Error> {
        let (_, c, h, w) = more.mean.size4()?;
        self.shape = [c, h, w].map(|length| length as usize);
        self.mean.extend(bytes(&more.mean)?);
        if let Some(std) = more.std {
            self.std.get_or_insert_default().extend(bytes(&std)?);
        }
        Ok(())
    }

    fn whole(self) -> Latents {
        Latents { mean: Numbers::Owned(self.mean), std: self.std.map(Numbers::Owned) }
    }
}
