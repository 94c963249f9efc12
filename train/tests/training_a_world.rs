//! The network's training loop: it learns, resumes bit for bit, refuses what cannot be, and leaves a folder that streams.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use acdit_codec::vae::{Config as VaeConfig, Vae, tiny};
use acdit_codec::{Size, color};
use acdit_model::diffusion::Prediction;
use acdit_model::{Config, Preset, weights};
use acdit_parallel::Group;
use acdit_runtime::{Session, Settings, StepInput, World, WorldMeta};
use acdit_train::dagger::Dagger;
use acdit_train::dataset::{BankSize, Dataset, Source};
use acdit_train::procedural::Procedural;
use acdit_train::world_loop::{Memory, Recipe, Run, Summary, train};
use acdit_train::{Draws, Error, Interrupt, LatentBank, Start, Windows, checkpoint, gravity, seeds};
use tch::{Device, Kind, Tensor, nn};

/// libtorch's random generator belongs to the process: runs that must repeat take turns.
fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    tch::set_num_threads(1); // networks this small lose time to a second thread
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A VAE of random weights, which is as good as any for what is tested here.
fn vae(folder: &Path) -> PathBuf {
    let config = tiny::Config {
        encoder_block_out_channels: vec![8; 4],
        decoder_block_out_channels: vec![8; 4],
        num_encoder_blocks: vec![0, 0, 0, 0],
        num_decoder_blocks: vec![0, 0, 0, 0],
        ..tiny::Config::default()
    };
    let vs = nn::VarStore::new(Device::Cpu);
    tiny::AutoencoderTiny::new(&vs.root(), &config);
    let path = folder.join("vae");
    Vae::save(&path, &VaeConfig::AutoencoderTiny(config), &vs, Kind::Float).unwrap();
    path
}

fn recipe() -> Recipe {
    let model = Config {
        hidden_size: 32,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        axis_lengths: vec![16, 2, 2],
        nd_split: vec![2, 1, 1],
        context_window: Some(2),
        ..Config::video(Preset::B, 32, 5)
    };
    Recipe {
        model,
        prediction: Prediction::V,
        blocks: 4,
        batch: 4,
        steps: 20,
        rate: 3e-3,
        warmup: 4,
        decay: 0.15,
        label_dropout: 0.1,
        first_block_weight: 1.0,
        context_noise: 0.1,
        self_context: 0.5,
        sampler_steps: None,
        ema: 0.9,
        bf16: false,
        seed: 9,
    }
}

struct Bench {
    folder: tempfile::TempDir,
    vae: PathBuf,
    dataset: Dataset,
    meta: WorldMeta,
    bank: LatentBank,
    group: Group,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    tch::manual_seed(1);
    let vae = vae(folder.path());
    let size = Size { width: 32, height: 32 };
    let dataset =
        Dataset { source: Source::Procedural(Procedural::Gravity), size, frame_interval: 1, seed: 0 };
    let encoder = Vae::load(&vae, Device::Cpu, Kind::Float).unwrap().encoder;
    let amount = BankSize { clips: 3, blocks: 6, frames_per_block: 4 };
    let (bank, _) = dataset.bank(&encoder, amount, &Interrupt::default(), |_| ()).unwrap();
    Bench { folder, vae, meta: dataset.meta(), dataset, bank, group: Group::alone() }
}

impl Bench {
    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run<'a>(&'a self, out: &'a Path) -> Run<'a> {
        Run {
            out,
            vae: &self.vae,
            meta: &self.meta,
            prompts: 2,
            start: None,
            resume: false,
            stop_at: None,
            save_every: 7,
            keep: NonZeroUsize::new(2).unwrap(),
            memory: Memory::default(),
            group: &self.group,
            device: Device::Cpu,
            interrupt: Interrupt::default(),
        }
    }

    fn train(
        &self,
        recipe: &Recipe,
        name: &str,
        stop_at: Option<u64>,
        resume: bool,
    ) -> Result<Summary, Error> {
        self.train_from(None, recipe, name, stop_at, resume)
    }

