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
use spleen_font::{FONT_8X16, PSF2Font};

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

/// Width and height of a letter.
const LETTER: (i32, i32) = (8, 16);

/// 8-bit RGB. What is drawn outside is not kept.
struct Pixels {
    size: (u32, u32),
    rgb: Vec<u8>,
    font: PSF2Font<'static>,
}

impl Pixels {
    fn new(size: (u32, u32)) -> Self {
        let font = PSF2Font::new(FONT_8X16).expect("the font comes with the program");
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
        let top = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => -LETTER.1 / 2,
            VPos::Bottom => -LETTER.1,
        };
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
            let style = TextStyle::from(("sans-serif", 12)).pos(pos).transform(turn);
            (&mut pixels).draw_text("HH", &style, (30, 30)).unwrap();
            dark(&pixels)
        };
        let upright = draw(Pos::new(HPos::Left, VPos::Top), FontTransform::None);
        assert!(!upright.is_empty());
        assert!(upright.iter().all(|&(x, y)| (30..46).contains(&x) && (30..46).contains(&y)), "{upright:?}");
        let ended = draw(Pos::new(HPos::Right, VPos::Bottom), FontTransform::None);
        assert!(ended.iter().all(|&(x, y)| (14..30).contains(&x) && (14..30).contains(&y)), "{ended:?}");
        let shifted: Vec<_> = ended.iter().map(|&(x, y)| (x + 16, y + 16)).collect();
        assert_eq!(shifted, upright);
        let turned = draw(Pos::new(HPos::Left, VPos::Top), FontTransform::Rotate270);
        let mut back: Vec<_> = turned.iter().map(|&(x, y)| (30 + (30 - y), 30 + (x - 30))).collect();
        back.sort_by_key(|&(x, y)| (y, x));
        assert_eq!(back, upright);
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
