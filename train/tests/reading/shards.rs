//! Latents on disk: what a training sees of them is what it would have seen of the clips, whatever happened in between.

use std::fs;
use std::path::{Path, PathBuf};

use acdit_codec::color;
use acdit_codec::vae::Distribution;
use acdit_codec::video::{DecodeOptions, Limits, decode};
use acdit_train::dataset::{BankSize, Dataset, Skipped};
use acdit_train::listing::Split;
use acdit_train::shards::{Job, SKIPPED, Shards, Summary, encode};
use acdit_train::{Draws, Error, Interrupt, LatentBank, Windows};
use tch::{Device, Kind, Tensor};

use crate::clips::{dataset, film, kl_vae, vae};

const SIZE: BankSize = BankSize { clips: usize::MAX, blocks: 3, frames_per_block: 4 };

/// A dataset and VAEs in a folder of their own.
struct Bench {
    folder: tempfile::TempDir,
    dataset: Dataset,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    vae(&folder.path().join("tiny"));
    kl_vae(&folder.path().join("kl"));
    Bench { folder, dataset }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Every clip in a shard of its own.
    fn encode(&self, dataset: &Dataset, vae: &str, out: &str) -> Result<Summary, Error> {
        self.encode_until(dataset, vae, out, usize::MAX)
    }

    /// Interrupted when that many clips of the list are done.
    fn encode_until(&self, dataset: &Dataset, vae: &str, out: &str, until: usize) -> Result<Summary, Error> {
        let interrupt = Interrupt::default();
        let job = Job {
            dataset,
            split: Split::Train,
            size: SIZE,
            vae: &self.path(vae),
            device: Device::Cpu,
            workers: 2,
            out: &self.path(out),
            shard_bytes: 1,
            interrupt: interrupt.clone(),
        };
        encode(&job, |done, _| {
            if done >= until {
                interrupt.set()
            }
        })
    }

    fn bank(&self, dataset: &Dataset, vae: &str) -> LatentBank {
        let encoder = acdit_codec::vae::Vae::load(&self.path(vae), Device::Cpu, Kind::Float).unwrap().encoder;
        dataset.bank(&encoder, SIZE, &Interrupt::default(), |_| ()).unwrap().0
    }

    fn open(&self, out: &str) -> Result<Shards, String> {
        Shards::open(&self.path(out)).map_err(|e| e.to_string())
    }
}

fn assert_equal(one: &LatentBank, other: &LatentBank) {
    assert_eq!((one.len(), one.description()), (other.len(), other.description()));
    for step in 0..8 {
        let batch = |bank: &LatentBank| bank.batch(&Draws::new(3, 5, 2), step).unwrap();
        assert_eq!(batch(one), batch(other), "step {step}");
    }
    assert_eq!(one.prompts(2, 2), other.prompts(2, 2));
}

#[test]
fn shards_give_the_windows_of_the_clips_bit_for_bit() {
    let bench = bench();
    let mirrored = bench.dataset.clone().with_mirrored().unwrap();
    for (name, vae, dataset) in
        [("a", "tiny", &bench.dataset), ("b", "kl", &bench.dataset), ("c", "kl", &mirrored)]
    {
        let summary = bench.encode(dataset, vae, name).unwrap();
        assert!(summary.complete);
        assert_eq!((summary.clips, summary.skipped, summary.shards), (2, 3, 2), "{name}");
        let shards = bench.open(name).unwrap();
        assert_equal(&shards.bank, &bench.bank(dataset, vae));
        assert_eq!((&shards.meta, shards.vae), (&dataset.meta(), bench.path(name).join("vae")));
    }
    let listed = fs::read_to_string(bench.path("a").join(SKIPPED)).unwrap();
    let skipped: Vec<Skipped> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = skipped.iter().map(|skipped| skipped.path.file_name().unwrap()).collect();
    assert_eq!(
        names,
        ["v_HammerThrow_g08_c01.avi", "v_HammerThrow_g08_c02.avi", "v_HammerThrow_g08_c03.avi"]
    );
    assert_eq!(skipped[0].reason, "4 frames at this interval, 12 needed");
}