    fn train_from(
        &self,
        start: Option<&Start>,
        recipe: &Recipe,
        name: &str,
        stop_at: Option<u64>,
        resume: bool,
    ) -> Result<Summary, Error> {
        let out = self.out(name);
        let run = Run { start, resume, stop_at, ..self.run(&out) };
        train(recipe, &self.bank, &run)
    }

    /// The averaged weights.
    fn weights(&self, name: &str) -> BTreeMap<String, Tensor> {
        weights::read(&self.out(name).join("weights/transformer/diffusion_pytorch_model.safetensors"))
            .unwrap()
    }

    /// The tensors of the newest checkpoint.
    fn state(&self, name: &str) -> BTreeMap<String, Tensor> {
        let newest = checkpoint::latest(&self.out(name).join("checkpoints")).unwrap().unwrap();
        weights::read(&newest).unwrap()
    }
}

#[test]
fn twenty_steps_equal_ten_and_ten_more_bit_for_bit() {
    let _turn = alone();
    let bench = bench();
    let whole = bench.train(&recipe(), "whole", None, false).unwrap();
    assert_eq!(bench.train(&recipe(), "parts", Some(10), false).unwrap().step, 10);
    let resumed = bench.train(&recipe(), "parts", None, true).unwrap();
    assert_eq!((whole.step, resumed.step), (20, 20));
    let (one, other) = (bench.state("whole"), bench.state("parts"));
    assert_eq!(one.keys().collect::<Vec<_>>(), ["adamw.mean", "adamw.variance", "ema", "parameters"]);
    assert_eq!(one, other);
    assert_eq!(bench.weights("whole"), bench.weights("parts"));
}

#[test]
fn a_batch_in_parts_and_activations_computed_twice_give_the_same_weights() {
    let _turn = alone();
    let bench = bench();
    // the first step of Adam divides by the gradient's own size, so that rounding would show in parameters that matter not
    let recipe = Recipe { steps: 10, warmup: 10, rate: 1e-3, ..recipe() };
    let whole = bench.train(&recipe, "whole", None, false).unwrap();
    let two = NonZeroUsize::new(2).unwrap();
    for (name, accumulate, recompute) in
        [("parts", two, false), ("recomputed", NonZeroUsize::MIN, true), ("both", two, true)]
    {
        let out = bench.out(name);
        let run = Run { memory: Memory { accumulate, recompute }, ..bench.run(&out) };
        let summary = train(&recipe, &bench.bank, &run).unwrap();
        assert!((whole.loss.unwrap() - summary.loss.unwrap()).abs() < 1e-5, "{name}");
        let (one, other) = (&bench.state("whole")["parameters"], &bench.state(name)["parameters"]);
        let moved = (one - other).abs().max().double_value(&[]);
        assert!(moved < 1e-5, "{name}: a parameter is off by {moved}");
    }
    let out = bench.out("three");
    let memory = Memory { accumulate: NonZeroUsize::new(3).unwrap(), recompute: false };
    let run = Run { memory, ..bench.run(&out) };
    let refused = train(&recipe, &bench.bank, &run).unwrap_err().to_string();
    assert_eq!(refused, "a batch of 4 clips cannot be accumulated in 3 equal parts");
}

#[test]
fn a_loss_that_explodes_ends_the_run_and_names_the_checkpoint_before() {
    let _turn = alone();
    let bench = bench();
    // the rate rises until the network comes apart
    let wild = Recipe { steps: 400, warmup: 400, rate: 40.0, decay: 0.0, self_context: 0.0, ..recipe() };
    let error = bench.train(&wild, "wild", None, false).unwrap_err();
    let checkpoints = bench.out("wild").join("checkpoints");
    let newest = checkpoint::latest(&checkpoints).unwrap().unwrap();
    let Error::Diverged { step, reason, last_good } = &error else { panic!("{error}") };
    assert!(reason.starts_with("the loss is ") || reason.starts_with("the gradient's norm is "), "{reason}");
    assert_eq!(last_good.as_ref(), Some(&newest));
    assert!(
        *step < 400 && newest.ends_with(format!("step-{:08}.safetensors", step / 7 * 7)),
        "{newest:?} at {step}"
    );
    // the best one is still there when the newest two are not
    assert!(weights::read(&checkpoints.join("best.safetensors")).unwrap().contains_key("parameters"));
}

