//! Times written into a picture, to be read again by whoever is shown it: the only clock that no part of the way can
//! leave out.
//!
//! A strip at the top, as wide as the picture, of black and white cells: 32 in a row, three rows; 16 and six in a picture
//! narrower than 32. They are 96 bits, highest first: the fields of a [`Stamp`] in their order, and a checksum of them (16).
//! What scales or encodes the picture keeps the cells.

use crate::{Error, Frame, Size};

/// Cells in a row of a picture that is wide enough, and of others.
const COLUMNS: [u32; 2] = [32, 16];

/// Cells in all.
const CELLS: u32 = 96;

/// The times of a strip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When the picture's block was begun: milliseconds since 1970, the low 32 bits.
    pub begun: u32,
    /// From then on until the picture was encoded; this and the others in quarters of a millisecond, see [`quarters`].
    pub age: u16,
    /// What of it went into the network.
    pub denoise: u16,
    /// What of it went into making latents pixels.
    pub decode: u16,
}

/// Quarters of a millisecond, no more than fit.
pub fn quarters(seconds: f64) -> u16 {
    (seconds * 4e3).round() as u16
}

impl Stamp {
    fn bits(self) -> u128 {
        let Self { begun, age, denoise, decode } = self;
        let data = [age, denoise, decode]
            .into_iter()
            .fold(u128::from(begun), |data, field| data << 16 | u128::from(field));
        data << 16 | u128::from(checksum(data))
    }

    fn of(bits: u128) -> Option<Self> {
        let data = bits >> 16;
        let field = |at: u32| (data >> at) as u16;
        let stamp = Self { begun: (data >> 48) as u32, age: field(32), denoise: field(16), decode: field(0) };
        (checksum(data) == bits as u16).then_some(stamp)
    }
}

/// CRC-16/CCITT over 80 bits.
fn checksum(data: u128) -> u16 {
    (0..80).rev().fold(0xffff, |crc: u16, bit| {
        let flip = (crc >> 15) ^ (data >> bit & 1) as u16;
        (crc << 1) ^ (flip * 0x1021)
    })
}

/// The pixels that cell `index` of `columns` covers: as squares, where the picture's size allows it.
fn cell(size: Size, columns: u32, index: u32) -> [std::ops::Range<u32>; 2] {
    let edge = |at: u32| (u64::from(at) * u64::from(size.width) / u64::from(columns)) as u32;
    [index % columns, index / columns].map(|at| edge(at)..edge(at + 1))
}

/// The frame with a strip.
///
/// # Errors
/// [`Error::Barcode`] for a frame narrower than 16 pixels, or too low for the strip.
pub fn stamp(frame: &Frame, stamp: Stamp) -> Result<Frame, Error> {
    let size = frame.size();
    let columns = COLUMNS.into_iter().find(|&columns| columns <= size.width);
    let columns = columns.ok_or(Error::Barcode(size))?;
    if cell(size, columns, CELLS - 1)[1].end > size.height {
        return Err(Error::Barcode(size));
    }
    let (bits, mut rgb) = (stamp.bits(), frame.rgb().to_vec());
    for index in 0..CELLS {
        let value = if bits >> (CELLS - 1 - index) & 1 == 1 { 255 } else { 0 };
        let [across, down] = cell(size, columns, index);
        for y in down {
            let row = y as usize * size.width as usize;
            rgb[3 * (row + across.start as usize)..3 * (row + across.end as usize)].fill(value);
        }
    }
    Frame::new(size, rgb)
}

/// The strip of a frame, at whatever size it is shown; `None` if there is none that is whole.
pub fn read(frame: &Frame) -> Option<Stamp> {
    let size = frame.size();
    COLUMNS.into_iter().find_map(|columns| {
        let mut bits = 0;
        for index in 0..CELLS {
            let [across, down] = cell(size, columns, index);
            let (x, y) = ((across.start + across.end) / 2, (down.start + down.end) / 2);
            let at = 3 * (y as usize * size.width as usize + x as usize);
            let green = *frame.rgb().get(at + 1)?;
            bits = bits << 1 | u128::from(green >= 128);
        }
        Stamp::of(bits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { begun: 0xdead_beef, age: 1234, denoise: 700, decode: 1 };

    fn grey(width: u32, height: u32) -> Frame {
        Frame::new(Size { width, height }, vec![90; (width * height * 3) as usize]).unwrap()
    }

    /// Each pixel `factor` times across and down.
    fn enlarged(frame: &Frame, factor: u32) -> Frame {
        let Size { width, height } = frame.size();
        let pixel = |x: u32, y: u32| {
            let at = 3 * (y / factor * width + x / factor) as usize;
            frame.rgb()[at..at + 3].to_vec()
        };
        let (wide, high) = (width * factor, height * factor);
        let rgb = (0..high).flat_map(|y| (0..wide).flat_map(move |x| pixel(x, y)));
        Frame::new(Size { width: wide, height: high }, rgb.collect()).unwrap()
    }

    #[test]
    fn strips_are_read_at_any_size_and_leave_the_rest_alone() {
        for (width, height, rows) in [(64, 64, 6), (32, 20, 3), (16, 16, 6), (100, 80, 9), (320, 240, 30)] {
            let frame = stamp(&grey(width, height), STAMP).unwrap();
            let shown = [&frame, &enlarged(&frame, 4)].map(read);
            assert_eq!(shown, [Some(STAMP); 2], "{width}x{height}");
            let below = (rows * width * 3) as usize;
            assert!(frame.rgb()[below..].iter().all(|&value| value == 90), "{width}x{height}");
        }
        assert!(matches!(stamp(&grey(15, 64), STAMP), Err(Error::Barcode(_))));
        assert!(matches!(stamp(&grey(64, 5), STAMP), Err(Error::Barcode(_))));
    }

    #[test]
    fn what_is_no_strip_is_not_read() {
        assert_eq!(read(&grey(64, 64)), None);
        assert_eq!(read(&grey(1, 1)), None);
        for bit in 0..CELLS {
            assert_eq!(Stamp::of(STAMP.bits() ^ 1 << bit), None, "bit {bit}");
        }
        let data = b"0123456789".iter().fold(0, |data, &byte| data << 8 | u128::from(byte));
        assert_eq!(checksum(data), 0x7d61, "CRC-16/CCITT-FALSE");
        assert_eq!([0.0, 0.25, 60.0, -1.0].map(quarters), [0, 1000, u16::MAX, 0]);
    }
}
