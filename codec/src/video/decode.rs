//! A clip as frames of one size at an even rate.

use std::collections::VecDeque;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::{Packet, frame};

use super::picture::Converter;
use super::source::{Container, Limits, Source};
use super::timeline::{Span, Timeline};
use super::{check_rate, check_size};
use crate::{Error, Frame, Size};

/// The frames wanted from a clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeOptions {
    /// Size of every frame in pixels: the picture as displayed is cropped to this shape around its centre, then scaled.
    pub size: Size,
    /// Frames per second: frame `k` is the picture on display `k / frames_per_second` seconds after the clip's first.
    pub frames_per_second: f64,
    /// What the clip may cost.
    pub limits: Limits,
}

/// Decoded frames, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The frames in order of display.
    pub frames: Vec<Frame>,
    /// The rate asked for, in frames per second.
    pub frames_per_second: f64,
}

/// What a clip's container says about its video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Info {
    /// Size on display in pixels, after turning and with square pixels.
    pub size: Size,
    /// Pictures per second on average; decoding at this rate gives each picture of a steady clip once.
    pub frames_per_second: Option<f64>,
}

/// Reads what a clip is without decoding it.
///
/// # Errors
/// As [`Decoder::open`], but for [`Error::NoPictures`].
pub fn probe(source: impl Into<Source>, limits: &Limits) -> Result<Info, Error> {
    let container = Container::open(source.into(), limits)?;
    let Size { width, height } = container.coded;
    let square = Size { width: (f64::from(width) * container.pixel_aspect).round() as u32, height };
    Ok(Info { size: container.orientation.turn(square), frames_per_second: container.average_rate })
}

/// Decodes a whole clip.
///
/// # Errors
/// As [`Decoder::open`] and [`Decoder::next`].
pub fn decode(source: impl Into<Source>, options: &DecodeOptions) -> Result<Clip, Error> {
    let frames = Decoder::open(source, options)?.collect::<Result<_, _>>()?;
    Ok(Clip { frames, frames_per_second: options.frames_per_second })
}

/// Decodes a whole clip and keeps its last `count` frames (at least one), holding no more than that in memory. A shorter
/// clip gives all it has.
///
/// # Errors
/// As [`decode`].
pub fn decode_last(source: impl Into<Source>, options: &DecodeOptions, count: usize) -> Result<Clip, Error> {
    let mut last = VecDeque::new();
    for frame in Decoder::open(source, options)? {
        if last.len() == count.max(1) {
            last.pop_front();
        }
        last.push_back(frame?);
    }
    Ok(Clip { frames: last.into(), frames_per_second: options.frames_per_second })
}

/// A picture that has been decoded but perhaps not converted, as many never will be.
struct Picture {
    decoded: frame::Video,
    frame: Option<Frame>,
    span: Span,
}

/// Decodes a clip frame by frame; two pictures at most are held beside the decoder's own.
///
/// Damaged packets are passed over, as players do: a truncated clip yields the frames that it has.
pub struct Decoder {
    container: Container,
    decoder: ffmpeg::decoder::Video,
    limits: Limits,
    frames_per_second: f64,
    timeline: Timeline,
    converter: Converter,
    pictures: u64,
    frames: u64,
    draining: bool,
    finished: bool,
    shown: Option<Picture>,
    next: Option<Picture>,
}

impl Decoder {
    /// Opens a clip and decodes its first picture.
    ///
    /// # Errors
    /// [`Error::VideoConfig`] for senseless options; [`Error::ClipUnreadable`], [`Error::NotAVideo`],
    /// [`Error::ClipCodec`], [`Error::ClipTooLarge`], [`Error::NoPictures`] for what is wrong with the clip.
    pub fn open(source: impl Into<Source>, options: &DecodeOptions) -> Result<Self, Error> {
        let &DecodeOptions { size, frames_per_second, limits } = options;
        check_size("size", size)?;
        check_rate(frames_per_second)?;
        let container = Container::open(source.into(), &limits)?;
        let decoder = container.decoder(&limits)?;
        let nominal = 1.0 / container.average_rate.unwrap_or(frames_per_second);
        let timeline = Timeline::new(f64::from(container.time_base), nominal);
        let converter = Converter::new(size, container.pixel_aspect, container.orientation);
        let mut this = Self {
            container,
            decoder,
            limits,
            frames_per_second,
            timeline,
            converter,
            pictures: 0,
            frames: 0,
            draining: false,
            finished: false,
            shown: None,
            next: None,
        };
        this.next = this.decode_picture()?;
        match this.next {
            Some(_) => Ok(this),
            None => Err(Error::NoPictures { clip: this.container.clip }),
        }
    }

    fn decode_picture(&mut self) -> Result<Option<Picture>, Error> {
        let mut decoded = frame::Video::empty();
        loop {
            match self.decoder.receive_frame(&mut decoded) {
                Ok(()) => return self.place(decoded).map(Some),
                Err(ffmpeg::Error::Eof) => return Ok(None),
                Err(_) if self.draining => return Ok(None),
                // Either it wants more, or this picture is damaged beyond use: both go on with the next packet.
                Err(_) => self.feed(),
            }
        }
    }

    fn feed(&mut self) {
        let mut packet = Packet::empty();
        while packet.read(&mut self.container.input).is_ok() {
            if packet.stream() == self.container.stream {
                // A refused packet is damaged; the pictures after it may not be.
                let _ = self.decoder.send_packet(&packet);
                return;
            }
        }
        self.draining = true;
        // Fails only where it was sent before, which `draining` rules out.
        let _ = self.decoder.send_eof();
    }

    fn place(&mut self, decoded: frame::Video) -> Result<Picture, Error> {
        self.pictures += 1;
        self.check_count(self.pictures)?;
        let span = self.timeline.place(decoded.timestamp(), decoded.packet().duration);
        if span.start > self.limits.seconds {
            let found = format!("at least {:.0} seconds", span.start);
            return Err(self.container.too_large(found, format!("{} seconds", self.limits.seconds)));
        }
        Ok(Picture { decoded, frame: None, span })
    }

    fn check_count(&self, frames: u64) -> Result<(), Error> {
        if frames <= self.limits.frames {
            return Ok(());
        }
        let limit = self.limits.frames;
        Err(self.container.too_large(format!("more than {limit} frames"), format!("{limit} frames")))
    }

    fn advance(&mut self) -> Result<Option<Frame>, Error> {
        let due = self.frames as f64 / self.frames_per_second;
        let tolerance = self.timeline.tolerance();
        while self.next.as_ref().is_some_and(|next| next.span.start <= due + tolerance) {
            self.shown = self.next.take();
            self.next = self.decode_picture()?;
        }
        let Some(shown) = &mut self.shown else {
            return Ok(None);
        };
        // The first frame is always due, however short its picture claims to be.
        if self.next.is_none() && self.frames > 0 && due >= shown.span.end - tolerance {
            return Ok(None);
        }
        let frame = match &shown.frame {
            Some(frame) => frame.clone(),
            None => shown.frame.insert(self.converter.convert(&mut shown.decoded)?).clone(),
        };
        self.frames += 1;
        self.check_count(self.frames)?;
        Ok(Some(frame))
    }
}

impl Iterator for Decoder {
    type Item = Result<Frame, Error>;

    /// The next frame.
    ///
    /// # Errors
    /// [`Error::ClipTooLarge`] once a limit is passed, [`Error::Video`] for a pixel format that swscale cannot read.
    /// After an error, or after the last frame, nothing more comes.
    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.advance().transpose();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}
