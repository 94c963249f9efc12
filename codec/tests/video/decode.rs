//! Frame counts, times, geometry and colour of decoded clips.

use std::path::Path;

use acdit_codec::video::{Decoder, Limits, Source, decode, decode_last, probe};
use acdit_codec::{Error, Frame};

use crate::clips::{Folder, LOSSLESS, assert_near, number, numbered, options, pixel, psnr, reference, size};

fn numbers(path: &Path, frames_per_second: f64) -> Vec<u32> {
    decode(path, &options(32, 32, frames_per_second)).unwrap().frames.iter().map(number).collect()
}

#[test]
fn every_accepted_codec_decodes_like_the_command_line() {
    let folder = Folder::new();
    let cases: [(&str, &[&str]); 11] = [
        ("h264.mp4", &["-c:v", "libx264"]),
        ("h264.mkv", &["-c:v", "libx264", "-bf", "2"]),
        ("h264.mov", &["-c:v", "libx264", "-pix_fmt", "yuv444p"]),
        ("h264-10bit.mp4", &["-c:v", "libx264", "-pix_fmt", "yuv420p10le"]),
        ("hevc.mp4", &["-c:v", "libx265", "-x265-params", "log-level=none"]),
        ("vp8.webm", &["-c:v", "libvpx"]),
        ("vp9.webm", &["-c:v", "libvpx-vp9", "-cpu-used", "8"]),
        ("av1.mkv", &["-c:v", "libaom-av1", "-cpu-used", "8"]),
        ("mpeg4.avi", &["-c:v", "mpeg4", "-vtag", "XVID", "-q:v", "3"]),
        ("xvid.avi", &["-c:v", "libxvid", "-q:v", "3", "-bf", "2"]),
        ("mjpeg.avi", &["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"]),
    ];
    for (name, encoding) in cases {
        let clip = folder.draw(name, "testsrc2=s=96x64:r=25:d=0.4,format=yuv420p", encoding);
        let ours = decode(&clip, &options(96, 64, 25.0)).unwrap().frames;
        let theirs = reference(&clip, size(96, 64));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let psnr = psnr(&ours, &theirs);
        println!("{name}: {psnr:.1} dB against the command line");
        assert!(psnr > 40.0, "{name}: {psnr:.1} dB");
    }
}

#[test]
fn a_steady_clip_gives_each_picture_once() {
    let folder = Folder::new();
    let all: Vec<u32> = (0..50).collect();
    for rate in ["25", "30000/1001", "24000/1001", "60", "8"] {
        let lossless_mpeg4 = ["-c:v", "mpeg4", "-q:v", "1"];
        for (name, encoding) in [("a.mp4", &LOSSLESS[..]), ("a.mkv", &LOSSLESS), ("a.avi", &lossless_mpeg4)] {
            let clip = folder.draw(name, &numbered(rate, 50), encoding);
            let info = probe(&clip, &Limits::FILE).unwrap();
            let frames_per_second = info.frames_per_second.unwrap();
            assert_eq!(numbers(&clip, frames_per_second), all, "{name} at {rate}");
        }
    }
}

#[test]
fn resampling_takes_the_picture_on_display() {
    let folder = Folder::new();
    let clip = folder.draw("a.mp4", &numbered("25", 50), &LOSSLESS);
    assert_eq!(numbers(&clip, 12.5), (0..25).map(|k| 2 * k).collect::<Vec<_>>());
    assert_eq!(numbers(&clip, 50.0), (0..100).map(|k| k / 2).collect::<Vec<_>>());
    // At 10 frames/s, frame k is due at 0.1 k s, when picture ⌊2.5 k⌋ is up.
    assert_eq!(numbers(&clip, 10.0), (0..20).map(|k| 5 * k / 2).collect::<Vec<_>>());
    assert_eq!(numbers(&clip, 1.0), [0, 25]);
}

