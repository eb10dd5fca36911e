//! TensorBoard's event files: records of `Event` messages, as far as scalars need them.
//!
//! A record is its length in 8 bytes, a checksum of these, the message, and a checksum of that; all little-endian. The
//! messages are those of TensorFlow's event.proto and summary.proto, in protocol buffers' wire format.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::crc32c::crc32c;
use super::unwritten;
use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventFile {
    /// A new file in `folder`, beside those of earlier processes. With `taken`, the run is resumed after so many steps, and
    /// TensorBoard drops what earlier files have of later ones.
    pub(super) fn create(folder: &Path, taken: Option<usize>) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // TensorBoard reads the files in the order of their names.
        let name = format!("events.out.tfevents.{:010}.{:09}.wrn-sam", now.as_secs(), now.subsec_nanos());
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(unwritten(&path))?;
        let mut events = Self { path, file: BufWriter::new(file) };
        events.event(0, &field(3, b"brain.Event:2"))?;
        if let Some(taken) = taken {
            // A session's log with the status START.
            events.event(taken as i64 + 1, &field(7, &[1 << 3, 1]))?;
        }
        events.flush()?;
        Ok(events)
    }

    /// Writes figures under their tags.
    pub(super) fn scalars(&mut self, step: i64, figures: &[(&str, f64)]) -> Result<()> {
        let value = |&(tag, figure): &(&str, f64)| {
            let mut value = field(1, tag.as_bytes());
            value.push(2 << 3 | 5);
            value.extend((figure as f32).to_le_bytes());
            field(1, &value)
        };
        let summary: Vec<u8> = figures.iter().flat_map(value).collect();
        self.event(step, &field(5, &summary))
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(unwritten(&self.path))
    }

    /// Writes an event with this content.
    fn event(&mut self, step: i64, content: &[u8]) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut event = vec![1 << 3 | 1];
        event.extend(now.as_secs_f64().to_le_bytes());
        event.push(2 << 3);
        push_varint(&mut event, step as u64);
        event.extend(content);
        let record = record(&event);
        self.file.write_all(&record).map_err(unwritten(&self.path))
    }
}

/// A message in its record.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let [of_length, of_message] = [&length, message].map(|bytes| masked(crc32c(bytes)).to_le_bytes());
    [&length, &of_length[..], message, &of_message].concat()
}

/// A checksum as records have it: turned and moved, so that a checksum of checksums is not a special one.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field of bytes, a text or a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    push_varint(&mut field, bytes.len() as u64);
    field.extend(bytes);
    field
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_seven_bits_a_byte() {
        for (number, expected) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[128, 1]),
            (300, &[172, 2]),
            (u64::MAX, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, number);
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn a_record_has_both_checksums() {
        let record = record(b"123456789");
        assert_eq!(record[..8], 9u64.to_le_bytes());
        assert_eq!(record[12..21], *b"123456789");
        let stored = u32::from_le_bytes(record[21..].try_into().unwrap());
        // The standard's example, masked as the format says.
        assert_eq!(stored, 0xc78a_b0e5);
        assert_eq!(record.len(), 9 + 16);
    }
}
