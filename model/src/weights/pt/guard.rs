//! Decides whether a pickle may be read at all.
//!
//! candle's reader executes nothing, but it copies whatever the memo returns and drops nested values recursively: a few
//! hundred bytes can make it allocate without end or overflow the stack, and it takes any class name. This pass walks the
//! opcodes beside it with sizes instead of values, and refuses what no checkpoint contains.

use std::collections::HashMap;

use candle_core::pickle::OpCode;

/// Values the reader may create, copies included. The largest published checkpoint, with EMA and optimizer state,
/// needs about 200,000.
const MAX_VALUES: u64 = 1_000_000;
/// Nesting of values. Checkpoints reach about ten.
const MAX_DEPTH: u32 = 64;
/// Bytes of text that count as one value.
const TEXT_PER_VALUE: u64 = 64;

/// Classes and functions that checkpoints name; `torch.*Storage` is allowed beside them. None is ever called.
const ALLOWED: [(&str, &str); 12] = [
    ("argparse", "Namespace"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch", "device"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("pathlib", "PosixPath"),
];

/// The size of a value on the reader's stack.
#[derive(Debug, Clone, Copy)]
struct Extent {
    values: u64,
    depth: u32,
    is_mark: bool,
}

impl Extent {
    const LEAF: Self = Self { values: 1, depth: 1, is_mark: false };
    const MARK: Self = Self { is_mark: true, ..Self::LEAF };

    fn text(bytes: usize) -> Self {
        Self { values: 1 + bytes as u64 / TEXT_PER_VALUE, ..Self::LEAF }
    }

    /// This value with `parts` put into it.
    fn holding(self, parts: &[Self]) -> Self {
        Self {
            values: self.values + parts.iter().map(|part| part.values).sum::<u64>(),
            depth: parts.iter().map(|part| part.depth + 1).fold(self.depth, u32::max),
            is_mark: false,
        }
    }
}

/// Returns why `pickle` must not be read, if so.
pub(super) fn check(pickle: &[u8]) -> Result<(), String> {
    let mut walk = Walk { rest: pickle, stack: Vec::new(), memo: HashMap::new(), created: 0 };
    while walk.step()? {}
    Ok(())
}

struct Walk<'a> {
    rest: &'a [u8],
    stack: Vec<Extent>,
    memo: HashMap<u32, Extent>,
    created: u64,
}

