//! Real clips, where a folder of them lies beside the checkout.

use std::path::{Path, PathBuf};

use acdit_codec::video::{FileConfig, FileWriter, Limits, decode, probe};

use crate::clips::{Folder, ffprobe, options, psnr, reference};

fn clips() -> Vec<PathBuf> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let is_clip = path.extension().is_some_and(|e| e == "avi" || e == "mp4");
            if path.is_dir() {
                visit(&path, found);
            } else if is_clip {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/clips"), &mut found);
    found
}

#[test]
fn real_clips_survive_the_round_trip() {
    let clips = clips();
    if clips.is_empty() {
        println!("skipped: no clips in shared/clips beside the checkout");
    }
    for clip in clips {
        let name = clip.file_name().unwrap().to_string_lossy().into_owned();
        let info = probe(&clip, &Limits::FILE).unwrap();
        let frames_per_second = info.frames_per_second.unwrap();
        let size = acdit_codec::Size { width: info.size.width & !1, height: info.size.height & !1 };
        let wanted = options(size.width, size.height, frames_per_second);
        let frames = decode(&clip, &wanted).unwrap().frames;
        let counted = ffprobe(&clip, "stream=nb_read_frames");
        assert_eq!(frames.len().to_string(), counted[0], "{name}: frame count");

        let folder = Folder::new();
        let path = folder.path("out.mp4");
        let config = FileConfig { source: size, scale: 1, frames_per_second, quality: 18 };
        let mut writer = FileWriter::create(&*path, &config).unwrap();
        frames.iter().for_each(|frame| writer.write(frame).unwrap());
        writer.finish().unwrap();
        let back = decode(&path, &wanted).unwrap().frames;
        assert_eq!(back.len(), frames.len(), "{name}: frame count after the round trip");
        let through_mp4 = psnr(&back, &frames);
        let against = reference(&clip, info.size);
        let decoded = if info.size == size && against.len() == frames.len() {
            format!("{:.1} dB against the command line", psnr(&frames, &against))
        } else {
            format!("the command line gives {} frames of {}", against.len(), info.size)
        };
        println!(
            "{name}: {size} at {frames_per_second:.3}, {} frames, round trip at crf 18 {through_mp4:.1} dB, {decoded}",
            frames.len()
        );
        assert!(through_mp4 > 36.0, "{name}: {through_mp4:.1} dB");
    }
}
