//! A reader of the few pickle opcodes that CIFAR's files use: protocol 2 as Python 2 writes it, and the same objects
//! in protocols 3 and 4 as Python 3 writes them. (The format: Python's `pickletools`.)
//!
//! A pickle is a program for a stack machine and may name any function to call. This reader calls nothing: it knows
//! three function names and does on plain values what they would do. All values are in one list and refer to each
//! other by index, so neither depth nor cycles matter. The numbers of opcodes and bytes are bounded.

mod machine;

use std::io::Read;

use crate::Result;
use machine::Machine;

/// The place of a value.
pub(crate) type Id = usize;

#[derive(Debug)]
pub(crate) enum PickleValue {
    None,
    Int(i64),
    /// Python 2's `str`, and Python 3's `bytes` or `str`.
    Bytes(Vec<u8>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A numpy type; only `u1` comes so far.
    DType,
    /// A numpy array, from where its state is known: shape and bytes.
    Array(Option<(Id, Id)>),
}

/// The names that may stand where pickle names functions and classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    Reconstruct,
    NdArray,
    DType,
}

/// What a pickle holds.
#[derive(Debug)]
pub(crate) struct Pickle {
    values: Vec<PickleValue>,
    root: Id,
}

impl Pickle {
    /// Reads a pickle that is all the reader has, and has no more than `max_bytes`.
    ///
    /// # Errors
    /// What is wrong, and at which offset.
    pub(crate) fn read(reader: impl Read, max_bytes: u64) -> Result<Self, String> {
        let mut machine = Machine::new(reader, max_bytes);
        let root = machine.run_to_end()?;
        Ok(Self { values: machine.into_values(), root })
    }

    pub(crate) fn get(&self, id: Id) -> &PickleValue {
        &self.values[id]
    }

    /// The bytes of a value, moved out, if it is of bytes.
    pub(crate) fn take_bytes(&mut self, id: Id) -> Option<Vec<u8>> {
        match &mut self.values[id] {
            PickleValue::Bytes(bytes) => Some(std::mem::take(bytes)),
            _ => None,
        }
    }

    /// The value under `key`, if the pickle is a dictionary that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<Id> {
        let PickleValue::Dict(pairs) = self.get(self.root) else { return None };
        let is_key = |id: Id| matches!(self.get(id), PickleValue::Bytes(bytes) if bytes == key.as_bytes());
        // As in Python, the last of equal keys holds.
        pairs.iter().rev().find(|(found, _)| is_key(*found)).map(|(_, value)| *value)
    }
}