impl<'a> Walk<'a> {
    /// Follows one opcode; false at the end.
    fn step(&mut self) -> Result<bool, String> {
        let opcode = self.take(1)?[0];
        match OpCode::try_from(opcode)
            .map_err(|op| format!("opcode {op:#04x} has no place in a checkpoint"))?
        {
            OpCode::Stop => return Ok(false),
            OpCode::Proto => {
                self.take(1)?;
            }
            OpCode::Mark => self.create(Extent::MARK)?,
            OpCode::None
            | OpCode::NewTrue
            | OpCode::NewFalse
            | OpCode::EmptyTuple
            | OpCode::EmptyList
            | OpCode::EmptyDict => self.create(Extent::LEAF)?,
            OpCode::BinInt1 => self.number(1)?,
            OpCode::BinInt2 => self.number(2)?,
            OpCode::BinInt => self.number(4)?,
            OpCode::BinFloat => self.number(8)?,
            OpCode::Long1 => match self.take(1)?[0] {
                bytes @ 0..=8 => self.number(bytes.into())?,
                bytes => return Err(format!("an integer of {bytes} bytes, expected at most 8")),
            },
            OpCode::BinUnicode => {
                let length = self.u32()? as usize;
                self.take(length)?;
                self.create(Extent::text(length))?;
            }
            OpCode::Global => {
                let (module, name) = (self.line()?, self.line()?);
                check_name(module, name)?;
                self.create(Extent::text(module.len() + name.len()))?;
            }
            OpCode::BinPersId | OpCode::Tuple1 => self.combine(1)?,
            OpCode::Tuple2 | OpCode::Reduce | OpCode::NewObj | OpCode::Build => self.combine(2)?,
            OpCode::Tuple3 => self.combine(3)?,
            OpCode::Tuple | OpCode::Dict => {
                let parts = self.since_mark()?;
                self.create(Extent::LEAF.holding(&parts))?;
            }
            OpCode::Append => self.put_into_last(1)?,
            OpCode::SetItem => self.put_into_last(2)?,
            OpCode::Appends | OpCode::SetItems => {
                let parts = self.since_mark()?;
                self.stack.extend(&parts);
                self.put_into_last(parts.len())?;
            }
            OpCode::BinPut => {
                let id = self.take(1)?[0].into();
                self.remember(id)?;
            }
            OpCode::LongBinPut => {
                let id = self.u32()?;
                self.remember(id)?;
            }
            OpCode::BinGet => {
                let id = self.take(1)?[0].into();
                self.recall(id)?;
            }
            OpCode::LongBinGet => {
                let id = self.u32()?;
                self.recall(id)?;
            }
        }
        Ok(true)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the pickle ends early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.rest.iter().position(|&b| b == b'\n').ok_or("the pickle ends early")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| "a class name is not text".into())
    }

    fn number(&mut self, bytes: usize) -> Result<(), String> {
        self.take(bytes)?;
        self.create(Extent::LEAF)
    }

    fn create(&mut self, extent: Extent) -> Result<(), String> {
        self.admit(extent, extent.values)?;
        self.stack.push(extent);
        Ok(())
    }

    /// Counts `values` new ones towards the limit and checks the depth of the value they end up in.
    fn admit(&mut self, extent: Extent, values: u64) -> Result<(), String> {
        self.created += values;
        if self.created > MAX_VALUES {
            return Err(format!("the pickle unfolds to more than {MAX_VALUES} values"));
        }
        if extent.depth > MAX_DEPTH {
            return Err(format!("the pickle nests deeper than {MAX_DEPTH} levels"));
        }
        Ok(())
    }

    fn pop(&mut self, count: usize) -> Result<Vec<Extent>, String> {
        let start = self.stack.len().checked_sub(count).ok_or("the pickle takes more than it made")?;
        Ok(self.stack.split_off(start))
    }

    fn combine(&mut self, count: usize) -> Result<(), String> {
        let parts = self.pop(count)?;
        let whole = Extent::LEAF.holding(&parts);
        self.admit(whole, 1)?;
        self.stack.push(whole);
        Ok(())
    }

    fn since_mark(&mut self) -> Result<Vec<Extent>, String> {
        let mark = self.stack.iter().rposition(|extent| extent.is_mark).ok_or("the pickle lacks a mark")?;
        let parts = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(parts)
    }

    fn put_into_last(&mut self, count: usize) -> Result<(), String> {
        let parts = self.pop(count)?;
        let last = self.pop(1)?[0].holding(&parts);
        self.admit(last, 0)?;
        self.stack.push(last);
        Ok(())
    }

    fn remember(&mut self, id: u32) -> Result<(), String> {
        let last = *self.stack.last().ok_or("the pickle remembers nothing")?;
        self.admit(last, last.values)?;
        self.memo.insert(id, last);
        Ok(())
    }

    fn recall(&mut self, id: u32) -> Result<(), String> {
        let extent = *self.memo.get(&id).ok_or("the pickle recalls what it never remembered")?;
        self.create(extent)
    }
}

fn check_name(module: &str, name: &str) -> Result<(), String> {
    if ALLOWED.contains(&(module, name)) || (module == "torch" && name.ends_with("Storage")) {
        return Ok(());
    }
    let printable = |text: &str| text.chars().take(80).flat_map(char::escape_default).collect::<String>();
    Err(format!("it names {}.{}, which has no place in a checkpoint", printable(module), printable(name)))
}
