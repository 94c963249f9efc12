//! Published checkpoints, real and hostile.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use acdit_model::weights::{self, pt};
use acdit_model::{Acdit, Error, RopeKind};
use proptest::prelude::*;
use pt::{PtCheckpoint, Which, read_pt};
use tch::{Device, Kind, Tensor};
use zip::write::SimpleFileOptions;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(name)
}

fn golden_entry(name: &str) -> Vec<u8> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(golden("acdit-small.pt")).unwrap()).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(&format!("acdit-small/{name}")).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Pickle opcodes, written as `pickletools` names them.
#[derive(Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    fn int(self, value: i32) -> Self {
        self.op(b"J").op(&value.to_le_bytes())
    }

    fn ints(self, values: &[i32]) -> Self {
        values.iter().fold(self.op(b"("), |pickle, value| pickle.int(*value)).op(b"t")
    }

    fn global(self, name: &str) -> Self {
        self.op(format!("c{}\n", name.replace(' ', "\n")).as_bytes())
    }

    /// `_rebuild_tensor_v2` over storage "0" of floats.
    fn tensor(self, offset: i32, size: &[i32], stride: &[i32]) -> Self {
        self.global("torch._utils _rebuild_tensor_v2")
            .op(b"((")
            .text("storage")
            .global("torch FloatStorage")
            .text("0")
            .text("cpu")
            .int(4)
            .op(b"tQ")
            .int(offset)
            .ints(size)
            .ints(stride)
            .op(b"\x89}tR")
    }

    /// {name: …}, to be closed by [`Self::file`].
    fn dict(name: &str) -> Self {
        Self(vec![0x80, 2]).op(b"}(").text(name)
    }

    /// A `.pt` file with this pickle and the storage "0" = [1, 2, 3, 4].
    fn file(self) -> tempfile::NamedTempFile {
        archive(&self.op(b"u.").0, &[("0", &[1f32, 2., 3., 4.].map(f32::to_le_bytes).concat())])
    }
}

fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(pickle).unwrap();
    for (key, bytes) in storages {
        zip.start_file(format!("archive/data/{key}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    file
}

fn values(checkpoint: &PtCheckpoint, name: &str) -> Vec<f32> {
    checkpoint.tensors[name].reshape([-1]).try_into().unwrap()
}

/// The reason for which a file is refused; it must name the file.
fn refusal(file: &Path) -> String {
    let error = read_pt(file, Which::Ema).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&file.display().to_string()) && !text.contains('\n'), "{text:?}");
    text
}

#[test]
fn the_published_form_reads_bit_for_bit() {
    let reference = weights::read(&golden("acdit-small.model.safetensors")).unwrap();
    let model = read_pt(&golden("acdit-small.pt"), Which::Model).unwrap();
    assert_eq!(model.which, Which::Model);
    assert!(model.tensors.keys().eq(reference.keys()));
    assert!(model.tensors.iter().all(|(name, tensor)| tensor.equal(&reference[name])));

    let ema = read_pt(&golden("acdit-small.pt"), Which::Ema).unwrap();
    assert_eq!(ema.which, Which::Ema);
    let half = |tensor: &Tensor| tensor.to_kind(Kind::Half).to_kind(Kind::Float);
    assert!(ema.tensors.iter().all(|(name, tensor)| tensor.equal(&half(&reference[name]))));
    assert_eq!(ema.args["model"], "ACDiT-XL");
    assert_eq!(ema.args["cfg"], 2.5);
}

#[test]
fn sizes_come_from_the_tensors() {
    let checkpoint = read_pt(&golden("acdit-small.pt"), Which::Ema).unwrap();
    let config = checkpoint.config().unwrap();
    assert_eq!(
        (config.hidden_size, config.num_layers, config.num_attention_heads, config.intermediate_size),
        (128, 3, 2, 512)
    );
    assert_eq!((config.num_classes, config.in_channels, config.patch_size), (101, 4, 2));
    assert_eq!((config.sample_frames, config.frames_per_block, config.square_block), (16, 4, None));
    assert_eq!(
        (config.axis_lengths.as_slice(), config.nd_split.as_slice()),
        (&[16, 4, 4][..], &[2, 3, 3][..])
    );
    assert_eq!(config.rope, RopeKind::Published);
    let origin = Path::new("acdit-small.pt");
    Acdit::from_tensors(&config, &checkpoint.tensors, origin, Device::Cpu, Kind::Float).unwrap();
}