#[test]
fn a_run_goes_on_from_weights_and_learns_new_labels_anew() {
    let _turn = alone();
    let bench = bench();
    bench.train(&recipe(), "first", None, false).unwrap();
    let load = || Start::load(&bench.out("first").join("weights")).unwrap();
    // too slow to move a bf16 weight
    let still = Recipe { rate: 1e-12, ..recipe() };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let knows = |labels: &[String]| {
        let mut start = load();
        start.with_labels(labels);
        start.knows_labels()
    };
    assert!(knows(&bench.meta.label_names()));
    assert!(!knows(&names(&["none", "up", "down", "left", "right"])), "the same, in another order");
    bench.train_from(Some(&load()), &still, "second", Some(2), false).unwrap();
    assert_eq!(bench.weights("second"), bench.weights("first"));

    let refused = bench.train(&still, "second", None, true).unwrap_err().to_string();
    assert!(refused.contains("went on from weights: name them again"), "{refused}");
    bench.train_from(Some(&load()), &still, "second", Some(4), true).unwrap();

    let into_itself = bench.train_from(Some(&load()), &still, "first", None, true).unwrap_err().to_string();
    assert!(into_itself.contains("cannot go on from the weights that it writes"), "{into_itself}");

    // the same weights for seven labels; the data have five
    let (table, mut first) = ("y_embedder.embedding_table.weight", bench.weights("first"));
    first.insert(table.into(), Tensor::ones([8, 32], (Kind::BFloat16, Device::Cpu)));
    let folder = bench.out("first/weights");
    let transformer = folder.join("transformer");
    weights::write(&transformer.join("diffusion_pytorch_model.safetensors"), &first, Kind::BFloat16).unwrap();
    let seven = Config { num_classes: 7, ..recipe().model };
    std::fs::write(transformer.join("config.json"), serde_json::to_vec(&seven).unwrap()).unwrap();
    let labels = bench.meta.label_names();
    let mut start = load();
    start.with_labels(&labels);
    assert!(!start.knows_labels());
    bench.train_from(Some(&start), &still, "third", Some(1), false).unwrap();
    let mut third = bench.weights("third");
    let relearnt = third.remove(table).unwrap();
    assert_eq!(relearnt.size(), [6, 32]);
    assert!(f64::try_from(relearnt.abs().max()).unwrap() < 0.2, "it begins as tables do, near zero");
    first.remove(table);
    assert_eq!(first, third);
}

#[test]
fn a_schedule_may_be_lengthened_or_cut_until_it_first_changes() {
    let _turn = alone();
    let bench = bench();
    let steps = |steps| Recipe { steps, ..recipe() };
    bench.train(&steps(20), "whole", None, false).unwrap();
    for (name, planned) in [("cut", 40), ("lengthened", 14)] {
        bench.train(&steps(planned), name, Some(9), false).unwrap();
        bench.train(&steps(20), name, None, true).unwrap();
        assert_eq!(bench.state(name), bench.state("whole"), "{name}");
    }
    bench.train(&steps(14), "late", Some(10), false).unwrap();
    let refused = bench.train(&steps(20), "late", None, true).unwrap_err().to_string();
    assert!(refused.contains("another recipe"), "{refused}");
}

