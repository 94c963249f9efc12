//! Pixel format, size and colour conversion by swscale, with the colour matrix and range always stated.

use std::ffi::c_int;

use ffmpeg_next::color;
use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling::{Context, Flags};

use super::failed;
use crate::{Error, Frame, Size};

/// Everything that decides how swscale reads or writes a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) pixel: Pixel,
    pub(super) size: Size,
    /// The YUV matrix; without meaning for RGB.
    pub(super) matrix: color::Space,
    pub(super) full_range: bool,
}

impl Layout {
    /// Packed 8-bit RGB.
    pub(super) fn rgb(size: Size) -> Self {
        Self { pixel: Pixel::RGB24, size, matrix: color::Space::Unspecified, full_range: true }
    }

    /// The layout of a decoded picture. Where the stream names no matrix, the players' rule holds: BT.709 for high
    /// definition, BT.601 below.
    pub(super) fn of(picture: &frame::Video) -> Self {
        let size = Size { width: picture.width(), height: picture.height() };
        let pixel = picture.format();
        let matrix = match picture.color_space() {
            color::Space::Unspecified if size.width >= 1280 || size.height > 576 => color::Space::BT709,
            stated => stated,
        };
        let always_full = matches!(
            pixel,
            Pixel::YUVJ411P | Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ440P | Pixel::YUVJ444P
        );
        Self { pixel, size, matrix, full_range: always_full || picture.color_range() == color::Range::JPEG }
    }
}

/// A conversion from one fixed layout to another. Bicubic in both directions: when shrinking, swscale widens the kernel,
/// so fine detail is averaged and does not alias.
pub(super) struct Scaler {
    context: Context,
    from: Layout,
}

impl Scaler {
    pub(super) fn new(from: Layout, to: Layout) -> Result<Self, Error> {
        let flags = Flags::BICUBIC
            | Flags::ACCURATE_RND
            | Flags::BITEXACT
            | Flags::FULL_CHR_H_INT
            | Flags::FULL_CHR_H_INP;
        let (a, b) = (from.size, to.size);
        let mut context = Context::get(from.pixel, a.width, a.height, to.pixel, b.width, b.height, flags)
            .map_err(|_| {
                Error::Video(format!("no conversion from {a} {:?} to {b} {:?}", from.pixel, to.pixel))
            })?;
        // SAFETY: the context is valid and ours alone; swscale copies the two coefficient tables, which are static.
        // Its result only says whether a matrix applies to this pair of formats (it does not to RGB, say).
        unsafe {
            ffi::sws_setColorspaceDetails(
                context.as_mut_ptr(),
                coefficients(from.matrix),
                from.full_range.into(),
                coefficients(to.matrix),
                to.full_range.into(),
                0,
                1 << 16,
                1 << 16,
            );
        }
        Ok(Self { context, from })
    }

    pub(super) fn from(&self) -> Layout {
        self.from
    }

    /// Converts `input`, which must have the layout this scaler was made for, into `output`.
    pub(super) fn run(&mut self, input: &frame::Video, output: &mut frame::Video) -> Result<(), Error> {
        self.context.run(input, output).map_err(failed)
    }
}

fn coefficients(matrix: color::Space) -> *const c_int {
    // SAFETY: swscale's SWS_CS_* numbers are AVColorSpace's by definition, and any number outside its table, the
    // unspecified matrix included, yields the BT.601 entry.
    unsafe { ffi::sws_getCoefficients(ffi::AVColorSpace::from(matrix) as c_int) }
}

/// Copies a frame into an FFmpeg picture of the same size: swscale may read whole vectors past the end of a row, for
/// which only FFmpeg's own buffers leave room.
pub(super) fn fill(picture: &mut frame::Video, frame: &Frame) {
    let (stride, row) = (picture.stride(0), frame.size().width as usize * 3);
    for (to, from) in picture.data_mut(0).chunks_mut(stride).zip(frame.rgb().chunks_exact(row)) {
        to[..row].copy_from_slice(from);
    }
}

/// The packed rows of an RGB24 picture.
pub(super) fn packed(picture: &frame::Video) -> Vec<u8> {
    let row = picture.width() as usize * 3;
    picture.data(0).chunks(picture.stride(0)).flat_map(|padded| &padded[..row]).copied().collect()
}
