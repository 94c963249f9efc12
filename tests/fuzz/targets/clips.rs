//! Strangers' clips, and what the process that decodes them answers.

use acdit_codec::Size;
use acdit_codec::video::{DecodeOptions, Limits, Reply, decode_last};

const SIZE: Size = Size { width: 32, height: 16 };
const MOST: usize = 4;

/// A clip, as the confined process reads it, but with less patience.
pub(super) fn clip(bytes: &[u8]) {
    let limits = Limits { bytes: 64 << 10, pixels: 256 * 256, frames: 64, seconds: 60.0 };
    let options = DecodeOptions { size: SIZE, frames_per_second: 8.0, limits };
    if let Ok(clip) = decode_last(bytes.to_vec(), &options, MOST) {
        assert!((1..=MOST).contains(&clip.frames.len()));
        assert!(clip.frames.iter().all(|frame| frame.size() == SIZE));
    }
}

/// An answer of a process that may be under a stranger's control.
pub(super) fn reply(bytes: &[u8]) {
    match Reply::read(bytes, SIZE, MOST) {
        Ok(reply) => {
            let mut again = Vec::new();
            reply.write(&mut again).unwrap();
            assert!(again.len() <= Reply::longest(SIZE, MOST));
            match reply {
                Reply::Frames(_) => assert_eq!(again, bytes),
                // its size says nothing
                Reply::Refused(_) => assert_eq!(again[..8], bytes[..8]),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