#[test]
fn it_learns_and_what_it_leaves_streams() {
    let _turn = alone();
    let bench = bench();
    let recipe = Recipe { steps: 200, ..recipe() };
    let summary = bench.train(&recipe, "run", None, false).unwrap();
    let log = std::fs::read_to_string(bench.out("run").join("log.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert!(summary.loss.unwrap() < 0.8 * first["loss"].as_f64().unwrap(), "{log}");

    let folder = bench.out("run").join("weights");
    let world = World::load(&folder, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(world.meta, bench.meta);
    let mut session = Session::new(&world, Settings::of(&world, 0)).unwrap();
    let block = session.step(&world, &StepInput { label: 1, inject: None }).unwrap();
    assert_eq!(block.latents.size(), [4, 4, 4, 4]);
    assert!(Vae::load(&folder.join("vae"), Device::Cpu, Kind::Float).is_ok());
    assert!(bench.out("run/samples/step-00000200.png").is_file());
}

#[test]
fn what_does_not_fit_is_refused() {
    let _turn = alone();
    let bench = bench();
    bench.train(&recipe(), "run", Some(1), false).unwrap();
    let message = |result: Result<Summary, Error>| result.unwrap_err().to_string();
    assert!(message(bench.train(&recipe(), "run", None, false)).contains("holds a run already"));
    let other = Recipe { rate: 1e-3, ..recipe() };
    assert!(message(bench.train(&other, "run", None, true)).contains("another recipe"));
    let larger = Recipe { model: Config { sample_height: 8, ..recipe().model }, ..recipe() };
    assert!(message(bench.train(&larger, "a", None, false)).contains("[4, 4, 4]"));
    let longer = Recipe { blocks: 7, ..recipe() };
    assert!(message(bench.train(&longer, "b", None, false)).contains("7 blocks"));
}

#[test]
fn a_run_goes_on_with_its_own_data_only() {
    let _turn = alone();
    let mut bench = bench();
    bench.train(&recipe(), "run", Some(1), false).unwrap();
    let encoder = Vae::load(&bench.vae, Device::Cpu, Kind::Float).unwrap().encoder;
    let size = BankSize { clips: 2, blocks: 6, frames_per_block: 4 };
    let bank_of = |seed, size| {
        let dataset = Dataset { seed, ..bench.dataset.clone() };
        dataset.bank(&encoder, size, &Interrupt::default(), |_| ()).unwrap().0
    };
    let same = bank_of(0, BankSize { clips: 3, ..size });
    for (bank, needle) in
        [(bank_of(0, size), "clips 3 there, 2 here"), (bank_of(7, size), "seed 0 there, 7 here")]
    {
        bench.bank = bank;
        let refused = bench.train(&recipe(), "run", None, true).unwrap_err().to_string();
        assert!(
            refused.contains("that run learnt from other data: ") && refused.contains(needle),
            "{refused}"
        );
    }
    bench.bank = same;
    assert_eq!(bench.train(&recipe(), "run", Some(2), true).unwrap().step, 2);

    let config = bench.vae.join("config.json");
    let rescaled = std::fs::read_to_string(&config)
        .unwrap()
        .replace("\"scaling_factor\": 1.0", "\"scaling_factor\": 2.0");
    std::fs::write(&config, rescaled).unwrap();
    let refused = bench.train(&recipe(), "run", None, true).unwrap_err().to_string();
    assert!(refused.ends_with("other vae"), "{refused}");
}

#[test]
fn values_out_of_range_and_folders_that_do_not_fit_are_refused_before_any_work() {
    let _turn = alone();
    let bench = bench();
    for (wrong, needle) in [
        (Recipe { steps: 0, ..recipe() }, "0 steps"),
        (Recipe { rate: f64::NAN, ..recipe() }, "learning rate NaN"),
        (Recipe { context_noise: f64::NAN, ..recipe() }, "context noise NaN"),
        (Recipe { first_block_weight: 0.0, ..recipe() }, "first block's weight 0"),
        (Recipe { self_context: 1.5, ..recipe() }, "share of own context 1.5: expected 0 to 1"),
        (Recipe { decay: 1.5, ..recipe() }, "decay 1.5: expected 0 to 1"),
        (Recipe { ema: 1.0, ..recipe() }, "EMA decay 1"),
        (Recipe { prediction: Prediction::Epsilon, ..recipe() }, "own context needs a network that predicts"),
    ] {
        let error = bench.train(&wrong, "wrong", None, false).unwrap_err().to_string();
        assert!(error.contains(needle), "{error:?} does not name {needle:?}");
    }
    let error = bench.train(&recipe(), "absent", None, true).unwrap_err().to_string();
    assert!(error.contains("no checkpoint to resume"), "{error}");
    assert!(!bench.out("wrong").exists() && !bench.out("absent").exists());
}

#[test]
fn an_interrupt_before_the_first_step_leaves_nothing() {
    let _turn = alone();
    let bench = bench();
    let interrupt = Interrupt::default();
    interrupt.set();
    let out = bench.out("run");
    let run = Run { interrupt: interrupt.clone(), ..bench.run(&out) };
    assert!(matches!(train(&recipe(), &bench.bank, &run), Err(Error::Interrupted)));
    assert!(!run.out.exists());
    let encoder = Vae::load(&bench.vae, Device::Cpu, Kind::Float).unwrap().encoder;
    let amount = BankSize { clips: 3, blocks: 6, frames_per_block: 4 };
    assert!(matches!(bench.dataset.bank(&encoder, amount, &interrupt, |_| ()), Err(Error::Interrupted)));
}

#[test]
fn a_finished_run_that_is_resumed_says_its_loss_again() {
    let _turn = alone();
    let bench = bench();
    let first = bench.train(&recipe(), "run", None, false).unwrap();
    let again = bench.train(&recipe(), "run", None, true).unwrap();
    assert_eq!((first.step, first.loss), (again.step, again.loss));
}

/// A network that has learnt nothing shows no balls: what it should have shown is what the simulator shows by itself.
#[test]
fn what_a_stream_should_have_shown_follows_the_rules() {
    let _alone = alone();
    let bench = bench();
    bench.train(&recipe(), "first", Some(2), false).unwrap();
    let weights = bench.out("first").join("weights");
    let start = Start::load(&weights).unwrap();
    let (blocks, dataset) = (6, Dataset { seed: 3, ..bench.dataset.clone() });
    let size = BankSize { clips: 3, blocks, frames_per_block: 4 };
    let placed = (Device::Cpu, Kind::Float);
    let dagger = Dagger::load(&start, &bench.vae, &dataset, size, placed).unwrap();
    let mut done = Vec::new();
    let bank = dagger.add_to(&bench.bank, &Interrupt::default(), |blocks| done.push(blocks)).unwrap();
    assert_eq!((bank.len(), done), (6, vec![3, 6, 9, 12]), "two of the six blocks are the window's");

    let Windows { latents, context, labels } = bank.batch(&Draws::new(0, 60, blocks), 0).unwrap();
    let context = context.unwrap();
    let encoder = Vae::load(&bench.vae, Device::Cpu, Kind::Float).unwrap().encoder;
    let lessons: Vec<(Tensor, Vec<i64>)> = (0..3)
        .map(|number| {
            let (frames, labels) =
                gravity::trajectory(seeds::streamed(3, number), blocks, dataset.size).unwrap();
            let pixels = color::to_tensor(&frames, Device::Cpu).unwrap();
            let latents = encoder.encode_distribution(&pixels).unwrap().mean.view_as(&latents.get(0));
            (latents, labels.into_iter().map(|label| label as i64).collect())
        })
        .collect();
    let mut seen = [0; 3];
    for row in 0..60 {
        let [latents, context] = [&latents, &context].map(|tensor| tensor.get(row));
        let labels = Vec::<i64>::try_from(labels.get(row)).unwrap();
        let found = lessons.iter().position(|(lesson, _)| lesson.allclose(&latents, 1e-4, 1e-4, false));
        assert_eq!(found.is_some(), latents != context, "row {row}: whose context is its own is a stream");
        let Some(number) = found else { continue };
        seen[number] += 1;
        assert_eq!(labels, lessons[number].1);
        let equal: Vec<bool> =
            (0..blocks as i64).map(|block| latents.get(block) == context.get(block)).collect();
        assert_eq!(equal, [true, true, false, false, false, false], "what it began with, and what it made");
    }
    assert!(seen.iter().all(|&seen| seen > 2), "{seen:?} of 60 windows");

    let interrupt = Interrupt::default();
    interrupt.set();
    assert!(matches!(dagger.add_to(&bench.bank, &interrupt, |_| ()), Err(Error::Interrupted)));
}
