//! The live encoder, read back byte by byte and through the command line.

use acdit_codec::barcode::{self, Stamp};
use acdit_codec::video::{
    AccessUnit, DecodeOptions, Encoder, EncoderConfig, Info, Limits, LiveDecoder, Remuxer, decode, probe,
};
use acdit_codec::{Error, Frame};

use crate::clips::{Folder, ffprobe, options, psnr, reference, size};

fn config() -> EncoderConfig {
    EncoderConfig {
        source: size(64, 64),
        display: size(256, 256),
        frames_per_second: 12.5,
        keyframe_interval: 10,
        quality: 18,
        max_bits_per_second: 4_000_000,
    }
}

fn moving(folder: &Folder, options: &DecodeOptions) -> Vec<Frame> {
    let clip = folder.draw(
        "moving.mp4",
        "gradients=s=256x256:r=25:d=1:n=3:c0=0xd04030:c1=0x3060c0:c2=0xe0d0a0:seed=7:speed=0.05,format=yuv444p",
        &["-c:v", "libx264"],
    );
    decode(clip, options).unwrap().frames
}

/// The NAL units of an access unit without their start codes.
fn nal_units(unit: &AccessUnit) -> Vec<&[u8]> {
    let data = &unit.data;
    let starts: Vec<usize> =
        data.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(i, _)| i + 3).collect();
    assert!(matches!(data[..], [0, 0, 1, ..] | [0, 0, 0, 1, ..]), "an access unit opens with a start code");
    let ends = starts.iter().skip(1).map(|next| next - 3).chain([data.len()]);
    starts.iter().zip(ends).map(|(&start, end)| &data[start..end]).collect()
}

fn nal_types(unit: &AccessUnit) -> Vec<u8> {
    nal_units(unit).iter().map(|nal| nal[0] & 0x1f).collect()
}

/// `first_mb_in_slice` and `slice_type`, the two Exp-Golomb numbers that open a slice header.
fn slice_header(nal: &[u8]) -> (u32, u32) {
    let mut bits = nal[1..].iter().flat_map(|byte| (0..8).rev().map(move |i| u32::from(byte >> i & 1)));
    let mut number = || {
        let zeros = bits.by_ref().take_while(|&bit| bit == 0).count();
        bits.by_ref().take(zeros).fold(1, |value, bit| value << 1 | bit) - 1
    };
    (number(), number())
}

#[test]
fn one_access_unit_per_frame_and_parameters_before_each_keyframe() {
    let (slice, idr, sei, sps, pps) = (1, 5, 6, 7, 8);
    let folder = Folder::new();
    let frames = moving(&folder, &options(64, 64, 25.0));
    let mut encoder = Encoder::open(&config()).unwrap();
    let asked = [13, 14];
    for (index, frame) in frames.iter().enumerate() {
        let unit = encoder.encode(frame, asked.contains(&index)).unwrap();
        // A keyframe asked for starts the interval anew: 0, 10, 13, 14, 24.
        let expected = [0, 10, 13, 14, 24].contains(&index);
        assert_eq!(unit.keyframe, expected, "frame {index}");
        let types: Vec<u8> = nal_types(&unit).into_iter().filter(|&kind| kind != sei).collect();
        assert_eq!(types, if expected { vec![sps, pps, idr] } else { vec![slice] }, "frame {index}");
        let picture = nal_units(&unit).pop().unwrap();
        let (first_macroblock, slice_type) = slice_header(picture);
        assert_eq!(first_macroblock, 0);
        let intra_or_predicted: &[u32] = if expected { &[2, 7] } else { &[0, 5] };
        assert!(intra_or_predicted.contains(&slice_type), "frame {index} has slice type {slice_type}");
        assert_eq!(unit.codec().is_some(), expected);
        if expected {
            let codec = unit.codec().unwrap();
            assert!(codec.starts_with("avc1.42c0"), "{codec} is not constrained baseline");
        }
    }
}

