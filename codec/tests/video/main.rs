//! Clips made by the ffmpeg command line go in, and what comes out is checked by value: against what was drawn, against
//! the command line's own decoder, and byte by byte where a format is promised.
#![cfg(feature = "video")]

mod clips;
mod decode;
mod encode;
mod file;
mod hostile;
mod publish;
mod real;
