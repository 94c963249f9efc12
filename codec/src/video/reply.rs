//! What a decoding process answers on its pipe: frames, or why there are none.
//!
//! A header of five little-endian `u32` (version, reason, count, width, height), then `count` packed RGB frames and nothing
//! else. The process has read a stranger's bytes and may be under the stranger's control, so the reader believes none of it:
//! it knows the size of the frames and the most that there can be, and takes no other. Words travel on another pipe, for
//! the log.

use std::io::{self, Write};

use crate::{Error, Frame, Size};

const VERSION: u32 = 1;
const HEADER: usize = 5 * size_of::<u32>();

/// A decoding process's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The frames asked for, at least one, in order of display.
    Frames(Vec<Frame>),
    /// Why there are none.
    Refused(Reason),
}

/// Why a clip gave no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// No video in an accepted container, or too damaged to open.
    NotAVideo = 1,
    /// A codec that is not accepted.
    Codec = 2,
    /// Beyond a limit.
    TooLarge = 3,
    /// Not one picture can be decoded.
    NoPictures = 4,
    /// The process could not be confined well enough to look at the clip.
    Unconfined = 5,
    /// Anything else.
    Failed = 6,
}

impl From<&Error> for Reason {
    fn from(error: &Error) -> Self {
        match error {
            Error::NotAVideo { .. } => Self::NotAVideo,
            Error::ClipCodec { .. } => Self::Codec,
            Error::ClipTooLarge { .. } => Self::TooLarge,
            Error::NoPictures { .. } => Self::NoPictures,
            _ => Self::Failed,
        }
    }
}

impl Reply {
    /// The longest answer with up to `count` frames of `size`, in bytes.
    pub fn longest(size: Size, count: usize) -> usize {
        let frames = size.rgb_bytes().and_then(|bytes| bytes.checked_mul(count));
        frames.and_then(|bytes| bytes.checked_add(HEADER)).unwrap_or(usize::MAX)
    }

    /// Writes the answer.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (reason, frames) = match self {
            Self::Frames(frames) => (0, frames.as_slice()),
            Self::Refused(reason) => (*reason as u32, [].as_slice()),
        };
        let size = frames.first().map_or(Size { width: 0, height: 0 }, Frame::size);
        let count = u32::try_from(frames.len()).map_err(io::Error::other)?;
        for field in [VERSION, reason, count, size.width, size.height] {
            out.write_all(&field.to_le_bytes())?;
        }
        frames.iter().try_for_each(|frame| out.write_all(frame.rgb()))?;
        out.flush()
    }

    /// Reads a whole answer from a process that was asked for at most `most` frames of `size`.
    ///
    /// # Errors
    /// [`Error::Reply`] unless it is exactly that, or a refusal.
    pub fn read(bytes: &[u8], size: Size, most: usize) -> Result<Self, Error> {
        let bad = |what: String| Error::Reply(what);
        let (header, frames) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or_else(|| bad(format!("{} bytes, a header has {HEADER}", bytes.len())))?;
        let (fields, _) = header.as_chunks::<4>();
        let field = |index: usize| u32::from_le_bytes(fields[index]);
        let (version, reason, count) = (field(0), field(1), field(2));
        if version != VERSION {
            return Err(bad(format!("version {version}, expected {VERSION}")));
        }
        if let Some(reason) = reason_of(reason)? {
            return if frames.is_empty() {
                Ok(Self::Refused(reason))
            } else {
                Err(bad("a refusal with frames".to_owned()))
            };
        }
        let found = Size { width: field(3), height: field(4) };
        if found != size {
            return Err(bad(format!("frames of {found}, expected {size}")));
        }
        let bytes_each = size.rgb_bytes().filter(|&bytes| bytes > 0).ok_or(Error::Size(size.to_string()))?;
        let count = count as usize;
        if !(1..=most).contains(&count) || count.checked_mul(bytes_each) != Some(frames.len()) {
            let got = frames.len();
            return Err(bad(format!("{count} frames in {got} bytes, expected 1 to {most} of {bytes_each}")));
        }
        let frames = frames.chunks_exact(bytes_each).map(|rgb| Frame::new(size, rgb.to_vec()));
        Ok(Self::Frames(frames.collect::<Result<_, _>>()?))
    }
}