#[test]
fn the_stream_is_what_it_says_and_looks_like_the_source() {
    let folder = Folder::new();
    let shown = size(256, 256);
    let frames = moving(&folder, &options(256, 256, 25.0));
    let mut encoder = Encoder::open(&EncoderConfig { source: shown, ..config() }).unwrap();
    let units: Vec<_> = frames.iter().map(|frame| encoder.encode(frame, false).unwrap()).collect();
    let stream =
        folder.write("live.h264", &units.iter().flat_map(|unit| &unit.data).copied().collect::<Vec<_>>());
    let entries = "stream=profile,width,height,has_b_frames,color_range,color_space,color_primaries";
    let about = ffprobe(&stream, entries);
    assert_eq!(about, ["Constrained Baseline,256,256,0,tv,smpte170m,bt709"]);
    let types = ffprobe(&stream, "frame=pict_type");
    assert_eq!(types.len(), frames.len());
    assert!(types.iter().all(|kind| kind == "I" || kind == "P"), "{types:?}");
    let psnr = psnr(&reference(&stream, shown), &frames);
    println!(
        "live stream at crf 18: {psnr:.1} dB, {} bytes for {} frames",
        units.iter().map(|u| u.data.len()).sum::<usize>(),
        frames.len()
    );
    assert!(psnr > 40.0, "{psnr:.1} dB");

    // A viewer may join at any keyframe.
    let joined = units[10..].iter().flat_map(|unit| &unit.data).copied().collect::<Vec<_>>();
    let joined = reference(&folder.write("joined.h264", &joined), shown);
    assert_eq!(joined, reference(&stream, shown)[10..]);
}

