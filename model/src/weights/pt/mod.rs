//! Published checkpoints: PyTorch's `.pt`, a zip archive around a pickle, read without running any of it.
//!
//! A pickle is a program. Three layers keep a hostile one harmless: `guard` refuses opcodes, names, nesting and sizes
//! that no checkpoint has; candle's reader then turns the rest into plain values, calling nothing; and `archive` gives
//! out no more bytes than the file holds.

mod archive;
mod guard;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::pickle::{Object, Stack};
use serde_json::Value;
use tch::{Kind, Tensor};

use self::archive::Archive;
use crate::Error;

/// Which of a checkpoint's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Their moving average, "ema", which samples better.
    Ema,
    /// The weights under training, "model".
    Model,
}

/// What a `.pt` file holds.
#[derive(Debug)]
pub struct PtCheckpoint {
    /// The parameters by name, f32.
    pub tensors: BTreeMap<String, Tensor>,
    /// The training script's arguments ("args"), as far as JSON can hold them; empty if there are none.
    pub args: BTreeMap<String, Value>,
    /// Which weights these are: [`Which::Model`] also where "ema" was asked for and the file has none.
    pub which: Which,
}

/// Reads a checkpoint: `{"model": state_dict, "ema": state_dict, "args": Namespace}` with or without "ema" and "args", or
/// a bare state dict.
///
/// # Errors
/// [`Error::Format`] for anything else, and for pickles that name what a checkpoint has no use for; [`Error::Io`] for a
/// file that cannot be opened.
pub fn read_pt(path: &Path, which: Which) -> Result<PtCheckpoint, Error> {
    std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    read(path, which).map_err(|detail| Error::Format { path: path.into(), detail })
}

fn read(path: &Path, which: Which) -> Result<PtCheckpoint, String> {
    let mut archive = Archive::open(path)?;
    let pickle = archive.pickle()?;
    guard::check(&pickle)?;
    let mut stack = Stack::empty();
    stack.read_loop(&mut &pickle[..]).map_err(|e| format!("broken pickle: {}", first_line(&e)))?;
    let top = stack.finalize().map_err(|e| format!("broken pickle: {}", first_line(&e)))?;
    let Object::Dict(top) = &top else {
        return Err("expected a dictionary of weights at the top of the checkpoint".into());
    };

    let (state, which) = match (which, entry(top, "ema"), entry(top, "model")) {
        // A dictionary that the pickle names twice is empty at its second place: the reader's memo keeps the state it had
        // when it was remembered. So an empty "ema" is "model" itself.
        (Which::Ema, Some(Object::Dict(ema)), _) if !ema.is_empty() => (ema, Which::Ema),
        (_, _, Some(Object::Dict(model))) => (model, Which::Model),
        (Which::Model, Some(_), _) => return Err("it holds \"ema\" but no \"model\"".into()),
        _ => (top, Which::Model),
    };
    let mut tensors = BTreeMap::new();
    for (key, value) in state {
        let Object::Unicode(name) = key else {
            return Err(format!("expected parameter names, got {}", describe(key)));
        };
        // State dicts carry this attribute; the reader files it among the entries.
        if name == "_metadata" {
            continue;
        }
        let tensor = Layout::of(value).and_then(|layout| layout.read(&mut archive));
        let tensor = tensor.map_err(|detail| format!("{name:?}: {detail}"))?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(format!("{name:?} appears twice"));
        }
    }
    if tensors.is_empty() {
        return Err("it holds no parameters".into());
    }
    Ok(PtCheckpoint { tensors, args: entry(top, "args").map(arguments).unwrap_or_default(), which })
}

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn entry<'a>(dict: &'a [(Object, Object)], name: &str) -> Option<&'a Object> {
    dict.iter().find(|(key, _)| matches!(key, Object::Unicode(key) if key == name)).map(|(_, value)| value)
}

/// Module and name of a class.
fn class(object: &Object) -> Option<(&str, &str)> {
    match object {
        Object::Class { module_name, class_name } => Some((module_name, class_name)),
        _ => None,
    }
}

/// What kind of value this is, without its possibly endless contents.
fn describe(object: &Object) -> String {
    match object {
        Object::Class { module_name, class_name } => format!("{module_name}.{class_name}"),
        Object::Reduce { callable, .. } | Object::Build { callable, .. } => {
            class(callable).map_or("an object".into(), |(module, name)| format!("a {module}.{name}"))
        }
        Object::Unicode(_) => "text".into(),
        Object::Int(_) | Object::Long(_) | Object::Float(_) => "a number".into(),
        Object::Tuple(_) | Object::List(_) => "a list".into(),
        Object::Dict(_) => "a dictionary".into(),
        _ => "another value".into(),
    }
}

