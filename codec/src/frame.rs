//! The picture that every part of the system passes on: packed 8-bit RGB of a known size.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Width and height in pixels, written `64x48`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// The bytes of an RGB frame of this size, or `None` where they cannot be addressed.
    pub(crate) fn rgb_bytes(self) -> Option<usize> {
        (self.width as usize).checked_mul(self.height as usize)?.checked_mul(3)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (width, height) = text.split_once('x')?;
            let size = Self { width: width.parse().ok()?, height: height.parse().ok()? };
            (size.width > 0 && size.height > 0).then_some(size)
        };
        parse().ok_or_else(|| Error::Size(text.to_owned()))
    }
}

/// One picture: RGB, 8 bits per channel, rows packed without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    size: Size,
    rgb: Vec<u8>,
}

impl Frame {
    /// Wraps packed RGB bytes.
    ///
    /// # Errors
    /// [`Error::Size`] for an empty or unaddressable size, [`Error::FrameBytes`] if `rgb` is not width × height × 3 long.
    pub fn new(size: Size, rgb: Vec<u8>) -> Result<Self, Error> {
        match size.rgb_bytes() {
            None | Some(0) => Err(Error::Size(size.to_string())),
            Some(expected) if expected != rgb.len() => {
                Err(Error::FrameBytes { size, expected, got: rgb.len() })
            }
            Some(_) => Ok(Self { size, rgb }),
        }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The bytes, row-major, `R G B` per pixel.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Gives the bytes up, see [`Frame::rgb`].
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({})", self.size)
    }
}

/// The size that all of `frames` share.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::MixedSizes`].
pub(crate) fn common_size<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Result<Size, Error> {
    let mut sizes = frames.into_iter().map(Frame::size);
    let expected = sizes.next().ok_or(Error::NoFrames)?;
    match sizes.enumerate().find(|(_, got)| *got != expected) {
        Some((before, got)) => Err(Error::MixedSizes { index: before + 1, expected, got }),
        None => Ok(expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_as_they_parse() {
        let size: Size = "64x48".parse().unwrap();
        assert_eq!(size, Size { width: 64, height: 48 });
        assert_eq!(size.to_string(), "64x48");
        for bad in ["", "64", "x48", "0x48", "64x0", "64x48x3", "-1x2", "99999999999x1"] {
            assert!(matches!(bad.parse::<Size>(), Err(Error::Size(text)) if text == bad));
        }
    }

    #[test]
    fn a_frame_holds_exactly_its_pixels() {
        let size = Size { width: 2, height: 1 };
        assert_eq!(Frame::new(size, vec![7; 6]).unwrap().rgb(), [7; 6]);
        assert!(matches!(Frame::new(size, vec![7; 5]), Err(Error::FrameBytes { expected: 6, got: 5, .. })));
        assert!(matches!(Frame::new(Size { width: 0, height: 1 }, vec![]), Err(Error::Size(_))));
    }

    #[test]
    fn mixed_sizes_name_the_frame() {
        let frame = |width| Frame::new(Size { width, height: 1 }, vec![0; width as usize * 3]).unwrap();
        let frames = [frame(1), frame(1), frame(2)];
        assert_eq!(common_size(&frames[..2]).unwrap().width, 1);
        assert!(matches!(common_size(&frames), Err(Error::MixedSizes { index: 2, .. })));
        assert!(matches!(common_size(&frames[..0]), Err(Error::NoFrames)));
    }
}