#[test]
fn variable_frame_rate_follows_the_timestamps() {
    let folder = Folder::new();
    // Five pictures 40 ms apart, then five 100 ms apart: 0, 40, …, 160, 200, 300, …, 600 ms.
    let times = "settb=1/1000,setpts='if(lt(N,5),40*N,200+100*(N-5))'";
    let graph = format!("{},{times}", numbered("25", 10));
    let due = |k: u32| 40 * k;
    let shown = |ms: u32| if ms < 200 { ms / 40 } else { (5 + (ms - 200) / 100).min(9) };
    for name in ["vfr.mkv", "vfr.mp4"] {
        let mut encoding = LOSSLESS.to_vec();
        encoding.extend(["-fps_mode", "passthrough", "-bf", "0", "-video_track_timescale", "1000"]);
        encoding.truncate(if name.ends_with("mkv") { encoding.len() - 2 } else { encoding.len() });
        let clip = folder.draw(name, &graph, &encoding);
        let got = numbers(&clip, 25.0);
        let expected: Vec<u32> = (0..got.len() as u32).map(|k| shown(due(k))).collect();
        assert_eq!(got, expected, "{name}");
        assert!((15..=18).contains(&got.len()), "{name}: {} frames for 0.64 to 0.7 s", got.len());
    }
}

#[test]
fn timestamps_that_start_late_still_start_the_clip() {
    let folder = Folder::new();
    let clip = folder.draw("a.mkv", &numbered("25", 20), &LOSSLESS);
    let late = folder.remux(&clip, "late.mkv", &["-output_ts_offset", "7.3"]);
    assert_eq!(numbers(&late, 25.0), (0..20).collect::<Vec<_>>());
}

#[test]
fn an_audio_track_is_ignored() {
    let folder = Folder::new();
    let graph = format!("{}[out0];sine=d=2[out1]", numbered("25", 50));
    for (name, audio) in [("a.mp4", "aac"), ("a.mkv", "libopus"), ("a.avi", "pcm_s16le")] {
        let encoding = ["-c:v", "mpeg4", "-q:v", "1", "-c:a", audio];
        let clip = folder.draw(name, &graph, &encoding);
        assert_eq!(numbers(&clip, 25.0).len(), 50, "{name}");
    }
}

const RED: [u8; 3] = [220, 30, 30];
const GREEN: [u8; 3] = [30, 200, 30];
const BLUE: [u8; 3] = [30, 30, 220];
const GREY: [u8; 3] = [128, 128, 128];

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("0x{r:02x}{g:02x}{b:02x}")
}

/// 64×32 with red, green in the upper half and blue, grey in the lower.
fn quadrants() -> String {
    let boxes = [(32, 0, GREEN), (0, 16, BLUE), (32, 16, GREY)]
        .map(|(x, y, colour)| format!("drawbox={x}:{y}:32:16:{}:fill", hex(colour)));
    format!("color={}:s=64x32:r=5:d=1,format=rgb24,{},format=yuv444p", hex(RED), boxes.join(","))
}

fn corners(frame: &Frame) -> [[u8; 3]; 4] {
    let (right, bottom) = (frame.size().width * 3 / 4, frame.size().height * 3 / 4);
    let (left, top) = (right / 3, bottom / 3);
    [
        pixel(frame, left, top),
        pixel(frame, right, top),
        pixel(frame, left, bottom),
        pixel(frame, right, bottom),
    ]
}

#[test]
fn rotated_clips_come_out_upright() {
    let folder = Folder::new();
    let plain = folder.draw("plain.mp4", &quadrants(), &LOSSLESS);
    // This ffmpeg counts the degrees of the tag against the clock.
    let turned = |degrees: &str| {
        let tag = format!("rotate={degrees}");
        folder.remux(&plain, &format!("{degrees}.mp4"), &["-metadata:s:v:0", &tag])
    };
    for (degrees, shown, expected) in [
        ("0", size(64, 32), [RED, GREEN, BLUE, GREY]),
        ("90", size(32, 64), [GREEN, GREY, RED, BLUE]),
        ("180", size(64, 32), [GREY, BLUE, GREEN, RED]),
        ("270", size(32, 64), [BLUE, RED, GREY, GREEN]),
    ] {
        let clip = turned(degrees);
        assert_eq!(probe(&clip, &Limits::FILE).unwrap().size, shown);
        let frames = decode(&clip, &options(shown.width, shown.height, 5.0)).unwrap().frames;
        assert_eq!(frames.len(), 5);
        for (got, expected) in corners(&frames[0]).into_iter().zip(expected) {
            assert_near(got, expected, 3, degrees);
        }
        let psnr = psnr(&frames, &reference(&clip, shown));
        assert!(psnr > 40.0, "{degrees}°: {psnr:.1} dB against the command line");
    }
}

