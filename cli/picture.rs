//! Charts as files: SVG, or PNG, as the name says.
//!
//! The PNG is drawn on pixels of our own with a bitmap font, so that it looks the same everywhere: what draws text with
//! a machine's fonts needs them to be there.

use std::convert::Infallible;
use std::path::Path;

use acdit_codec::{Frame, Size, still};
use acdit_model::write_atomically;
use anyhow::bail;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingErrorKind, text_anchor};
use spleen_font::{FONT_12X24, PSF2Font};

/// Something that can be drawn at any resolution.
pub(crate) trait Chart {
    /// Draws on `area`.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static;
}

/// Whether a picture can be written there.
pub(crate) fn check(out: &Path) -> anyhow::Result<()> {
    if !is(out, "svg") && !is(out, "png") {
        bail!("{}: expected a name ending in .svg or .png", out.display());
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("{}: the folder {} does not exist", out.display(), folder.display());
    }
    Ok(())
}

fn is(out: &Path, kind: &str) -> bool {
    out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(kind))
}

/// Draws a chart of `size` pixels, on white, into a file.
pub(crate) fn write(out: &Path, size: (u32, u32), chart: &impl Chart) -> anyhow::Result<()> {
    if is(out, "png") {
        let mut pixels = Pixels::new(size);
        on_white(&(&mut pixels).into_drawing_area(), chart)?;
        let frame = Frame::new(Size { width: size.0, height: size.1 }, pixels.rgb)?;
        return Ok(write_atomically(out, &still::png(&frame)?)?);
    }
    let mut text = String::new();
    on_white(&SVGBackend::with_string(&mut text, size).into_drawing_area(), chart)?;
    Ok(write_atomically(out, text.as_bytes())?)
}

fn on_white<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &impl Chart) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    chart.draw(area)?;
    Ok(area.present()?)
}

/// A number beside an axis, without the digits that binary fractions bring along.
pub(crate) fn number(value: &f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Size of a legend's letters, for which room is kept by a guess at their widths.
pub(crate) const LEGEND: i32 = 18;

/// Width and height of a letter.
const LETTER: (i32, i32) = (12, 24);

/// 8-bit RGB. What is drawn outside is not kept.
struct Pixels {
    size: (u32, u32),
    rgb: Vec<u8>,
    font: PSF2Font<'static>,
}

impl Pixels {
    fn new(size: (u32, u32)) -> Self {
        let font = PSF2Font::new(FONT_12X24).expect("the font comes with the program");
        Self { size, rgb: vec![0; size.0 as usize * size.1 as usize * 3], font }
    }
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for &mut Pixels {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return Ok(()) };
        if x < self.size.0 && y < self.size.1 {
            let start = (y as usize * self.size.0 as usize + x as usize) * 3;
            let (red, green, blue) = color.rgb;
            for (below, above) in self.rgb[start..start + 3].iter_mut().zip([red, green, blue]) {
                let mixed = f64::from(*below) * (1.0 - color.alpha) + f64::from(above) * color.alpha;
                *below = mixed.round() as u8;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        use text_anchor::{HPos, VPos};
        let width = LETTER.0 * text.chars().count() as i32;
        let left = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        // the font has one size: a line of another is taken to be about the middle of the letters
        let line = style.size().round() as i32;
        let middle = match style.anchor().v_pos {
            VPos::Top => line / 2,
            VPos::Center => 0,
            VPos::Bottom => -line / 2,
        };
        let top = middle - LETTER.1 / 2;
        let mut utf8 = [0; 4];
        for (letter, left) in text.chars().zip((left..).step_by(LETTER.0 as usize)) {
            let Some(glyph) = self.font.glyph_for_utf8(letter.encode_utf8(&mut utf8).as_bytes()) else {
                continue;
            };
            for (y, row) in (top..).zip(glyph) {
                for (x, _) in (left..).zip(row).filter(|&(_, on)| on) {
                    let (x, y) = style.transform().transform(x, y);
                    self.draw_pixel((at.0 + x, at.1 + y), style.color())?;
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        _style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        Ok((LETTER.0 as u32 * text.chars().count() as u32, LETTER.1 as u32))
    }
}

#[cfg(test)]
mod tests {
    use plotters::style::text_anchor::{HPos, Pos, VPos};

    use super::*;

    fn dark(pixels: &Pixels) -> Vec<(usize, usize)> {
        let width = pixels.size.0 as usize;
        let is_dark = |(_, rgb): &(usize, &[u8])| rgb.iter().all(|&value| value < 128);
        pixels.rgb.chunks(3).enumerate().filter(is_dark).map(|(at, _)| (at % width, at / width)).collect()
    }

    #[test]
    fn text_stands_where_its_anchor_says() {
        let draw = |pos: Pos, turn: FontTransform| {
            let mut pixels = Pixels::new((60, 60));
            pixels.rgb.fill(255);
            let style = TextStyle::from(("sans-serif", LETTER.1)).pos(pos).transform(turn);
            (&mut pixels).draw_text("HH", &style, (30, 30)).unwrap();
            dark(&pixels)
        };
        let (width, height) = (2 * LETTER.0 as usize, LETTER.1 as usize);
        let upright = draw(Pos::new(HPos::Left, VPos::Top), FontTransform::None);
        // two letters of two stems and a bar: ink from side to side, and more than half way down
        let (right, bottom) = (upright.iter().map(|at| at.0).max(), upright.iter().map(|at| at.1).max());
        assert!((30 + width * 3 / 4..30 + width).contains(&right.unwrap()), "{upright:?}");
        assert!((30 + height / 2..30 + height).contains(&bottom.unwrap()), "{upright:?}");
        let ended = draw(Pos::new(HPos::Right, VPos::Bottom), FontTransform::None);
        let shifted: Vec<_> = ended.iter().map(|&(x, y)| (x + width, y + height)).collect();
        assert_eq!(shifted, upright);
        let turned = draw(Pos::new(HPos::Left, VPos::Top), FontTransform::Rotate270);
        let mut back: Vec<_> = turned.iter().map(|&(x, y)| (30 + (30 - y), 30 + (x - 30))).collect();
        back.sort_by_key(|&(x, y)| (y, x));
        assert_eq!(back, upright);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.1 + 0.2, 20.0, 0.00025, 1.5].map(|value| number(&value)),
            ["0.3", "20", "0.00025", "1.5"]
        );
    }

    #[test]
    fn what_lies_outside_is_left_out_and_colours_mix() {
        let mut pixels = Pixels::new((2, 1));
        pixels.rgb.fill(255);
        let half = BackendColor { alpha: 0.5, rgb: (55, 155, 255) };
        for at in [(-1, 0), (0, -1), (2, 0), (0, 1), (1, 0)] {
            (&mut pixels).draw_pixel(at, half).unwrap();
        }
        assert_eq!(pixels.rgb, [255, 255, 255, 155, 205, 255]);
    }
}
