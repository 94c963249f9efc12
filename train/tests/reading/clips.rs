//! Clips, a dataset of them, and VAEs of random weights.

use std::fs;
use std::path::Path;
use std::process::Command;

use acdit_codec::Size;
use acdit_codec::vae::{Config, Vae, kl, tiny};
use acdit_train::dataset::{Dataset, Source};
use acdit_train::ucf101;
use tch::{Device, Kind, nn};

/// A clip like the dataset's own: 320×240 MPEG-4 in AVI at 25 frames per second.
pub(crate) fn film(path: &Path, source: &str, frames: u32) {
    film_at(path, source, frames, 25);
}

pub(crate) fn film_at(path: &Path, source: &str, frames: u32, rate: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let source = format!("{source}=size=320x240:rate={rate}");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-frames:v", &frames.to_string()])
        .args(["-c:v", "mpeg4", "-vtag", "xvid", "-q:v", "3", "-y"])
        .arg(path)
        .status()
        .expect("ffmpeg is installed");
    assert!(status.success());
}

/// Three classes whose order is not the alphabet's; usable, short, damaged and missing clips.
pub(crate) fn dataset(folder: &Path) -> Dataset {
    let clip = |name: &str| folder.join("UCF-101").join(name);
    film(&clip("Hammering/v_Hammering_g08_c01.avi"), "testsrc", 24);
    film(&clip("HandstandPushups/v_HandStandPushups_g08_c01.avi"), "smptebars", 33);
    film(&clip("HandstandPushups/v_HandStandPushups_g01_c01.avi"), "smptebars", 8);
    film(&clip("HammerThrow/v_HammerThrow_g08_c01.avi"), "testsrc", 7);
    fs::write(clip("HammerThrow/v_HammerThrow_g08_c02.avi"), "not a video").unwrap();
    let splits = folder.join("ucfTrainTestlist");
    fs::create_dir(&splits).unwrap();
    let write =
        |name: &str, lines: &[&str]| fs::write(splits.join(name), lines.join("\r\n") + "\r\n").unwrap();
    write("classInd.txt", &["1 Hammering", "2 HammerThrow", "3 HandstandPushups"]);
    write(
        "trainlist01.txt",
        &[
            "HammerThrow/v_HammerThrow_g08_c01.avi 2",
            "HammerThrow/v_HammerThrow_g08_c02.avi 2",
            "HammerThrow/v_HammerThrow_g08_c03.avi 2",
            "Hammering/v_Hammering_g08_c01.avi 1",
            "HandstandPushups/v_HandStandPushups_g08_c01.avi 3",
        ],
    );
    write("testlist01.txt", &["HandstandPushups/v_HandStandPushups_g01_c01.avi"]);
    let source = Source::Clips(ucf101::open(folder, None, 1).unwrap());
    Dataset { source, size: Size { width: 32, height: 32 }, frame_interval: 2, seed: 0 }
}

pub(crate) fn vae(folder: &Path) -> Vae {
    let config = tiny::Config {
        encoder_block_out_channels: vec![4; 4],
        decoder_block_out_channels: vec![4; 4],
        num_encoder_blocks: vec![0; 4],
        num_decoder_blocks: vec![0; 4],
        ..tiny::Config::default()
    };
    tch::manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    tiny::AutoencoderTiny::new(&vs.root(), &config);
    Vae::save(folder, &Config::AutoencoderTiny(config), &vs, Kind::Float).unwrap();
    Vae::load(folder, Device::Cpu, Kind::Float).unwrap()
}

/// One whose posterior has a deviation; half as many pixels a latent along each axis.
pub(crate) fn kl_vae(folder: &Path) -> Vae {
    let config = kl::Config {
        down_block_types: vec!["DownEncoderBlock2D".into(); 3],
        up_block_types: vec!["UpDecoderBlock2D".into(); 3],
        block_out_channels: vec![4; 3],
        norm_num_groups: 2,
        ..kl::Config::default()
    };
    tch::manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    kl::Encoder::new(&vs.root(), &config);
    kl::Decoder::new(&vs.root(), &config);
    Vae::save(folder, &Config::AutoencoderKL(config), &vs, Kind::Float).unwrap();
    Vae::load(folder, Device::Cpu, Kind::Float).unwrap()
}