#[test]
fn image_checkpoints_become_square_blocks() {
    let tensors = weights::read(&golden("acdit-image.model.safetensors")).unwrap();
    let args = serde_json::json!({"patch_size": 1, "image_size": 64, "block_size": 16, "num_frames": 1, "nd_split": null});
    let args: BTreeMap<String, serde_json::Value> = serde_json::from_value(args).unwrap();
    let mut checkpoint = PtCheckpoint { tensors, args, which: Which::Model };
    let config = checkpoint.config().unwrap();
    assert_eq!((config.square_block, config.training_blocks(), config.sample_height), (Some(4), 4, 8));
    assert_eq!((config.axis_lengths.as_slice(), config.nd_split.as_slice()), (&[8, 8][..], &[1, 1][..]));

    for (name, value, needle) in [
        ("patch_size", 3.into(), "x_embedder"),
        ("block_size", 17.into(), "block_size 17"),
        ("image_size", 0.into(), "image_size is 0"),
        ("nd_split", "1_x".into(), "nd_split is \"1_x\""),
    ] {
        let before = checkpoint.args.insert(name.into(), value);
        let text = checkpoint.config().unwrap_err().to_string();
        assert!(text.contains(needle), "{text:?} does not name {needle:?}");
        checkpoint.args.insert(name.into(), before.unwrap());
    }
    // Sizes that the tensors do not fill must not reach the allocator.
    let wide = Tensor::zeros([1 << 20, 4], (Kind::Float, Device::Cpu));
    let narrow = checkpoint.tensors.insert("x_embedder.weight".into(), wide).unwrap();
    assert!(checkpoint.config().unwrap_err().to_string().contains("parameters"));
    checkpoint.tensors.insert("x_embedder.weight".into(), narrow);
    checkpoint.args.remove("image_size");
    assert!(checkpoint.config().unwrap_err().to_string().contains("image_size"));
    checkpoint.tensors.remove("x_embedder.weight");
    assert!(checkpoint.config().unwrap_err().to_string().contains("x_embedder.weight"));
}

#[test]
fn model_stands_in_where_ema_is_missing() {
    let file = Pickle::dict("model").op(b"}(").text("w").tensor(0, &[4], &[1]).op(b"u").file();
    let checkpoint = read_pt(file.path(), Which::Ema).unwrap();
    assert_eq!((checkpoint.which, values(&checkpoint, "w")), (Which::Model, vec![1., 2., 3., 4.]));
    assert!(checkpoint.args.is_empty());
}

#[test]
fn ema_that_is_the_model_itself_reads_as_the_model() {
    let model = Pickle::dict("model").op(b"}q\x01(").text("w").tensor(0, &[4], &[1]).op(b"u");
    let file = model.text("ema").op(b"h\x01").file();
    let checkpoint = read_pt(file.path(), Which::Ema).unwrap();
    assert_eq!((checkpoint.which, values(&checkpoint, "w")), (Which::Model, vec![1., 2., 3., 4.]));
}

#[test]
fn a_bare_state_dict_is_a_checkpoint() {
    let file = Pickle::dict("w").tensor(0, &[2, 2], &[2, 1]).file();
    assert_eq!(values(&read_pt(file.path(), Which::Ema).unwrap(), "w"), [1., 2., 3., 4.]);
}

#[test]
fn views_read_the_elements_they_show() {
    let file = Pickle::dict("transposed")
        .tensor(0, &[2, 2], &[1, 2])
        .text("tail")
        .tensor(2, &[2], &[1])
        .text("scalar")
        .tensor(3, &[], &[])
        .file();
    // Four elements, two and one over a storage of four: more than the file holds only if views were read whole.
    let checkpoint = read_pt(file.path(), Which::Model).unwrap();
    assert_eq!(values(&checkpoint, "transposed"), [1., 3., 2., 4.]);
    assert_eq!(values(&checkpoint, "tail"), [3., 4.]);
    assert_eq!(values(&checkpoint, "scalar"), [4.]);
}

#[test]
fn code_is_refused_by_name() {
    let system = Pickle::dict("model").global("posix system").op(b"(").text("touch owned").op(b"tR").file();
    assert!(refusal(system.path()).contains("posix.system"));
    let getattr = Pickle::dict("model").global("builtins getattr").file();
    assert!(refusal(getattr.path()).contains("builtins.getattr"));
    let unprintable = Pickle::dict("model").global("a\x1b[2J b").file();
    assert!(refusal(unprintable.path()).contains("\\u{1b}"));
}

#[test]
fn impossible_tensors_are_refused() {
    for (offset, size, stride) in [
        (3, &[2][..], &[1][..]),
        (i32::MAX, &[1], &[1]),
        (-1, &[1], &[1]),
        (0, &[-4], &[1]),
        (0, &[4], &[-1]),
        (0, &[2, 2], &[1]),
        (0, &[0], &[1]),
        (0, &[i32::MAX, i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1, 1]),
        (0, &[i32::MAX, 1], &[i32::MAX, i32::MAX]),
        (0, &[100_000, 100_000], &[0, 0]),
        (0, &[1; 9], &[1; 9]),
    ] {
        let file = Pickle::dict("w").tensor(offset, size, stride).file();
        assert!(refusal(file.path()).contains("\"w\""), "{offset} {size:?} {stride:?}");
    }
}