/// The reason of this number; none for 0.
fn reason_of(number: u32) -> Result<Option<Reason>, Error> {
    use Reason as R;
    if number == 0 {
        return Ok(None);
    }
    let all = [R::NotAVideo, R::Codec, R::TooLarge, R::NoPictures, R::Unconfined, R::Failed];
    let known = all.into_iter().find(|&reason| reason as u32 == number);
    known.map(Some).ok_or_else(|| Error::Reply(format!("unknown reason {number}")))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SIZE: Size = Size { width: 2, height: 1 };

    fn frames(count: u8) -> Vec<Frame> {
        (0..count).map(|k| Frame::new(SIZE, vec![k; 6]).unwrap()).collect()
    }

    fn written(reply: &Reply) -> Vec<u8> {
        let mut bytes = Vec::new();
        reply.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn answers_come_back_as_they_were() {
        for reply in [Reply::Frames(frames(1)), Reply::Frames(frames(3)), Reply::Refused(Reason::Codec)] {
            let bytes = written(&reply);
            assert!(bytes.len() <= Reply::longest(SIZE, 3));
            assert_eq!(Reply::read(&bytes, SIZE, 3).unwrap(), reply);
        }
        assert_eq!(written(&Reply::Frames(frames(3))).len(), Reply::longest(SIZE, 3));
    }

    #[test]
    fn errors_keep_their_reason() {
        let clip = || "clip".to_owned();
        let large = Error::ClipTooLarge { clip: clip(), found: String::new(), limit: String::new() };
        assert_eq!(Reason::from(&large), Reason::TooLarge);
        assert_eq!(Reason::from(&Error::ClipCodec { clip: clip(), codec: "x" }), Reason::Codec);
        assert_eq!(Reason::from(&Error::NoFrames), Reason::Failed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..64), sound in any::<bool>()) {
            let start = if sound { written(&Reply::Frames(frames(1)))[..8].to_vec() } else { Vec::new() };
            if let Ok(Reply::Frames(frames)) = Reply::read(&[start, bytes].concat(), SIZE, 4) {
                prop_assert!((1..=4).contains(&frames.len()));
            }
        }
    }

    #[test]
    fn nothing_but_what_was_asked_for_is_taken() {
        let whole = written(&Reply::Frames(frames(2)));
        let with = |at: usize, value: u8| {
            let mut bytes = whole.clone();
            bytes[at] = value;
            bytes
        };
        let refusal = written(&Reply::Refused(Reason::TooLarge));
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("half a header", whole[..10].to_vec()),
            ("half a frame", whole[..whole.len() - 1].to_vec()),
            ("a byte too many", [whole.as_slice(), &[0]].concat()),
            ("another version", with(0, 2)),
            ("an unknown reason", with(4, 99)),
            ("fewer than there are", with(8, 1)),
            ("more than there are", with(8, 3)),
            ("no frames", [&whole[..8], &[0; 4], &whole[12..20]].concat()),
            ("a count beyond the end of memory", with(11, 0xff)),
            ("another size", with(12, 1)),
            ("no size", [&whole[..12], &[0; 8], &whole[20..]].concat()),
            ("a refusal with frames", [refusal, vec![0; 6]].concat()),
        ] {
            assert!(matches!(Reply::read(&bytes, SIZE, 4), Err(Error::Reply(_))), "{what}");
        }
        assert!(matches!(Reply::read(&whole, SIZE, 1), Err(Error::Reply(_))), "more than asked for");
        Reply::read(&whole, SIZE, 2).unwrap();
    }
}