#[test]
fn the_same_frames_give_the_same_bytes() {
    let folder = Folder::new();
    let frames = moving(&folder, &options(64, 64, 10.0));
    let encode = || {
        let mut encoder = Encoder::open(&config()).unwrap();
        frames.iter().map(|frame| encoder.encode(frame, false).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(encode(), encode());
}

#[test]
fn enlarging_keeps_colours() {
    let folder = Folder::new();
    let frame = Frame::new(size(64, 64), [200, 60, 30].repeat(64 * 64)).unwrap();
    let mut encoder = Encoder::open(&EncoderConfig { quality: 5, ..config() }).unwrap();
    let stream = folder.write("flat.h264", &encoder.encode(&frame, false).unwrap().data);
    let shown = reference(&stream, size(256, 256));
    crate::clips::assert_near(crate::clips::pixel(&shown[0], 128, 128), [200, 60, 30], 3, "flat");
}

#[test]
fn senseless_configurations_name_the_field() {
    for (bad, field) in [
        (EncoderConfig { source: size(0, 64), ..config() }, "source"),
        (EncoderConfig { display: size(255, 256), ..config() }, "coded size"),
        (EncoderConfig { display: size(256, 10_000), ..config() }, "coded size"),
        (EncoderConfig { frames_per_second: -1.0, ..config() }, "frames_per_second"),
        (EncoderConfig { keyframe_interval: 0, ..config() }, "keyframe_interval"),
        (EncoderConfig { quality: 52, ..config() }, "quality"),
        (EncoderConfig { max_bits_per_second: 0, ..config() }, "max_bits_per_second"),
    ] {
        match Encoder::open(&bad) {
            Err(Error::VideoConfig(message)) => assert!(message.starts_with(field), "{message}"),
            Err(other) => panic!("{field}: {other}"),
            Ok(_) => panic!("{field} was accepted"),
        }
    }
    let mut encoder = Encoder::open(&config()).unwrap();
    let wrong = Frame::new(size(32, 32), vec![0; 32 * 32 * 3]).unwrap();
    assert!(matches!(encoder.encode(&wrong, false), Err(Error::MixedSizes { index: 0, .. })));
}

#[test]
fn access_units_become_a_file_without_being_decoded() {
    let folder = Folder::new();
    let frames = moving(&folder, &options(64, 64, 25.0));
    let mut encoder = Encoder::open(&config()).unwrap();
    let units: Vec<_> = frames.iter().map(|frame| encoder.encode(frame, false).unwrap()).collect();
    let path = folder.path("stream.mp4");
    let mut remuxer = Remuxer::create(&path, size(256, 256), 12.5, &units[0].data).unwrap();
    units.iter().try_for_each(|unit| remuxer.write(&unit.data, unit.keyframe)).unwrap();
    assert!(!path.exists(), "it appears whole");
    remuxer.finish().unwrap();

    assert_eq!(
        probe(&path, &Limits::FILE).unwrap(),
        Info { size: size(256, 256), frames_per_second: Some(12.5) }
    );
    let kept = decode(&path, &options(64, 64, 12.5)).unwrap().frames;
    assert_eq!(kept.len(), frames.len());
    assert!(psnr(&kept, &frames) > 30.0, "{} dB", psnr(&kept, &frames));
    let nothing = Remuxer::create(folder.path("none.mp4"), size(256, 256), 12.5, &units[0].data).unwrap();
    assert!(matches!(nothing.finish(), Err(Error::NoFrames)));
    assert!(!folder.path("none.mp4").exists());
    let refused = Remuxer::create(folder.path("a.h264"), size(2, 2), 12.5, &[]).err().unwrap().to_string();
    assert!(refused.ends_with("expected a name ending in .mp4"), "{refused}");
}

#[test]
fn a_file_in_fragments_can_be_played_before_its_end_and_repeats_take_no_time() {
    let folder = Folder::new();
    let frames = moving(&folder, &options(64, 64, 25.0));
    let mut encoder = Encoder::open(&config()).unwrap();
    let path = folder.path("film.mp4");
    let mut encode = |frame: &Frame, keyframe| encoder.encode(frame, keyframe).unwrap();
    let first = encode(&frames[0], true);
    let create = || Remuxer::create_in_fragments(&path, size(256, 256), 12.5, &first.data);
    let mut remuxer = create().unwrap();
    remuxer.write(&first.data, true).unwrap();
    for (frame, number) in frames.iter().zip(0..).skip(1) {
        let unit = encode(frame, false);
        remuxer.write(&unit.data, unit.keyframe).unwrap();
        // viewers that joined while this frame was the newest
        for _ in 0..number % 4 {
            remuxer.repeat(&encode(frame, true).data).unwrap();
        }
        if number == 20 {
            std::fs::copy(&path, folder.path("crash.mp4")).unwrap();
        }
    }
    remuxer.finish().unwrap();
    let kept = decode(&path, &options(64, 64, 12.5)).unwrap().frames;
    assert_eq!(kept.len(), frames.len());
    assert!(psnr(&kept, &frames) > 30.0, "{} dB", psnr(&kept, &frames));
    let early = decode(folder.path("crash.mp4"), &options(64, 64, 12.5)).unwrap().frames;
    assert!((8..=21).contains(&early.len()), "all but a second of 21 frames: {}", early.len());
    assert!(psnr(&early, &frames[..early.len()]) > 30.0);

    assert!(create().is_err(), "it replaces nothing");
    let many = folder.path("many.mp4");
    let mut remuxer = Remuxer::create_in_fragments(&many, size(256, 256), 12.5, &first.data).unwrap();
    remuxer.write(&first.data, true).unwrap();
    (0..100).try_for_each(|_| remuxer.repeat(&first.data)).unwrap();
    remuxer.write(&first.data, true).unwrap();
    remuxer.finish().unwrap();
    assert_eq!(decode(&many, &options(64, 64, 12.5)).unwrap().frames.len(), 2);
}

#[test]
fn a_live_decoder_gives_each_picture_at_once_and_reads_its_barcode() {
    let folder = Folder::new();
    let frames = moving(&folder, &options(64, 64, 25.0));
    let mut encoder = Encoder::open(&config()).unwrap();
    let mut decoder = LiveDecoder::open().unwrap();
    for (frame, begun) in frames.iter().zip(7_000_000..) {
        let stamp = Stamp { begun, age: 321, denoise: 200, decode: 20 };
        let unit = encoder.encode(&barcode::stamp(frame, stamp).unwrap(), false).unwrap();
        let shown = decoder.decode(&unit.data).unwrap().expect("nothing is held back");
        assert_eq!((shown.size(), barcode::read(&shown)), (size(256, 256), Some(stamp)));
    }
    assert!(decoder.decode(b"no access unit").is_err());
}
