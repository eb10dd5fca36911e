//! The pickle in a PyTorch file, read as data: nothing that it names is imported, called or executed.
//!
//! Values lie in one list and refer to each other by their places in it. So whatever a pickle says, a memo that doubles
//! or a million nested tuples, it takes memory in proportion to its own length, and no recursion. candle's reader,
//! which copies values, recurses and indexes unchecked, cannot promise that; nor does it read protocols 4 and 5.

use std::collections::HashMap;

/// The place of a value in [`Pickle`].
pub(super) type Id = usize;

/// What a pickle can hold, as far as a state dict is concerned.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Int(i64),
    Text(&'a str),
    /// A module's and a name in it: a class or a function.
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A call, as the pickle wants it, of the first to the arguments in the second.
    Call(Id, Id),
    /// A reference out of the pickle: a storage.
    Persistent(Id),
    /// Lists, sets, floats, bytes, None and whatever else.
    Other,
}

/// A whole pickle.
pub(super) struct Pickle<'a> {
    items: Vec<Item<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// # Errors
    /// Where the bytes are no pickle of protocols 2 to 5: what is wrong, and at which byte.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine =
            Machine { bytes, at: 0, items: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
        loop {
            let at = machine.at;
            match machine.step() {
                Some(Step::Next) => {}
                Some(Step::Stop(root)) => return Ok(Self { items: machine.items, root }),
                None => {
                    let code =
                        bytes.get(at).map_or("its end".to_string(), |code| format!("opcode {code:#04x}"));
                    return Err(format!("its pickle cannot be read at byte {at} ({code})"));
                }
            }
        }
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn get(&self, id: Id) -> &Item<'a> {
        &self.items[id]
    }
}

enum Step {
    Next,
    Stop(Id),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    items: Vec<Item<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    /// One opcode. None where it is unknown, lacks an operand, or is cut short.
    fn step(&mut self) -> Option<Step> {
        match self.take(1)?[0] {
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'.' => return Some(Step::Stop(self.pop()?)),

            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(*self.stack.last()?),

            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => drop(self.memo.insert(self.memo.len(), *self.stack.last()?)), // MEMOIZE
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,

            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let value = i32::from_le_bytes(self.take(4)?.try_into().ok()?);
                self.push(Item::Int(value.into()));
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => self.opaque(8)?,
            b'N' | 0x88 | 0x89 | b']' | 0x8f => self.push(Item::Other), // None, booleans, an empty list or set

            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'U' | b'C' => self.sized_opaque(1)?,
            b'T' | b'B' => self.sized_opaque(4)?,
            0x8e | 0x96 => self.sized_opaque(8)?,

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Item::Global(module, name));
            }
            0x93 => {
                // STACK_GLOBAL
                let (name, module) = (self.pop()?, self.pop()?);
                let (Item::Text(module), Item::Text(name)) = (&self.items[module], &self.items[name]) else {
                    return None;
                };
                let global = Item::Global(module, name);
                self.push(global);
            }

