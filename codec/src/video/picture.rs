//! From a decoded picture to the frame asked for: crop, scale, colour, then turn upright.
//!
//! A coded picture may be stored sideways (the display matrix says how to turn it) with pixels that are not square (the
//! sample aspect ratio). Both are folded into the crop, so the pixels are resampled once.

use ffmpeg_next::ffi;
use ffmpeg_next::frame;

use super::failed;
use super::scale::{Layout, Scaler, packed};
use crate::{Error, Frame, Size};

/// How stored pixels are turned and mirrored for display.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Orientation {
    /// Rows become columns, before the flips.
    transposed: bool,
    flip_x: bool,
    flip_y: bool,
}

impl Orientation {
    /// Reads FFmpeg's display matrix: nine native-endian `i32`, of which `[a b; c d]` maps (x, y) to (ax + cy, bx + dy).
    /// Angles between the right ones are taken to the nearest.
    pub(super) fn from_display_matrix(bytes: &[u8]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let entry = |i: usize| words.get(i).map_or(0, |word| i64::from(i32::from_ne_bytes(*word)));
        let [a, b, c, d] = [entry(0), entry(1), entry(3), entry(4)];
        if a.abs() + d.abs() >= b.abs() + c.abs() {
            Self { transposed: false, flip_x: a < 0, flip_y: d < 0 }
        } else {
            Self { transposed: true, flip_x: c < 0, flip_y: b < 0 }
        }
    }

    /// The size on display of something stored as `size`, and the reverse.
    pub(super) fn turn(self, size: Size) -> Size {
        if self.transposed { Size { width: size.height, height: size.width } } else { size }
    }

    fn apply(self, stored: Size, rgb: Vec<u8>) -> Result<Frame, Error> {
        if self == Self::default() {
            return Frame::new(stored, rgb);
        }
        let shown = self.turn(stored);
        let (pixels, _) = rgb.as_chunks::<3>();
        let mut turned = Vec::with_capacity(rgb.len());
        for y in 0..shown.height {
            for x in 0..shown.width {
                let x = if self.flip_x { shown.width - 1 - x } else { x };
                let y = if self.flip_y { shown.height - 1 - y } else { y };
                let (column, row) = if self.transposed { (y, x) } else { (x, y) };
                turned.extend(pixels[row as usize * stored.width as usize + column as usize]);
            }
        }
        Frame::new(shown, turned)
    }
}

/// The part of a coded picture that is kept, in coded pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Crop {
    left: u32,
    top: u32,
    size: Size,
}

/// The largest centred part of `coded` that has the shape of `target`, where a coded pixel is `pixel_aspect` times as
/// wide as high. Offsets are even, so that subsampled chroma stays in register.
fn centre_crop(coded: Size, pixel_aspect: f64, target: Size) -> Crop {
    let (width, height) = (f64::from(coded.width), f64::from(coded.height));
    let wanted = f64::from(target.width) / f64::from(target.height) / pixel_aspect;
    let size = if width / height > wanted {
        Size { width: ((height * wanted).round() as u32).clamp(1, coded.width), height: coded.height }
    } else {
        Size { width: coded.width, height: ((width / wanted).round() as u32).clamp(1, coded.height) }
    };
    let offset = |whole: u32, part: u32| ((whole - part) / 2) & !1;
    Crop { left: offset(coded.width, size.width), top: offset(coded.height, size.height), size }
}

/// Turns the pictures of one stream into upright frames of one size.
pub(super) struct Converter {
    output: Size,
    pixel_aspect: f64,
    orientation: Orientation,
    scaler: Option<Scaler>,
    scaled: frame::Video,
}

impl Converter {
    /// `pixel_aspect` is the width of a coded pixel over its height.
    pub(super) fn new(output: Size, pixel_aspect: f64, orientation: Orientation) -> Self {
        Self { output, pixel_aspect, orientation, scaler: None, scaled: frame::Video::empty() }
    }

