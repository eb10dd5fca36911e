//! The stack machine that reads a pickle.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Take};

use super::{Global, Id, PickleValue};
use crate::Result;

/// The most opcodes; CIFAR-100's training split has 200,000.
const MAX_OPCODES: usize = 1 << 20;
/// The most bytes of a name.
const MAX_NAME_BYTES: usize = 256;

pub(super) struct Machine<R> {
    reader: Take<BufReader<R>>,
    max_bytes: u64,
    values: Vec<PickleValue>,
    stack: Vec<Id>,
    /// The heights of the stack that were marked.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<R: Read> Machine<R> {
    pub(super) fn new(reader: R, max_bytes: u64) -> Self {
        Self {
            // One more, to tell a pickle of the largest size from a larger one.
            reader: BufReader::with_capacity(1 << 16, reader).take(max_bytes + 1),
            max_bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs to the end and gives the last value; an error says at which offset.
    pub(super) fn run_to_end(&mut self) -> Result<Id, String> {
        let mut at = 0;
        self.run(&mut at).map_err(|reason| format!("{reason} at offset {at}"))
    }

    pub(super) fn into_values(self) -> Vec<PickleValue> {
        self.values
    }

    /// Runs to the end and gives the last value; `at` is the offset of the opcode under way.
    fn run(&mut self, at: &mut u64) -> Result<Id, String> {
        for _ in 0..MAX_OPCODES {
            *at = self.offset();
            if *at > self.max_bytes {
                return Err(self.too_long());
            }
            let [opcode] = self.array()?;
            match opcode {
                b'\x80' => match self.array()? {
                    [2..=4] => {}
                    [protocol] => return Err(format!("the pickle has protocol {protocol}, 2 to 4 expected")),
                },
                // Python 3 says where it flushed its buffer.
                b'\x95' => drop(self.array::<8>()?),
                b'N' => self.push(PickleValue::None),
                b'\x88' => self.push(PickleValue::Int(1)),
                b'\x89' => self.push(PickleValue::Int(0)),
                b'J' => {
                    let int = i32::from_le_bytes(self.array()?);
                    self.push(PickleValue::Int(int.into()));
                }
                b'K' => {
                    let [int] = self.array()?;
                    self.push(PickleValue::Int(int.into()));
                }
                b'M' => {
                    let int = u16::from_le_bytes(self.array()?);
                    self.push(PickleValue::Int(int.into()));
                }
                b'\x8a' => self.long()?,
                // Strings with one byte of length, four, and eight.
                b'U' | b'C' | b'\x8c' => {
                    let [length] = self.array()?;
                    self.bytes(length.into())?;
                }
                b'T' | b'B' | b'X' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.bytes(length.into())?;
                }
                b'\x8e' | b'\x8d' => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.bytes(length)?;
                }
                b')' => self.push(PickleValue::Tuple(Vec::new())),
                b'\x85'..=b'\x87' => {
                    let items = self.pop_many(usize::from(opcode - b'\x84'))?;
                    self.push(PickleValue::Tuple(items));
                }
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(PickleValue::Tuple(items));
                }
                b']' => self.push(PickleValue::List(Vec::new())),
                b'a' => {
                    let item = self.pop()?;
                    self.top_list()?.push(item);
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.top_list()?.extend(items);
                }
                b'}' => self.push(PickleValue::Dict(Vec::new())),
                b's' => {
                    let items = self.pop_many(2)?;
                    self.set_items(&items)?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }
                b'(' => self.marks.push(self.stack.len()),
                b'q' => {
                    let [key] = self.array()?;
                    self.remember(key.into())?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.remember(key)?;
                }
                b'\x94' => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [key] = self.array()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                b'\x93' => self.stack_global()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                b'.' => return self.stop(),
                _ => {
                    let shown = opcode.escape_ascii();
                    return Err(format!("the pickle has the opcode `{shown}`, which no file of CIFAR has,"));
                }
            }
        }
        Err(format!("the pickle has more than {MAX_OPCODES} opcodes"))
    }

    fn offset(&self) -> u64 {
        self.max_bytes + 1 - self.reader.limit()
    }

    fn too_long(&self) -> String {
        format!("the pickle has more than {} bytes", self.max_bytes)
    }

    fn ends(&self) -> String {
        if self.reader.limit() == 0 { self.too_long() } else { "the pickle ends too early".into() }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.ends(),
            _ => error.to_string(),
        })?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u64) -> Result<(), String> {
        if length > self.reader.limit() {
            return Err(format!("the pickle has a string of {length} bytes, more than it may have in all,"));
        }
        // What is not there is not allocated.
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(length).read_to_end(&mut bytes);
        if read.map_err(|error| error.to_string())? as u64 != length {
            return Err(self.ends());
        }
        bytes.shrink_to_fit();
        self.push(PickleValue::Bytes(bytes));
        Ok(())
    }

    /// A line of a name, without its end.
    fn line(&mut self) -> Result<Vec<u8>, String> {
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(MAX_NAME_BYTES as u64);
        limited.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        if line.pop() == Some(b'\n') { Ok(line) } else { Err("a name has no end".into()) }
    }

    /// An integer of up to eight bytes, the lowest first, in two's complement.
    fn long(&mut self) -> Result<(), String> {
        let [length] = self.array()?;
        if length > 8 {
            return Err(format!("an integer has {length} bytes, at most 8 expected,"));
        }
        let mut bytes = [0; 8];
        for byte in &mut bytes[..length.into()] {
            [*byte] = self.array()?;
        }
        let unused = 64 - 8 * u32::from(length);
        let value = if length == 0 { 0 } else { i64::from_le_bytes(bytes) << unused >> unused };
        self.push(PickleValue::Int(value));
        Ok(())
    }

    fn push(&mut self, value: PickleValue) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Nothing below a mark is taken.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let rest = self.stack.len().checked_sub(count).filter(|rest| *rest >= floor);
        Ok(self.stack.split_off(rest.ok_or("the pickle takes a value that is not there")?))
    }

    fn pop(&mut self) -> Result<Id, String> {
        Ok(self.pop_many(1)?[0])
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("the pickle takes a mark that is not there")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack[floor..].last();
        top.copied().ok_or_else(|| "the pickle takes a value that is not there".into())
    }

    fn top_list(&mut self) -> Result<&mut Vec<Id>, String> {
        let top = self.top()?;
        match &mut self.values[top] {
            PickleValue::List(items) => Ok(items),
            _ => Err("the pickle appends to something that is not a list".into()),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        let (PickleValue::Dict(pairs), (found, [])) = (&mut self.values[top], items.as_chunks::<2>()) else {
            return Err("the pickle sets items of something that is not a dictionary".into());
        };
        pairs.extend(found.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id =
            self.memo.get(&key).ok_or_else(|| format!("the pickle recalls value {key}, never stored,"))?;
        self.stack.push(*id);
        Ok(())
    }

    fn global(&mut self, module: &[u8], name: &[u8]) -> Result<(), String> {
        let global = match (module, name) {
            // The second since numpy 2.
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Global::Reconstruct,
            (b"numpy", b"ndarray") => Global::NdArray,
            (b"numpy", b"dtype") => Global::DType,
            _ => {
                let (module, name) = (module.escape_ascii(), name.escape_ascii());
                return Err(format!(
                    "the pickle names {module}.{name}, which no file of CIFAR does; it was not called,"
                ));
            }
        };
        self.push(PickleValue::Global(global));
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let names = self.pop_many(2)?;
        let [PickleValue::Bytes(module), PickleValue::Bytes(name)] =
            [&self.values[names[0]], &self.values[names[1]]]
        else {
            return Err("the pickle names something without a name".into());
        };
        let short = |bytes: &Vec<u8>| bytes[..bytes.len().min(MAX_NAME_BYTES)].to_vec();
        let (module, name) = (short(module), short(name));
        self.global(&module, &name)
    }

    /// `numpy.dtype('u1', …)` and `_reconstruct(numpy.ndarray, (0,), b'b')`: an array without state.
    fn reduce(&mut self) -> Result<(), String> {
        let call = self.pop_many(2)?;
        let (PickleValue::Global(global), PickleValue::Tuple(arguments)) =
            (&self.values[call[0]], &self.values[call[1]])
        else {
            return Err("the pickle calls something that is not a function".into());
        };
        let first = arguments.first().map(|id| &self.values[*id]);
        let value = match (global, first) {
            (Global::DType, Some(PickleValue::Bytes(name))) if name == b"u1" => PickleValue::DType,
            (Global::DType, _) => return Err("an array's type is not `u1`".into()),
            (Global::Reconstruct, Some(PickleValue::Global(Global::NdArray))) => PickleValue::Array(None),
            _ => return Err("the pickle makes something that is not an array".into()),
        };
        self.push(value);
        Ok(())
    }

    /// Gives an array its state `(version, shape, dtype, is_fortran, bytes)`; a dtype's says nothing new.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let top = self.top()?;
        match (&self.values[top], &self.values[state]) {
            (PickleValue::DType, PickleValue::Tuple(_)) => {}
            (PickleValue::Array(None), PickleValue::Tuple(state)) => {
                let &[_, shape, dtype, fortran, bytes] = &state[..] else {
                    return Err(format!("an array's state has {} values, 5 expected,", state.len()));
                };
                if !matches!(self.values[dtype], PickleValue::DType) {
                    return Err("an array's type is not `u1`".into());
                }
                if !matches!(self.values[fortran], PickleValue::Int(0)) {
                    return Err("the array is in Fortran order, C order expected,".into());
                }
                self.values[top] = PickleValue::Array(Some((shape, bytes)));
            }
            _ => return Err("the pickle gives a state to something that has none".into()),
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Id, String> {
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err("the pickle leaves values behind".into());
        }
        match self.reader.fill_buf().map_err(|error| error.to_string())? {
            [] => Ok(root),
            _ => Err("bytes follow the pickle's end".into()),
        }
    }
}