/// 64×32: a red quarter, a green half, a blue quarter.
fn stripes() -> String {
    let boxes = [(16, 32, GREEN), (48, 16, BLUE)]
        .map(|(x, width, colour)| format!("drawbox={x}:0:{width}:32:{}:fill", hex(colour)));
    format!("color={}:s=64x32:r=5:d=1,format=rgb24,{},format=yuv444p", hex(RED), boxes.join(","))
}

#[test]
fn crops_are_centred_in_display_shape() {
    let folder = Folder::new();
    let square_pixels = folder.draw("square.mp4", &stripes(), &LOSSLESS);
    let frame = &decode(&square_pixels, &options(32, 32, 5.0)).unwrap().frames[0];
    for x in [2, 16, 29] {
        assert_near(pixel(frame, x, 16), GREEN, 3, "the middle half of 64x32 is a green square");
    }
    let frame = &decode(&square_pixels, &options(64, 32, 5.0)).unwrap().frames[0];
    assert_near(pixel(frame, 4, 16), RED, 3, "nothing is cropped at the clip's own shape");

    // Pixels half as wide as high: the display is a square, and nothing is cropped from it.
    let narrow = folder.draw("narrow.mp4", &format!("{},setsar=1/2", stripes()), &LOSSLESS);
    assert_eq!(probe(&narrow, &Limits::FILE).unwrap().size, size(32, 32));
    let frame = &decode(&narrow, &options(32, 32, 5.0)).unwrap().frames[0];
    for (x, colour) in [(3, RED), (16, GREEN), (28, BLUE)] {
        assert_near(pixel(frame, x, 16), colour, 3, "pixel aspect 1:2");
    }
    // Twice as wide as high and on its side: the display is 32 wide and 128 high.
    let graph = format!("{},setsar=2", stripes());
    let wide = folder.draw("wide.mp4", &graph, &LOSSLESS);
    let upended = folder.remux(&wide, "upended.mp4", &["-metadata:s:v:0", "rotate=270"]);
    let frame = &decode(&upended, &options(16, 64, 5.0)).unwrap().frames[0];
    for (y, colour) in [(6, RED), (32, GREEN), (58, BLUE)] {
        assert_near(pixel(frame, 8, y), colour, 3, "pixel aspect 2:1, turned");
    }
}

#[test]
fn colours_survive_every_matrix_and_range() {
    let folder = Folder::new();
    let patch = [200, 60, 30];
    for (matrix, flag) in [("bt601", "smpte170m"), ("bt709", "bt709")] {
        for (range, flag_range) in [("limited", "tv"), ("full", "pc")] {
            let convert = format!("scale=out_color_matrix={matrix}:out_range={range},format=yuv444p");
            let graph = format!("color={}:s=64x64:r=5:d=0.4,format=rgb24,{convert}", hex(patch));
            let mut encoding = LOSSLESS.to_vec();
            encoding.extend(["-colorspace", flag, "-color_range", flag_range]);
            let clip = folder.draw("colour.mp4", &graph, &encoding);
            let frame = &decode(&clip, &options(32, 32, 5.0)).unwrap().frames[0];
            assert_near(pixel(frame, 16, 16), patch, 3, &format!("{matrix} {range}"));
        }
    }
    // Without a flag, size decides; Motion JPEG is always full range.
    for (name, shape, matrix, range, codec) in [
        ("sd.avi", "320x240", "bt601", "limited", "mpeg4"),
        ("hd.avi", "1280x720", "bt709", "limited", "mpeg4"),
        ("sd-mjpeg.avi", "320x240", "bt601", "full", "mjpeg"),
    ] {
        let pixels = if codec == "mjpeg" { "yuvj420p" } else { "yuv420p" };
        let convert = format!("scale=out_color_matrix={matrix}:out_range={range},format={pixels}");
        let graph = format!("color={}:s={shape}:r=5:d=0.4,format=rgb24,{convert}", hex(patch));
        let clip = folder.draw(name, &graph, &["-c:v", codec, "-q:v", "1"]);
        let frame = &decode(&clip, &options(32, 32, 5.0)).unwrap().frames[0];
        assert_near(pixel(frame, 16, 16), patch, 4, name);
    }
}