    /// Converts a picture, whose data pointers move to the crop in passing.
    pub(super) fn convert(&mut self, picture: &mut frame::Video) -> Result<Frame, Error> {
        let stored = self.orientation.turn(self.output);
        let whole = Layout::of(picture);
        let crop = centre_crop(whole.size, self.pixel_aspect, stored);
        apply_crop(picture, crop)?;
        // A clip may change size or format half-way: the scaler follows.
        let from = Layout { size: crop.size, ..whole };
        let scaler = match self.scaler.take().filter(|scaler| scaler.from() == from) {
            Some(scaler) => self.scaler.insert(scaler),
            None => self.scaler.insert(Scaler::new(from, Layout::rgb(stored))?),
        };
        scaler.run(picture, &mut self.scaled)?;
        self.orientation.apply(stored, packed(&self.scaled))
    }
}

fn apply_crop(picture: &mut frame::Video, crop: Crop) -> Result<(), Error> {
    let (right, bottom) =
        (picture.width() - crop.left - crop.size.width, picture.height() - crop.top - crop.size.height);
    // SAFETY: the picture is a decoded frame that we own; FFmpeg checks the four margins against its size and moves the
    // plane pointers within its buffers. UNALIGNED is what makes the crop exact.
    let applied = unsafe {
        let raw = picture.as_mut_ptr();
        (*raw).crop_left = crop.left as usize;
        (*raw).crop_top = crop.top as usize;
        (*raw).crop_right = right as usize;
        (*raw).crop_bottom = bottom as usize;
        ffi::av_frame_apply_cropping(raw, ffi::AV_FRAME_CROP_UNALIGNED as i32)
    };
    if applied < 0 { Err(failed(applied.into())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i32 = 1 << 16;

    fn matrix(a: i32, b: i32, c: i32, d: i32) -> Orientation {
        let bytes: Vec<u8> =
            [a, b, 0, c, d, 0, 0, 0, 1 << 30].into_iter().flat_map(i32::to_ne_bytes).collect();
        Orientation::from_display_matrix(&bytes)
    }

    fn turned(orientation: Orientation) -> Vec<u8> {
        // 1 2 3
        // 4 5 6
        let rgb = [1, 2, 3, 4, 5, 6].into_iter().flat_map(|v| [v; 3]).collect();
        let frame = orientation.apply(Size { width: 3, height: 2 }, rgb).unwrap();
        frame.rgb().iter().step_by(3).copied().collect()
    }

    #[test]
    fn all_eight_orientations() {
        assert_eq!(turned(matrix(ONE, 0, 0, ONE)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(turned(matrix(-ONE, 0, 0, -ONE)), [6, 5, 4, 3, 2, 1]);
        assert_eq!(turned(matrix(-ONE, 0, 0, ONE)), [3, 2, 1, 6, 5, 4]);
        assert_eq!(turned(matrix(ONE, 0, 0, -ONE)), [4, 5, 6, 1, 2, 3]);
        assert_eq!(turned(matrix(0, ONE, -ONE, 0)), [4, 1, 5, 2, 6, 3], "clockwise");
        assert_eq!(turned(matrix(0, -ONE, ONE, 0)), [3, 6, 2, 5, 1, 4], "counter-clockwise");
        assert_eq!(turned(matrix(0, ONE, ONE, 0)), [1, 4, 2, 5, 3, 6], "transposed");
        assert_eq!(turned(matrix(0, -ONE, -ONE, 0)), [6, 3, 5, 2, 4, 1], "anti-transposed");
        assert_eq!(Orientation::from_display_matrix(&[]), Orientation::default());
    }

    #[test]
    fn crops_are_centred_and_follow_the_pixel_aspect() {
        let size = |width, height| Size { width, height };
        let square = centre_crop(size(320, 240), 1.0, size(64, 64));
        assert_eq!(square, Crop { left: 40, top: 0, size: size(240, 240) });
        let tall = centre_crop(size(100, 300), 1.0, size(64, 64));
        assert_eq!(tall, Crop { left: 0, top: 100, size: size(100, 100) });
        // 720x576 with 16:11 pixels shows 16:9 (1047 wide): a square view keeps 396 columns.
        let wide = centre_crop(size(720, 576), 16.0 / 11.0, size(64, 64));
        assert_eq!(wide, Crop { left: 162, top: 0, size: size(396, 576) });
        assert_eq!(centre_crop(size(3, 4000), 1.0, size(4000, 1)).size, size(3, 1));
    }
}