#[test]
fn one_storage_cannot_become_many_tensors() {
    let bytes = vec![0; 1 << 20];
    let many = (0..50).fold(Pickle(vec![0x80, 2]).op(b"}("), |pickle, i| {
        pickle.text(&i.to_string()).tensor(0, &[1 << 18], &[1])
    });
    let file = archive(&many.op(b"u.").0, &[("0", &bytes)]);
    assert!(refusal(file.path()).contains("more than the file"));
}

#[test]
fn bombs_are_refused_before_they_unfold() {
    // Each step pairs a value with itself: 2^60 values from 300 bytes.
    let doubling = (0..60).fold(Pickle::dict("w").int(1), |pickle, _| pickle.op(b"q\0h\0\x86"));
    // Every level holds one value; dropping a million of them recursively would overflow the stack.
    let nested = Pickle::dict("w").int(1).op(&[0x85; 1_000_000]);
    let copies = Pickle::dict("w").text(&"x".repeat(1 << 20)).op(b"q\0").op(&b"h\0".repeat(1 << 20));
    let promised = Pickle::dict("w").op(b"X\xff\xff\xff\xff");
    let long = Pickle::dict("w").op(b"\x8a\xff").op(&[1; 255]);
    for (pickle, needle) in [
        (doubling, "unfolds"),
        (nested, "nests"),
        (copies, "unfolds"),
        (promised, "ends early"),
        (long, "255 bytes"),
    ] {
        assert!(refusal(pickle.file().path()).contains(needle), "{needle}");
    }
}

#[test]
fn broken_pickles_are_refused() {
    for (pickle, needle) in [
        (&b""[..], "ends early"),
        (b"\x80\x02", "ends early"),
        (b".", "broken pickle"),
        (b"K\x01.", "dictionary"),
        (b"}.", "no parameters"),
        (b"]q\0h\0a.", "dictionary"),
        (b"}K\x01K\x02s.", "parameter names"),
        (b"R.", "takes more"),
        (b"t.", "mark"),
        (b"h\x07.", "never remembered"),
        (b"i", "opcode 0x69"),
    ] {
        let file = archive(pickle, &[]);
        let text = refusal(file.path());
        assert!(text.contains(needle), "{pickle:?}: {text:?}");
    }
    let not_a_tensor = Pickle::dict("model").op(b"}(").text("w").int(3).op(b"u").file();
    assert!(refusal(not_a_tensor.path()).contains("\"w\": expected a tensor, got a number"));
    let short = Pickle::dict("w").global("torch._utils _rebuild_tensor_v2").op(b")R").file();
    assert!(refusal(short.path()).contains("expected a tensor"));
    let twice = Pickle::dict("w").tensor(0, &[1], &[1]).text("w").tensor(1, &[1], &[1]).file();
    assert!(refusal(twice.path()).contains("twice"));
}

#[test]
fn broken_archives_are_refused() {
    let whole = std::fs::read(golden("acdit-small.pt")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    for bytes in [
        &b""[..],
        b"PK\x03\x04",
        &[0x5a; 4096],
        &whole[..1000],
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 30],
    ] {
        std::fs::write(file.path(), bytes).unwrap();
        assert!(refusal(file.path()).contains("zip archive"));
    }
    let missing = archive(&Pickle::dict("w").tensor(0, &[4], &[1]).op(b"u.").0, &[]);
    assert!(refusal(missing.path()).contains("data/0"));
    assert!(matches!(read_pt(Path::new("/no/such.pt"), Which::Ema), Err(Error::Io { .. })));
    assert!(refusal(std::env::temp_dir().as_path()).contains("zip archive"));
}

#[test]
fn lies_about_sizes_are_refused() {
    let honest = archive(&Pickle::dict("w").tensor(0, &[4], &[1]).op(b"u.").0, &[("0", &[0; 16])]);
    let mut bytes = std::fs::read(honest.path()).unwrap();
    // In the central directory, behind the signature: compressed size at 20, uncompressed size at 24.
    let central: Vec<usize> = (0..bytes.len() - 4).filter(|&i| &bytes[i..i + 4] == b"PK\x01\x02").collect();
    for start in central {
        bytes[start + 20..start + 28].copy_from_slice(&[0xf0, 0xff, 0xff, 0x7f, 0xf0, 0xff, 0xff, 0x7f]);
    }
    std::fs::write(honest.path(), bytes).unwrap();
    refusal(honest.path());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens to the pickle of a real checkpoint, the answer is a checkpoint or an error.
    #[test]
    fn a_damaged_pickle_never_panics(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), cuts in any::<bool>()) {
        let mut pickle = golden_entry("data.pkl");
        for (at, byte) in damage {
            let at = at.index(pickle.len());
            pickle[at] = byte;
        }
        if cuts {
            pickle.truncate(cut.index(pickle.len()));
        }
        let file = archive(&pickle, &[("0", &golden_entry("data/0"))]);
        let _ = read_pt(file.path(), Which::Ema);
    }
}
