//! MP4 files: whole, playable from the front, or not there.

use std::path::Path;

use acdit_codec::video::{FileConfig, FileWriter, Limits, decode, probe};
use acdit_codec::{Error, Frame};

use crate::clips::{Folder, ffprobe, options, psnr, reference, size};

fn config() -> FileConfig {
    FileConfig { source: size(64, 64), scale: 1, frames_per_second: 12.5, quality: 12 }
}

fn moving(folder: &Folder) -> Vec<Frame> {
    let graph = "gradients=s=64x64:r=25:d=1.6:n=3:c0=0xd04030:c1=0x3060c0:c2=0xe0d0a0:seed=7:speed=0.05,format=yuv444p";
    let clip = folder.draw("moving.mp4", graph, &["-c:v", "libx264", "-qp", "0"]);
    decode(clip, &options(64, 64, 25.0)).unwrap().frames
}

fn write(path: &Path, config: &FileConfig, frames: &[Frame]) -> Result<(), Error> {
    let mut writer = FileWriter::create(path, config)?;
    frames.iter().try_for_each(|frame| writer.write(frame))?;
    writer.finish()
}

#[test]
fn a_file_gives_its_frames_back() {
    let folder = Folder::new();
    let frames = moving(&folder);
    let path = folder.path("out.mp4");
    write(&path, &config(), &frames).unwrap();
    assert_eq!(folder.names(), ["moving.mp4", "out.mp4"]);

    let back = decode(&path, &options(64, 64, 12.5)).unwrap().frames;
    assert_eq!(back.len(), frames.len());
    let ours = psnr(&back, &frames);
    let theirs = psnr(&reference(&path, size(64, 64)), &frames);
    println!("MP4 round trip at crf 12: {ours:.1} dB, by the command line {theirs:.1} dB");
    assert!(ours > 40.0 && theirs > 40.0, "{ours:.1} dB, {theirs:.1} dB");

    assert_eq!(probe(&path, &Limits::FILE).unwrap().frames_per_second, Some(12.5));
    let about = ffprobe(&path, "stream=codec_name,width,height,pix_fmt,avg_frame_rate,nb_frames");
    assert_eq!(about, ["h264,64,64,yuv420p,25/2,40"]);
    let bytes = std::fs::read(&path).unwrap();
    let at = |name: &[u8]| bytes.windows(4).position(|w| w == name).unwrap();
    assert!(at(b"moov") < at(b"mdat"), "the index comes first");
}

#[test]
fn files_can_be_enlarged() {
    let folder = Folder::new();
    let frames = moving(&folder);
    let path = folder.path("large.mp4");
    write(&path, &FileConfig { scale: 4, ..config() }, &frames).unwrap();
    let back = decode(&path, &options(64, 64, 12.5)).unwrap().frames;
    let psnr = psnr(&back, &frames);
    println!("MP4 at four times the size and back: {psnr:.1} dB");
    assert!(psnr > 40.0, "{psnr:.1} dB");
    assert_eq!(probe(&path, &Limits::FILE).unwrap().size, size(256, 256));
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = Folder::new();
    let frames = moving(&folder);
    let path = folder.write("out.mp4", b"what was there");
    let mut writer = FileWriter::create(&*path, &config()).unwrap();
    writer.write(&frames[0]).unwrap();
    assert_eq!(folder.names().len(), 3, "the temporary is a sibling");
    drop(writer);
    assert_eq!(folder.names(), ["moving.mp4", "out.mp4"]);
    assert!(matches!(write(&path, &config(), &[]), Err(Error::NoFrames)));
    let mixed = [frames[0].clone(), Frame::new(size(2, 2), vec![0; 12]).unwrap()];
    assert!(matches!(write(&path, &config(), &mixed), Err(Error::MixedSizes { index: 1, .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
    assert_eq!(folder.names(), ["moving.mp4", "out.mp4"]);
    write(&path, &config(), &frames).unwrap();
    assert_eq!(decode(&path, &options(64, 64, 12.5)).unwrap().frames.len(), 40);
}

#[test]
fn impossible_files_say_why() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("folder.mp4")).unwrap();
    for (name, reason) in [
        ("missing/out.mp4", "does not exist"),
        ("out.avi", ".mp4"),
        ("out", ".mp4"),
        ("folder.mp4", "is a folder"),
    ] {
        let error = FileWriter::create(folder.path(name), &config()).err().unwrap();
        assert!(matches!(&error, Error::Output { reason: text, .. } if text.contains(reason)), "{error}");
    }
    for bad in [
        FileConfig { scale: 0, ..config() },
        FileConfig { scale: u32::MAX, ..config() },
        FileConfig { quality: 60, ..config() },
        FileConfig { source: size(63, 64), ..config() },
    ] {
        assert!(matches!(FileWriter::create(folder.path("out.mp4"), &bad), Err(Error::VideoConfig(_))));
    }
    assert_eq!(folder.names(), ["folder.mp4"]);
}