#[test]
fn odd_sizes_and_interlacing_decode() {
    let folder = Folder::new();
    for (name, encoding) in [
        ("odd.webm", &["-c:v", "libvpx-vp9", "-cpu-used", "8"][..]),
        ("odd.avi", &["-c:v", "mpeg4", "-q:v", "2"]),
    ] {
        let clip =
            folder.draw(name, "testsrc2=s=128x96:r=25:d=0.4,format=yuv420p,scale=101:67,setsar=1", encoding);
        let frames = decode(&clip, &options(101, 67, 25.0)).unwrap().frames;
        let psnr = psnr(&frames, &reference(&clip, size(101, 67)));
        assert!(psnr > 40.0, "{name}: {psnr:.1} dB against the command line");
        assert_eq!(decode(&clip, &options(33, 21, 25.0)).unwrap().frames.len(), 10);
    }
    let graph = "testsrc2=s=128x96:r=50:d=0.8,tinterlace=interleave_top,format=yuv420p";
    let interlaced = folder.draw("i.mp4", graph, &["-c:v", "libx264", "-flags", "+ilme+ildct"]);
    assert_eq!(decode(&interlaced, &options(64, 48, 25.0)).unwrap().frames.len(), 20);
}

#[test]
fn a_change_of_size_half_way_is_followed() {
    let folder = Folder::new();
    let raw = ["-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p", "-f", "mjpeg"];
    let small = folder.draw("small", "color=red:s=64x64:r=5:d=1", &raw);
    let large = folder.draw("large", "color=blue:s=96x48:r=5:d=1", &raw);
    let joined = [std::fs::read(small).unwrap(), std::fs::read(large).unwrap()].concat();
    let joined = folder.write("joined.mjpeg", &joined);
    let clip = folder.remux(&joined, "joined.avi", &["-r", "25"]);
    let frames = decode(&clip, &options(32, 32, 25.0)).unwrap().frames;
    assert_eq!(frames.len(), 10);
    assert_near(pixel(&frames[0], 16, 16), [254, 0, 0], 4, "before");
    assert_near(pixel(&frames[9], 16, 16), [0, 0, 254], 4, "after");
}

#[test]
fn bytes_in_memory_decode_like_the_file() {
    let folder = Folder::new();
    let clip = folder.draw("a.mp4", "testsrc2=s=96x64:r=25:d=1,format=yuv420p", &["-c:v", "libx264"]);
    let wanted = options(48, 48, 10.0);
    let from_memory = decode(std::fs::read(&clip).unwrap(), &wanted).unwrap();
    assert_eq!(from_memory, decode(clip, &wanted).unwrap());
    assert_eq!(from_memory.frames_per_second, 10.0);
}

#[test]
fn the_last_frames_are_those_of_the_whole() {
    let folder = Folder::new();
    let clip = folder.draw("a.mp4", &numbered("25", 50), &LOSSLESS);
    let wanted = options(32, 32, 10.0);
    let whole = decode(&clip, &wanted).unwrap().frames;
    assert_eq!(decode_last(&clip, &wanted, 8).unwrap().frames, whole[12..]);
    assert_eq!(decode_last(&clip, &wanted, 99).unwrap().frames, whole);
}

#[test]
fn reading_can_stop_early() {
    let folder = Folder::new();
    let clip = folder.draw("a.mp4", &numbered("25", 50), &LOSSLESS);
    let first: Vec<_> = Decoder::open(Source::Path(clip), &options(32, 32, 25.0)).unwrap().take(3).collect();
    assert_eq!(first.iter().map(|f| number(f.as_ref().unwrap())).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn senseless_options_name_the_field() {
    let folder = Folder::new();
    let clip = folder.draw("a.mp4", &numbered("25", 2), &LOSSLESS);
    for (bad, field) in [
        (options(0, 32, 25.0), "size"),
        (options(32, 9000, 25.0), "size"),
        (options(32, 32, 0.0), "frames_per_second"),
        (options(32, 32, f64::NAN), "frames_per_second"),
    ] {
        let error = decode(&clip, &bad).unwrap_err();
        assert!(matches!(&error, Error::VideoConfig(message) if message.starts_with(field)), "{error}");
    }
}
