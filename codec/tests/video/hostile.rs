//! Clips that are broken, lie about themselves or cost too much.

use std::path::Path;

use acdit_codec::Error;
use acdit_codec::video::{DecodeOptions, Limits, decode};

use crate::clips::{Folder, numbered, options};

/// Decoding must fail, from the path, from memory and from an open file alike, with one clean line.
fn refusal(path: &Path, limits: Limits) -> Error {
    let options = DecodeOptions { limits, ..options(32, 32, 25.0) };
    let error = decode(path, &options).unwrap_err();
    let from_memory = decode(std::fs::read(path).unwrap(), &options).unwrap_err();
    let from_open = decode(std::fs::File::open(path).unwrap(), &options).unwrap_err();
    assert_eq!(from_memory.to_string(), from_open.to_string());
    assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&from_memory));
    for text in [error.to_string(), from_memory.to_string()] {
        assert!(!text.contains("0x") && !text.contains('\n'), "{text}");
    }
    error
}

#[test]
fn what_is_not_a_video_says_so() {
    let folder = Folder::new();
    let target = folder.draw("target.mp4", &numbered("25", 5), &["-c:v", "mpeg4"]);
    let target = target.to_str().unwrap();
    let playlist = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n");
    let concat = format!("ffconcat version 1.0\nfile '{target}'\n");
    let mp4 = std::fs::read(target).unwrap();
    for path in [
        folder.write("empty.mp4", b""),
        folder.write("text.mp4", &b"This is not a video. ".repeat(500)),
        folder.write("playlist.avi", playlist.as_bytes()),
        folder.write("concat.mp4", concat.as_bytes()),
        folder.write("sdp.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
        folder.write("truncated.mp4", &mp4[..mp4.len() / 2]),
        folder.write("riff.avi", b"RIFF\xff\xff\xff\x7fAVI LIST"),
        folder.draw("transport.mp4", &numbered("25", 5), &["-c:v", "libx264", "-f", "mpegts"]),
        folder.draw("picture.mp4", &numbered("25", 1), &["-f", "image2", "-c:v", "png", "-update", "1"]),
        folder.draw("sound.mp4", "sine=d=1", &["-c:a", "aac"]),
    ] {
        let error = refusal(&path, Limits::FILE);
        assert!(matches!(error, Error::NotAVideo { .. }), "{}: {error}", path.display());
    }
}

#[test]
fn other_codecs_are_named() {
    let folder = Folder::new();
    for (name, codec) in [("a.avi", "msmpeg4v3"), ("b.avi", "ffv1"), ("c.mkv", "mpeg2video")] {
        let encoder = if codec == "msmpeg4v3" { "msmpeg4" } else { codec };
        let clip = folder.draw(name, &numbered("25", 5), &["-c:v", encoder]);
        let error = refusal(&clip, Limits::FILE);
        assert!(matches!(error, Error::ClipCodec { codec: found, .. } if found == codec), "{name}: {error}");
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let folder = Folder::new();
    for path in [folder.path("missing.mp4"), folder.path("")] {
        let error = decode(&path, &options(32, 32, 25.0)).unwrap_err();
        assert!(matches!(error, Error::ClipUnreadable { .. }), "{error}");
    }
}

#[test]
fn a_header_without_pictures_has_none() {
    let folder = Folder::new();
    let clip = folder.draw("a.avi", &numbered("25", 5), &["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"]);
    let mut bytes = std::fs::read(clip).unwrap();
    // Every JPEG in the file loses its start-of-image marker and everything that could be taken for one.
    for i in 0..bytes.len() - 1 {
        if bytes[i] == 0xff && bytes[i + 1] >= 0xc0 {
            bytes[i + 1] = 0;
        }
    }
    let error = refusal(&folder.write("b.avi", &bytes), Limits::FILE);
    assert!(matches!(error, Error::NoPictures { .. }), "{error}");
}

#[test]
fn a_truncated_stream_gives_the_frames_it_has() {
    let folder = Folder::new();
    let encoding = ["-c:v", "libx264", "-movflags", "+faststart", "-g", "5"];
    let clip = folder.draw("a.mp4", "testsrc2=s=128x128:r=25:d=2,format=yuv420p", &encoding);
    let bytes = std::fs::read(clip).unwrap();
    let half = folder.write("half.mp4", &bytes[..bytes.len() / 2]);
    let frames = decode(half, &options(32, 32, 25.0)).unwrap().frames;
    assert!((10..50).contains(&frames.len()), "{} frames", frames.len());
}

#[test]
fn limits_are_enforced() {
    let folder = Folder::new();
    let clip = folder.draw("a.mp4", "testsrc2=s=64x48:r=25:d=2,format=yuv420p", &["-c:v", "libx264"]);
    let bytes = std::fs::metadata(&clip).unwrap().len();
    let exact = Limits { bytes, pixels: 64 * 48, frames: 50, seconds: 2.0 };
    let within = DecodeOptions { limits: exact, ..options(32, 32, 25.0) };
    assert_eq!(decode(&clip, &within).unwrap().frames.len(), 50);
    for (limits, found) in [
        (Limits { bytes: bytes - 1, ..exact }, "bytes"),
        (Limits { pixels: 64 * 48 - 1, ..exact }, "pictures of 64x48"),
        (Limits { frames: 49, ..exact }, "50 frames"),
        (Limits { seconds: 1.9, ..exact }, "seconds"),
    ] {
        let error = refusal(&clip, limits);
        assert!(matches!(&error, Error::ClipTooLarge { found: text, .. } if text.contains(found)), "{error}");
    }
    // A Matroska file written to a pipe states neither length nor duration: the count has to be noticed underway.
    let piped =
        folder.draw("b.mkv", "testsrc2=s=64x48:r=25:d=2,format=yuv420p", &["-c:v", "libx264", "-live", "1"]);
    for limits in [Limits { frames: 49, ..Limits::FILE }, Limits { seconds: 1.5, ..Limits::FILE }] {
        assert!(matches!(refusal(&piped, limits), Error::ClipTooLarge { .. }));
    }
    // A few pictures asked for at a thousand frames per second are many frames.
    let fast = DecodeOptions { limits: exact, ..options(32, 32, 1000.0) };
    assert!(matches!(decode(&clip, &fast), Err(Error::ClipTooLarge { .. })));
}

#[test]
fn a_huge_picture_is_refused_before_it_is_decoded() {
    let folder = Folder::new();
    let encoding = ["-frames:v", "1", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"];
    let clip = folder.draw("huge.mkv", "color=black:s=8192x8192:r=1", &encoding);
    let error = refusal(&clip, Limits::UPLOAD);
    assert!(matches!(&error, Error::ClipTooLarge { found, .. } if found.contains("8192x8192")), "{error}");

    // The same picture in a container that claims 64x64: the decoder itself must refuse.
    let mut bytes = std::fs::read(&clip).unwrap();
    for element in [0xb0, 0xba] {
        let at = bytes.windows(4).position(|w| w == [element, 0x82, 0x20, 0x00]).unwrap();
        bytes[at + 2..at + 4].copy_from_slice(&[0, 64]);
    }
    let error = refusal(&folder.write("liar.mkv", &bytes), Limits::UPLOAD);
    assert!(matches!(error, Error::NoPictures { .. } | Error::ClipTooLarge { .. }), "{error}");
}

#[test]
fn damaged_clips_never_panic() {
    let folder = Folder::new();
    let limits = Limits { bytes: 1 << 20, pixels: 1 << 20, frames: 200, seconds: 60.0 };
    let options = DecodeOptions { limits, ..options(32, 32, 25.0) };
    let mut seed = 1u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let graph = "testsrc2=s=64x48:r=25:d=0.4,format=yuv420p";
    for (name, codec) in [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mjpeg"), ("a.webm", "libvpx")]
    {
        let pixels = if codec == "mjpeg" { "yuvj420p" } else { "yuv420p" };
        let clip = std::fs::read(folder.draw(name, graph, &["-c:v", codec, "-pix_fmt", pixels])).unwrap();
        let (mut whole, mut refused) = (0, 0);
        for _ in 0..100 {
            let mut damaged = clip.clone();
            for _ in 0..=random(20) {
                // Half of the blows fall on the headers.
                let reach = if random(2) == 0 { clip.len().min(1500) } else { clip.len() };
                damaged[random(reach)] = random(256) as u8;
            }
            match decode(damaged, &options) {
                Ok(clip) => whole += usize::from(!clip.frames.is_empty()),
                Err(error) => refused += usize::from(!error.to_string().contains('\n')),
            }
        }
        println!("{name}: of 100 damaged clips {whole} gave frames, {refused} were refused");
        assert_eq!(whole + refused, 100, "{name}");
    }
}
