//! What is published to files and folders, read back; and targets that never answer.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use acdit_codec::video::{
    AccessUnit, Encoder, EncoderConfig, Interrupt, Limits, Publication, Target, decode, probe,
};
use acdit_codec::{Error, Frame};

use crate::clips::{Folder, ffprobe, options, size};

const RATE: f64 = 8.0;

/// So many frames of rising brightness, with a keyframe every two seconds.
fn units(frames: u8) -> Vec<AccessUnit> {
    let config = EncoderConfig {
        source: size(16, 16),
        display: size(64, 64),
        frames_per_second: RATE,
        keyframe_interval: 16,
        quality: 18,
        max_bits_per_second: 4_000_000,
    };
    let mut encoder = Encoder::open(&config).unwrap();
    let frame = |value| Frame::new(size(16, 16), vec![value; 16 * 16 * 3]).unwrap();
    (0..frames).map(|value| encoder.encode(&frame(value), false).unwrap()).collect()
}

fn publish(path: &Path, units: &[AccessUnit]) {
    let target = Target::parse(path.to_str().unwrap()).unwrap();
    let interrupt = Interrupt::default();
    let mut publication = Publication::open(&target, size(64, 64), RATE, &units[0].data, &interrupt).unwrap();
    for (unit, index) in units.iter().zip(0..) {
        publication.write(&unit.data, unit.keyframe, index * 125_000).unwrap();
    }
    publication.finish().unwrap();
}

#[test]
fn files_hold_every_frame_even_where_they_are_not_ended() {
    let folder = Folder::new();
    let units = units(40);
    for name in ["a.mp4", "a.mkv"] {
        let path = folder.path(name);
        publish(&path, &units);
        let clip = decode(&path, &options(16, 16, RATE)).unwrap();
        assert_eq!(clip.frames.len(), units.len(), "{name}");
    }
    let path = folder.path("a.ts");
    publish(&path, &units);
    let times = ffprobe(&path, "frame=pts_time");
    assert_eq!(times.len(), units.len());

    // As after a crash: what came before the newest keyframe is there.
    let path = folder.path("open.mp4");
    let target = Target::parse(path.to_str().unwrap()).unwrap();
    let interrupt = Interrupt::default();
    let mut publication = Publication::open(&target, size(64, 64), RATE, &units[0].data, &interrupt).unwrap();
    for (unit, index) in units.iter().zip(0..) {
        publication.write(&unit.data, unit.keyframe, index * 125_000).unwrap();
    }
    std::fs::copy(&path, folder.path("crashed.mp4")).unwrap();
    drop(publication);
    assert_eq!(decode(folder.path("crashed.mp4"), &options(16, 16, RATE)).unwrap().frames.len(), 32);
    assert!(probe(&path, &Limits::FILE).is_ok());
    assert!(Target::parse(path.to_str().unwrap()).is_err(), "what is there is not written over");
}

#[test]
fn timestamps_that_stand_still_are_moved_on() {
    let folder = Folder::new();
    let path = folder.path("still.mkv");
    let units = units(4);
    let target = Target::parse(path.to_str().unwrap()).unwrap();
    let interrupt = Interrupt::default();
    let mut publication = Publication::open(&target, size(64, 64), RATE, &units[0].data, &interrupt).unwrap();
    for (unit, at) in units.iter().zip([500_000, 500_000, 200_000, 900_000]) {
        publication.write(&unit.data, unit.keyframe, at).unwrap();
    }
    publication.finish().unwrap();
    assert_eq!(ffprobe(&path, "packet=pts"), ["500", "501", "502", "900"]);
}

#[test]
fn an_hls_folder_stays_small_and_is_gone_on_with() {
    let folder = Folder::new();
    let hls = folder.path("live/hls");
    let playlist = || std::fs::read_to_string(hls.join("stream.m3u8")).unwrap();
    let number = |text: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:"));
        line.unwrap().parse().unwrap()
    };
    publish(&hls, &units(250));
    let text = playlist();
    let listed = text.lines().filter(|line| line.ends_with(".ts")).count();
    assert!(text.contains("#EXT-X-ENDLIST") && listed == 6, "{text}");
    assert_eq!(number(&text), 10, "16 segments of 2 s");
    let files = std::fs::read_dir(&hls).unwrap().count();
    assert!((7..=14).contains(&files), "{files} files");
    assert_eq!(ffprobe(&hls.join("stream.m3u8"), "frame=pts_time").len(), 250 - 160);

    publish(&hls, &units(40));
    let text = playlist();
    assert!(number(&text) > 10 && text.contains("#EXT-X-DISCONTINUITY"), "{text}");
}

#[test]
fn a_target_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let units = units(1);
    for scheme in ["rtmp", "rtsp"] {
        let url = format!("{scheme}://me:SECRET@{}/live/SECRET", silent.local_addr().unwrap());
        let target = Target::parse(&url).unwrap();
        let interrupt = Interrupt::default();
        let asked = interrupt.clone();
        let opened = std::thread::scope(|scope| {
            let opening = scope
                .spawn(|| Publication::open(&target, size(64, 64), RATE, &units[0].data, &interrupt).err());
            let _connection = silent.accept().unwrap();
            asked.end_within(Duration::ZERO);
            opening.join().unwrap()
        });
        let error = opened.unwrap();
        assert!(matches!(&error, Error::Target { reason, .. } if reason == "no answer in time"), "{error}");
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
}
