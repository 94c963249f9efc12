//! Frames that a viewer puts into the stream: the one binary message towards the server.
//!
//! Pixels come as they are, so that the server decodes no media for them and their size says whether they are right.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Size, VERSION};

/// Bytes before the pixels.
pub const INJECT_HEADER: usize = 16;

/// Largest message that a world may ask for, in bytes. The frames of one whose blocks are larger cannot be injected.
pub const MAX_INJECT: usize = 8 << 20;

/// The kind byte. Those of [`Kind`](super::Kind) go the other way.
const FRAMES: u8 = 16;

/// Frames for the next block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inject {
    /// Chosen by the viewer; answers carry it.
    pub id: u64,
    /// How many frames there are, by the header.
    pub count: u8,
    /// R G B, rows from the top, the oldest frame first.
    pub pixels: Bytes,
}

impl Inject {
    /// The binary message: [`INJECT_HEADER`] bytes of little-endian header, then the pixels.
    pub fn encode(&self) -> Bytes {
        let mut message = BytesMut::with_capacity(INJECT_HEADER + self.pixels.len());
        message.put_u8(VERSION);
        message.put_u8(FRAMES);
        message.put_u8(self.count);
        message.put_u8(0);
        message.put_u32_le(0);
        message.put_u64_le(self.id);
        message.put_slice(&self.pixels);
        message.freeze()
    }

    /// Reads a binary message; the pixels share its memory. `None` if it is no message of this kind and version.
    pub fn decode(message: Bytes) -> Option<Self> {
        let ([version, kind, count, _, _, _, _, _, id @ ..], _) =
            message.split_first_chunk::<INJECT_HEADER>()?;
        if (*version, *kind) != (VERSION, FRAMES) {
            return None;
        }
        let (id, count) = (u64::from_le_bytes(*id), *count);
        Some(Self { id, count, pixels: message.slice(INJECT_HEADER..) })
    }

    /// The frames, of `size` each, at most `most`; or what is wrong with them, in words meant for the viewer.
    pub(crate) fn frames(&self, size: Size, most: u32) -> Result<Vec<Bytes>, String> {
        let count = u32::from(self.count);
        if !(1..=most).contains(&count) {
            return Err(format!("expected 1 to {most} frames, got {count}"));
        }
        let (frame, got) = (bytes_of(size), self.pixels.len());
        let expected = frame.saturating_mul(count as usize);
        if frame == 0 || got != expected {
            let Size { width, height } = size;
            return Err(format!(
                "expected {expected} bytes for {count} frames of {width}x{height}, got {got}"
            ));
        }
        Ok((0..count as usize).map(|at| self.pixels.slice(at * frame..(at + 1) * frame)).collect())
    }

    /// The longest message that a world with frames of `size` and `most` of them in a block has use for, in bytes.
    pub(crate) fn longest(size: Size, most: u32) -> usize {
        let pixels = bytes_of(size).saturating_mul(most as usize);
        INJECT_HEADER.saturating_add(pixels).min(MAX_INJECT)
    }
}

/// Of one frame; 0 for one that cannot be addressed.
fn bytes_of(Size { width, height }: Size) -> usize {
    (width as usize).checked_mul(height as usize).and_then(|pixels| pixels.checked_mul(3)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 2, height: 1 };

    fn inject(count: u8, bytes: usize) -> Inject {
        Inject { id: 1, count, pixels: Bytes::from_iter(0..bytes as u8) }
    }

    #[test]
    fn frames_are_cut_out_of_the_pixels() {
        let frames = inject(2, 12).frames(SIZE, 4).unwrap();
        assert_eq!(frames, [&[0, 1, 2, 3, 4, 5][..], &[6, 7, 8, 9, 10, 11]]);
    }

    #[test]
    fn a_count_or_a_size_that_does_not_fit_is_told() {
        for (inject, words) in [
            (inject(0, 0), "expected 1 to 4 frames, got 0"),
            (inject(5, 30), "expected 1 to 4 frames, got 5"),
            (inject(2, 11), "expected 12 bytes for 2 frames of 2x1, got 11"),
            (inject(2, 13), "expected 12 bytes for 2 frames of 2x1, got 13"),
        ] {
            assert_eq!(inject.frames(SIZE, 4).unwrap_err(), words);
        }
        assert!(inject(1, 0).frames(Size::default(), 4).is_err(), "a world that takes no frames");
        let huge = Size { width: u32::MAX, height: u32::MAX };
        assert!(inject(1, 6).frames(huge, 4).is_err());
        assert_eq!(Inject::longest(huge, 4), INJECT_HEADER);
    }

    #[test]
    fn a_message_may_be_as_long_as_a_block_of_frames() {
        assert_eq!(Inject::longest(SIZE, 4), 40);
        assert_eq!(Inject::longest(Size { width: 4096, height: 4096 }, 4), MAX_INJECT);
    }
}