/// The usable clips of the training list replaced by one of 70 frames.
fn with_one_long_clip(bench: &Bench) -> Dataset {
    let clips = bench.path("UCF-101");
    fs::remove_file(clips.join("HandstandPushups/v_HandStandPushups_g08_c01.avi")).unwrap();
    film(&clips.join("Hammering/v_Hammering_g08_c01.avi"), "testsrc", 70);
    Dataset { frame_interval: 1, ..bench.dataset.clone() }
}

/// What the VAE makes of all whole blocks of that clip, or of its mirror image.
fn distribution(bench: &Bench, vae: &str, mirrored: bool) -> Distribution {
    let options = DecodeOptions { size: bench.dataset.size, frames_per_second: 25.0, limits: Limits::FILE };
    let clip = decode(bench.path("UCF-101/Hammering/v_Hammering_g08_c01.avi"), &options).unwrap();
    assert_eq!(clip.frames.len(), 70);
    let pixels = color::to_tensor(&clip.frames[..68], Device::Cpu).unwrap();
    let pixels = if mirrored { pixels.flip([3]) } else { pixels };
    let vae = acdit_codec::vae::Vae::load(&bench.path(vae), Device::Cpu, Kind::Float).unwrap();
    vae.encoder.encode_distribution(&pixels).unwrap()
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    f64::try_from((a - b).abs().max()).unwrap()
}

#[test]
fn a_clip_of_several_pieces_is_whole_and_its_mirror_image_is_drawn_as_often() {
    let bench = bench();
    let dataset = with_one_long_clip(&bench).with_mirrored().unwrap();
    bench.encode(&dataset, "tiny", "out").unwrap();
    let bank = bench.open("out").unwrap().bank;
    let (seen, mirrored) =
        (distribution(&bench, "tiny", false).mean, distribution(&bench, "tiny", true).mean);
    assert!(worst(&seen, &mirrored) > 1e-2);
    let mut mirrored_count = 0;
    for step in 0..64 {
        let Windows { latents: window, labels, .. } = bank.batch(&Draws::new(0, 1, 17), step).unwrap(); // all of it: there is no other window
        assert_eq!(labels, Tensor::zeros([1, 17], (Kind::Int64, Device::Cpu)));
        let window = window.view_as(&seen);
        let [as_seen, as_mirrored] = [&seen, &mirrored].map(|clip| worst(&window, clip) < 1e-5);
        assert!(as_seen != as_mirrored, "step {step}: one or the other, whole");
        mirrored_count += usize::from(as_mirrored);
    }
    assert!((16..=48).contains(&mirrored_count), "{mirrored_count} of 64");
    assert!(worst(&bank.prompts(1, 17).unwrap().view_as(&seen), &seen) < 1e-5);
}

#[test]
fn a_posterior_is_sampled_anew_by_every_step() {
    let bench = bench();
    let dataset = with_one_long_clip(&bench);
    bench.encode(&dataset, "kl", "out").unwrap();
    let bank = bench.open("out").unwrap().bank;
    let Distribution { mean, std } = distribution(&bench, "kl", false);
    let std = std.unwrap();
    let sample = |step| bank.batch(&Draws::new(0, 1, 17), step).unwrap().latents.view_as(&mean);
    assert!(sample(4) == sample(4) && sample(4) != sample(5));
    let noise = Tensor::stack(&(0..20).map(|step| (sample(step) - &mean) / &std).collect::<Vec<_>>(), 0);
    // 20 · 68 · 4 · 8 · 8 numbers: their mean has a deviation of 0.0017
    let moments = [noise.mean(Kind::Double), noise.std(false)].map(|moment| f64::try_from(moment).unwrap());
    assert!(moments[0].abs() < 0.01 && (moments[1] - 1.0).abs() < 0.01, "{moments:?}");
    let two = bank.batch(&Draws::new(0, 2, 17), 1).unwrap().latents;
    assert!(two.get(0) != two.get(1), "each window of a batch has noise of its own");
}

