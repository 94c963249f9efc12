//! Single pictures: PNG where every byte counts, JPEG where size does, contact sheets to see a stream at a glance.

use crate::frame::common_size;
use crate::{Error, Frame, Size};

/// Pixels between the pictures of a contact sheet, and their shade.
const GAP: u32 = 2;
const GAP_SHADE: u8 = 64;

/// Encodes losslessly as 8-bit RGB PNG.
///
/// # Errors
/// [`Error::Still`] if the picture is too large for the format.
pub fn png(frame: &Frame) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let Size { width, height } = frame.size();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let failed = |e: png::EncodingError| Error::Still(e.to_string());
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(frame.rgb()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Encodes as JPEG; `quality` runs from 1 to 100.
///
/// # Errors
/// [`Error::Still`] if a side exceeds 65,535 pixels.
pub fn jpeg(frame: &Frame, quality: u8) -> Result<Vec<u8>, Error> {
    let Size { width, height } = frame.size();
    let (Ok(width), Ok(height)) = (u16::try_from(width), u16::try_from(height)) else {
        return Err(Error::Still(format!("{} is too large for JPEG", frame.size())));
    };
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, quality.clamp(1, 100))
        .encode(frame.rgb(), width, height, jpeg_encoder::ColorType::Rgb)
        .map_err(|e| Error::Still(e.to_string()))?;
    Ok(bytes)
}

/// Lays frames of one size out row by row, `columns` to a row (at least one), with a thin grey line between them.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::MixedSizes`], or [`Error::Size`] if the sheet cannot be addressed.
pub fn contact_sheet(frames: &[Frame], columns: usize) -> Result<Frame, Error> {
    let cell = common_size(frames)?;
    let columns = columns.clamp(1, frames.len());
    let span = |pixels: u32, count: usize| {
        let count = u32::try_from(count).ok()?;
        (pixels.checked_add(GAP)?).checked_mul(count).map(|total| total - GAP)
    };
    let too_large = || Error::Size(format!("{columns} columns of {cell}"));
    let width = span(cell.width, columns).ok_or_else(too_large)?;
    let height = span(cell.height, frames.len().div_ceil(columns)).ok_or_else(too_large)?;
    let sheet = Size { width, height };
    let mut rgb = vec![GAP_SHADE; sheet.rgb_bytes().ok_or_else(too_large)?];
    let row_bytes = cell.width as usize * 3;
    for (index, frame) in frames.iter().enumerate() {
        let left = (index % columns) * (cell.width + GAP) as usize;
        let top = (index / columns) * (cell.height + GAP) as usize;
        for (y, row) in frame.rgb().chunks_exact(row_bytes).enumerate() {
            let start = ((top + y) * width as usize + left) * 3;
            rgb[start..start + row_bytes].copy_from_slice(row);
        }
    }
    Frame::new(sheet, rgb)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: u32, height: u32, shade: u8) -> Frame {
        Frame::new(Size { width, height }, vec![shade; (width * height * 3) as usize]).unwrap()
    }

    #[test]
    fn png_is_lossless() {
        let size = Size { width: 5, height: 3 };
        let frame = Frame::new(size, (0..45).collect()).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png(&frame).unwrap())).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((info.width, info.height), (5, 3));
        assert_eq!(rgb, frame.rgb());
    }

    #[test]
    fn jpeg_is_framed_by_its_markers() {
        let bytes = jpeg(&flat(9, 7, 120), 80).unwrap();
        assert_eq!(bytes[..2], [0xff, 0xd8]);
        assert_eq!(bytes[bytes.len() - 2..], [0xff, 0xd9]);
        assert!(matches!(jpeg(&flat(65_536, 1, 0), 80), Err(Error::Still(_))));
    }

    #[test]
    fn contact_sheet_places_frames_in_reading_order() {
        let frames = [flat(2, 1, 10), flat(2, 1, 20), flat(2, 1, 30)];
        let sheet = contact_sheet(&frames, 2).unwrap();
        assert_eq!(sheet.size(), Size { width: 6, height: 4 });
        let red = |x: usize, y: usize| sheet.rgb()[(y * 6 + x) * 3];
        assert_eq!([red(0, 0), red(1, 0), red(2, 0), red(4, 0), red(5, 0)], [10, 10, GAP_SHADE, 20, 20]);
        assert_eq!([red(0, 1), red(0, 3), red(1, 3), red(4, 3)], [GAP_SHADE, 30, 30, GAP_SHADE]);
        assert_eq!(contact_sheet(&frames, 9).unwrap().size(), Size { width: 10, height: 1 });
    }
}