/// "args": an `argparse.Namespace` or a plain dictionary. Values that JSON has no form for are left out.
fn arguments(object: &Object) -> BTreeMap<String, Value> {
    let dict = match object {
        Object::Build { args, .. } => args,
        other => other,
    };
    let Object::Dict(dict) = dict else { return BTreeMap::new() };
    let named = dict.iter().filter_map(|(key, value)| match key {
        Object::Unicode(name) => Some((name.clone(), json(value)?)),
        _ => None,
    });
    named.collect()
}

fn json(object: &Object) -> Option<Value> {
    Some(match object {
        Object::None => Value::Null,
        Object::Bool(value) => (*value).into(),
        Object::Int(value) => (*value).into(),
        Object::Long(value) => (*value).into(),
        Object::Float(value) => (*value).into(),
        Object::Unicode(value) => value.clone().into(),
        Object::Tuple(values) | Object::List(values) => {
            values.iter().map(json).collect::<Option<Vec<_>>>()?.into()
        }
        _ => return None,
    })
}

/// Where a tensor's values lie.
#[derive(Debug)]
struct Layout {
    kind: Kind,
    storage: String,
    /// First element.
    offset: u64,
    size: Vec<i64>,
    stride: Vec<i64>,
    /// Elements from the first to the last, gaps included.
    span: u64,
}

impl Layout {
    /// Takes apart `_rebuild_tensor_v2(("storage", torch.FloatStorage, key, device, n), offset, size, stride, …)`, itself
    /// possibly inside `_rebuild_parameter`.
    fn of(object: &Object) -> Result<Self, String> {
        let not_a_tensor = || format!("expected a tensor, got {}", describe(object));
        let Object::Reduce { callable, args } = object else { return Err(not_a_tensor()) };
        let (Some(("torch._utils", function)), Object::Tuple(args)) = (class(callable), &**args) else {
            return Err(not_a_tensor());
        };
        match (function, &args[..]) {
            ("_rebuild_parameter", [tensor, ..]) => Self::of(tensor),
            ("_rebuild_tensor_v2", [Object::PersistentLoad(id), offset, size, stride, ..]) => {
                let Object::Tuple(id) = &**id else { return Err(not_a_tensor()) };
                let [_, storage, Object::Unicode(key), ..] = &id[..] else { return Err(not_a_tensor()) };
                Self::new(element_kind(storage)?, key, integer(offset)?, integers(size)?, integers(stride)?)
            }
            _ => Err(not_a_tensor()),
        }
    }

    fn new(kind: Kind, storage: &str, offset: i64, size: Vec<i64>, stride: Vec<i64>) -> Result<Self, String> {
        let invalid = || format!("impossible layout: size {size:?}, stride {stride:?}, offset {offset}");
        if size.len() != stride.len() || size.len() > 8 || size.contains(&0) {
            return Err(invalid());
        }
        let elements = size.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).ok_or_else(invalid)?;
        let last = (size.iter().zip(&stride))
            .try_fold(0u64, |last, (&d, &s)| (d as u64 - 1).checked_mul(s as u64)?.checked_add(last));
        let span = last.and_then(|last| last.checked_add(1)).ok_or_else(invalid)?;
        // An expanded view would take more memory than the file: parameters never are.
        if elements > span || span > i64::MAX as u64 / 8 || offset as u64 > i64::MAX as u64 / 8 {
            return Err(invalid());
        }
        Ok(Self { kind, storage: storage.into(), offset: offset as u64, size, stride, span })
    }

    fn read(&self, archive: &mut Archive) -> Result<Tensor, String> {
        let width = self.kind.elt_size_in_bytes() as u64;
        let bytes = archive.storage(&self.storage, self.offset * width, self.span * width)?;
        let flat = Tensor::f_from_data_size(&bytes, &[self.span as i64], self.kind);
        let tensor = flat.and_then(|flat| flat.f_as_strided(&self.size, &self.stride, 0));
        tensor.map(|tensor| tensor.to_kind(Kind::Float).contiguous()).map_err(|e| e.to_string())
    }
}

fn element_kind(storage: &Object) -> Result<Kind, String> {
    match class(storage) {
        Some(("torch", "FloatStorage")) => Ok(Kind::Float),
        Some(("torch", "DoubleStorage")) => Ok(Kind::Double),
        Some(("torch", "HalfStorage")) => Ok(Kind::Half),
        Some(("torch", "BFloat16Storage")) => Ok(Kind::BFloat16),
        _ => Err(format!("expected floating-point values, got {}", describe(storage))),
    }
}

/// A number that is not negative.
fn integer(object: &Object) -> Result<i64, String> {
    match object {
        Object::Int(value @ 0..) => Ok(i64::from(*value)),
        Object::Long(value @ 0..) => Ok(*value),
        _ => Err(format!("expected sizes that are not negative, got {}", describe(object))),
    }
}

fn integers(object: &Object) -> Result<Vec<i64>, String> {
    match object {
        Object::Tuple(values) => values.iter().map(integer).collect(),
        _ => Err(format!("expected a tuple of sizes, got {}", describe(object))),
    }
}