#[test]
fn an_interrupted_encoding_goes_on_where_it_was() {
    let bench = bench();
    for until in 0..5 {
        let out = &format!("after-{until}");
        let stopped = bench.encode_until(&bench.dataset, "tiny", out, until).unwrap();
        assert!(!stopped.complete, "{until}: {stopped:?}");
        let refused = bench.open(out).unwrap_err();
        assert!(refused.contains("clips so far: `encode`, with the same flags, goes on"), "{refused}");
        let resumed = bench.encode(&bench.dataset, "tiny", out).unwrap();
        assert_eq!((resumed.clips, resumed.skipped, resumed.complete), (2, 3, true), "{until}");
        assert_equal(&bench.open(out).unwrap().bank, &bench.bank(&bench.dataset, "tiny"));
        assert_eq!(fs::read_to_string(bench.path(out).join(SKIPPED)).unwrap().lines().count(), 3);
    }
}

#[test]
fn what_does_not_belong_to_the_shards_is_refused() {
    let bench = bench();
    bench.encode(&bench.dataset, "tiny", "out").unwrap();
    let refused = |dataset: &Dataset, vae| bench.encode(dataset, vae, "out").unwrap_err().to_string();
    assert!(refused(&bench.dataset, "kl").contains("of another VAE"));
    let other = Dataset { frame_interval: 1, ..bench.dataset.clone() };
    let text = refused(&other, "tiny");
    assert!(
        text.contains("of other data, fps 12.5 there, 25.0 here; frame_interval 2 there, 1 here"),
        "{text}"
    );
    let text = refused(&bench.dataset.clone().with_mirrored().unwrap(), "tiny");
    assert!(text.contains("mirrored false there, true here"), "{text}");

    let damage = |name: &str, change: &dyn Fn(&Path)| {
        let path = bench.path("out").join(name);
        let kept = fs::read(&path).unwrap();
        change(&path);
        let text = bench.open("out").unwrap_err();
        fs::write(&path, kept).unwrap();
        text
    };
    let cut = |path: &Path| fs::write(path, &fs::read(path).unwrap()[..600]).unwrap();
    let text = damage("latents-00001.safetensors", &cut);
    assert!(text.contains("latents-00001.safetensors: not a whole safetensors file"), "{text}");
    let text = damage("latents-00001.safetensors", &|path| fs::remove_file(path).unwrap());
    assert!(text.contains("latents-00001.safetensors: No such file"), "{text}");
    let text = damage("vae/config.json", &|path| fs::write(path, "{}").unwrap());
    assert!(text.contains("vae/ is not the VAE that encoded its latents"), "{text}");
    let text = damage("manifest.json", &|path| fs::remove_file(path).unwrap());
    assert!(text.contains("out: no manifest.json"), "{text}");
    let fewer = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("\"shards\": 2", "\"shards\": 1")).unwrap();
    };
    let text = damage("manifest.json", &fewer);
    assert!(text.contains("1 clips, its manifest.json counts 2"), "{text}");
    let relabelled = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("\"HammerThrow\",\n      \"HandstandPushups\"", "\"HammerThrow\""))
            .unwrap();
    };
    let text = damage("manifest.json", &relabelled);
    assert!(text.contains("label 2 of 2"), "{text}");
    assert!(bench.open("out").is_ok());
}

#[test]
fn clips_that_were_not_there_yet_are_looked_for_again() {
    let bench = bench();
    let (clips, elsewhere) = (bench.path("UCF-101"), bench.path("elsewhere"));
    fs::rename(&clips, &elsewhere).unwrap();
    let text = bench.encode(&bench.dataset, "tiny", "out").unwrap_err().to_string();
    assert!(text.starts_with("none of 5 listed clips can be used"), "{text}");
    fs::rename(&elsewhere, &clips).unwrap();
    assert_eq!(bench.encode(&bench.dataset, "tiny", "out").unwrap().clips, 2);
}

#[test]
fn procedural_worlds_have_no_mirror_image() {
    use acdit_train::dataset::Source;
    use acdit_train::procedural::Procedural;

    let source = Source::Procedural(Procedural::Gravity);
    let gravity = Dataset { source, ..bench().dataset };
    let text = gravity.with_mirrored().unwrap_err().to_string();
    assert!(text.contains("gravity has no mirror image"), "{text}");
}