            b')' => self.push(Item::Tuple(vec![])),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Item::Tuple(items));
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,

            b'}' => self.push(Item::Dict(vec![])),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Item::Dict(pairs(&items)?));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            b'l' | 0x91 => {
                // LIST, FROZENSET
                self.pop_to_mark()?;
                self.push(Item::Other);
            }
            b'a' => drop(self.pop()?),                // APPEND: lists are not kept
            b'e' | 0x90 => drop(self.pop_to_mark()?), // APPENDS, ADDITEMS
            b'b' => drop(self.pop()?),                // BUILD: nor are attributes of objects

            b'R' | 0x81 => {
                // REDUCE, NEWOBJ
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments);
            }
            0x92 => {
                // NEWOBJ_EX
                let (_, arguments, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callable, arguments);
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Item::Persistent(id));
            }
            _ => return None,
        }
        Some(Step::Next)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    fn unsigned(&mut self, bytes: usize) -> Option<usize> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        u64::from_le_bytes(wide).try_into().ok()
    }

    fn line(&mut self) -> Option<&'a str> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n')?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).ok()
    }

    fn push(&mut self, item: Item<'a>) {
        self.stack.push(self.items.len());
        self.items.push(item);
    }

    fn pop(&mut self) -> Option<Id> {
        // What lies below a mark is not there to be popped.
        (self.stack.len() > *self.marks.last().unwrap_or(&0)).then(|| self.stack.pop())?
    }

    fn pop_to_mark(&mut self) -> Option<Vec<Id>> {
        Some(self.stack.split_off(self.marks.pop()?))
    }

    fn put(&mut self, bytes: usize) -> Option<()> {
        let key = self.unsigned(bytes)?;
        self.memo.insert(key, *self.stack.last()?);
        Some(())
    }

    fn get(&mut self, bytes: usize) -> Option<()> {
        let key = self.unsigned(bytes)?;
        self.stack.push(*self.memo.get(&key)?);
        Some(())
    }

    fn int(&mut self, bytes: usize) -> Option<()> {
        let value = self.unsigned(bytes)?;
        self.push(Item::Int(value as i64));
        Some(())
    }

    /// A two's complement integer of any length; one beyond i64 is of no use here.
    fn long(&mut self, length_bytes: usize) -> Option<()> {
        let length = self.unsigned(length_bytes)?;
        let bytes = self.take(length)?;
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        let item = match wide.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Item::Int(i64::from_le_bytes(wide))
            }
            None => Item::Other,
        };
        self.push(item);
        Some(())
    }

    fn opaque(&mut self, bytes: usize) -> Option<()> {
        self.take(bytes)?;
        self.push(Item::Other);
        Some(())
    }

    fn sized_opaque(&mut self, length_bytes: usize) -> Option<()> {
        let length = self.unsigned(length_bytes)?;
        self.opaque(length)
    }

    fn text(&mut self, length_bytes: usize) -> Option<()> {
        let length = self.unsigned(length_bytes)?;
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.push(Item::Text(text));
        Some(())
    }

    fn tuple(&mut self, length: usize) -> Option<()> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Option<Vec<_>>>()?;
        items.reverse();
        self.push(Item::Tuple(items));
        Some(())
    }

    /// Puts keys and values into the dict on the stack. Other mappings, such as an object's, are not kept.
    fn extend_dict(&mut self, items: &[Id]) -> Option<()> {
        let pairs = pairs(items)?;
        if let Item::Dict(entries) = &mut self.items[*self.stack.last()?] {
            entries.extend(pairs);
        }
        Some(())
    }

    fn call(&mut self, callable: Id, arguments: Id) {
        let item = match &self.items[callable] {
            Item::Global("collections", "OrderedDict" | "defaultdict") => Item::Dict(vec![]),
            _ => Item::Call(callable, arguments),
        };
        self.push(item);
    }
}

fn pairs(items: &[Id]) -> Option<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|&[key, value]| (key, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dict_is_read_in_every_protocol() {
        // {"a": (1, -2), "b": 70000}
        let two = b"\x80\x02}q\0(X\x01\0\0\0aq\x01K\x01J\xfe\xff\xff\xff\x86q\x02X\x01\0\0\0bq\x03J\x70\x11\x01\0u.";
        let four = b"\x80\x04\x95\x1a\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94K\x01J\xfe\xff\xff\xff\x86\x94\x8c\x01b\x94\x8a\x03\x70\x11\x01u.";
        for bytes in [&two[..], &four[..]] {
            let pickle = Pickle::parse(bytes).unwrap();
            let Item::Dict(entries) = pickle.get(pickle.root()) else { panic!() };
            let [(a, tuple), (b, number)] = entries[..] else { panic!() };
            assert!(matches!((pickle.get(a), pickle.get(b)), (Item::Text("a"), Item::Text("b"))));
            let Item::Tuple(items) = pickle.get(tuple) else { panic!() };
            assert!(matches!(
                items.iter().map(|&id| pickle.get(id)).collect::<Vec<_>>()[..],
                [Item::Int(1), Item::Int(-2)]
            ));
            assert!(matches!(pickle.get(number), Item::Int(70000)));
        }
    }

    #[test]
    fn hostile_pickles_take_little_memory_and_no_recursion() {
        // A tuple of two of the tuple before, a thousand times: 2^1000 elements if it were copied.
        let mut doubling = b"\x80\x02)".to_vec();
        (0..1000).for_each(|_| doubling.extend(b"q\0h\0\x86"));
        doubling.push(b'.');
        assert!(Pickle::parse(&doubling).unwrap().items.len() <= 1001);
        // A million nested tuples.
        let mut deep = b"\x80\x02)".to_vec();
        deep.extend(std::iter::repeat_n(0x85, 1_000_000));
        deep.push(b'.');
        drop(Pickle::parse(&deep).unwrap());
        // Lengths beyond the end.
        for bytes in [
            &b"X\xff\xff\xff\xff"[..],
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x8b\xff\xff\xff\x7f",
            b"cos\nsystem",
        ] {
            assert!(Pickle::parse(bytes).is_err());
        }
        for bytes in [&b"."[..], b"", b"t.", b"(0.", b"h\0.", b"}(K\x01u.", b"\xff"] {
            assert!(Pickle::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
