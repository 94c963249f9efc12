//! UCF-101's layout: what is read, in which order, and what is left out.

use std::fs;
use std::path::PathBuf;

use acdit_codec::Size;
use acdit_train::dataset::{BankSize, Dataset, Source};
use acdit_train::listing::Listing;
use acdit_train::procedural::Procedural;
use acdit_train::{Draws, Interrupt, Windows};

use crate::clips::{dataset, film_at, vae};

#[test]
fn usable_clips_become_labelled_latents_and_the_rest_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let vae = vae(&folder.path().join("vae"));
    let mut counts = Vec::new();
    let size = BankSize { clips: 10, blocks: 3, frames_per_block: 4 };
    let (bank, skipped) =
        dataset.bank(&vae.encoder, size, &Interrupt::default(), |clips| counts.push(clips)).unwrap();

    let names: Vec<(PathBuf, &str)> = (skipped.iter())
        .map(|skipped| (skipped.path.file_name().unwrap().into(), skipped.reason.as_str()))
        .collect();
    assert_eq!(names[0], ("v_HammerThrow_g08_c01.avi".into(), "4 frames at this interval, 12 needed"));
    assert_eq!(names[1].0, PathBuf::from("v_HammerThrow_g08_c02.avi"));
    assert_eq!(names[2].0, PathBuf::from("v_HammerThrow_g08_c03.avi"));
    assert!(names[2].1.starts_with("No such file"), "the path is said once: {:?}", names[2]);
    assert_eq!((names.len(), counts, bank.len()), (3, vec![1, 2, 3, 4, 5], 2));
    assert_eq!(bank.latent_shape(), Some([4, 4, 4]));

    let Windows { latents, labels, .. } = bank.batch(&Draws::new(1, 32, 3), 0).unwrap();
    assert_eq!((latents.size(), labels.size()), (vec![32, 3, 4, 4, 4, 4], vec![32, 3]));
    let labels = Vec::<i64>::try_from(labels.select(1, 0)).unwrap();
    assert!(labels.contains(&0) && labels.contains(&2) && !labels.contains(&1), "{labels:?}");
    for (row, label) in labels.iter().enumerate() {
        let blocks = latents.get(row as i64).flatten(0, 1);
        let change = f64::try_from((blocks.narrow(0, 1, 11) - blocks.narrow(0, 0, 11)).abs().max()).unwrap();
        let counting_clock = *label == 0; // the other clip's colour bars stand still
        assert_eq!(change > 1e-3, counting_clock, "{label}: {change}");
    }
    let meta = dataset.meta();
    let names: Vec<&str> = meta.labels.iter().map(|label| label.name.as_str()).collect();
    assert_eq!((names, meta.fps), (vec!["Hammering", "HammerThrow", "HandstandPushups"], 12.5));
}

#[test]
fn frames_for_a_vae_come_from_their_own_lists() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let (frames, skipped) = dataset.vae_frames(12, 2).unwrap();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(frames.training.len() >= 8 && frames.held_out.len() == 2, "{frames:?}");
    assert!(frames.training.iter().all(|frame| frame.size() == dataset.size));

    fs::remove_file(folder.path().join("UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi")).unwrap();
    let (without_test, _) = dataset.vae_frames(12, 2).unwrap();
    assert_eq!((without_test.training.len() + 1, without_test.held_out.len()), (frames.training.len(), 1));
    assert_eq!(without_test.training, frames.training[..without_test.training.len()]);
}

#[test]
fn an_empty_dataset_says_what_it_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    fs::remove_dir_all(folder.path().join("UCF-101/Hammering")).unwrap();
    fs::remove_dir_all(folder.path().join("UCF-101/HandstandPushups")).unwrap();
    let vae = vae(&folder.path().join("vae"));
    let size = BankSize { clips: 10, blocks: 3, frames_per_block: 4 };
    let error = dataset.bank(&vae.encoder, size, &Interrupt::default(), |_| ()).unwrap_err().to_string();
    assert!(
        error.contains("none of 5 listed clips") && error.contains("v_HammerThrow_g08_c01.avi"),
        "{error}"
    );
}

#[test]
fn procedural_worlds_fill_a_bank_too() {
    let folder = tempfile::tempdir().unwrap();
    let vae = vae(folder.path());
    let size = Size { width: 32, height: 32 };
    for (world, labels, key) in [(Procedural::Gravity, 5, "ArrowDown"), (Procedural::Maze, 4, "ArrowUp")] {
        let dataset = Dataset { source: Source::Procedural(world), size, frame_interval: 1, seed: 5 };
        let bank_of = |frames_per_block| {
            let size = BankSize { clips: 3, blocks: 5, frames_per_block };
            dataset.bank(&vae.encoder, size, &Interrupt::default(), |_| ())
        };
        let (bank, skipped) = bank_of(4).unwrap();
        assert_eq!((bank.len(), skipped.len()), (3, 0));
        let batch = |step| bank.batch(&Draws::new(7, 6, 4), step).unwrap();
        let drawn = batch(2);
        assert!(drawn == batch(2) && batch(3).latents != drawn.latents);
        assert_eq!(drawn.context, None);
        let drawn = Vec::<i64>::try_from(drawn.labels.view([-1])).unwrap();
        assert!(drawn.iter().all(|label| (0..labels).contains(label)), "{drawn:?}");
        assert!(bank_of(2).unwrap_err().to_string().contains("4 frames per block"));
        assert_eq!(dataset.meta().labels.len() as i64, labels);
        assert_eq!(dataset.meta().labels[1].key.as_deref(), Some(key));
        let (frames, _) = dataset.vae_frames(4, 2).unwrap();
        assert_eq!((frames.training.len(), frames.held_out.len()), (4, 2));
        assert_ne!(frames.training[0], frames.training[1]);
    }
}

#[test]
fn a_folder_of_classes_is_read_at_its_clips_own_rate() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path());
    let data = folder.path().join("UCF-101");
    fs::remove_file(data.join("HammerThrow/v_HammerThrow_g08_c01.avi")).unwrap(); // what is left there is no video
    let slow = data.join("Hammering/v_Hammering_g08_c01.avi");
    fs::remove_file(&slow).unwrap();
    film_at(&slow, "testsrc", 24, 10);
    let listing = Listing::of_folder(&data).unwrap();
    assert_eq!((listing.classes.len(), listing.train.len(), listing.rate), (3, 4, 10.0));
    let size = Size { width: 32, height: 32 };
    let dataset = Dataset { source: Source::Clips(listing), size, frame_interval: 2, seed: 0 };
    let meta = dataset.meta();
    let names: Vec<_> = meta.labels.iter().map(|label| label.name.as_str()).collect();
    assert_eq!((meta.name.as_str(), meta.fps), ("UCF-101", 5.0));
    assert_eq!(names, ["HammerThrow", "Hammering", "HandstandPushups"]);
    let vae = vae(&folder.path().join("vae"));
    let amount = BankSize { clips: 10, blocks: 1, frames_per_block: 4 };
    let (bank, skipped) = dataset.bank(&vae.encoder, amount, &Interrupt::default(), |_| ()).unwrap();
    assert_eq!((bank.len(), skipped.len()), (3, 1));
}
