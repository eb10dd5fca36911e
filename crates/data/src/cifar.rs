//! CIFAR-100's binary layout: bytes -> records, every offset checked.
//!
//! A record is two label bytes (coarse, then fine) and 3072 bytes of image: planes of red, green and blue,
//! each 32 rows of 32. A file is records end to end, with no header.
//! (<https://www.cs.toronto.edu/~kriz/cifar.html>)

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::{Error, Result, Split};

/// Channels of an image: red, green, blue.
pub const IMAGE_CHANNELS: usize = 3;
/// Rows, and columns, of an image.
pub const IMAGE_SIZE: usize = 32;
/// Bytes of an image.
pub const IMAGE_BYTES: usize = IMAGE_CHANNELS * IMAGE_SIZE * IMAGE_SIZE;
/// Number of fine labels.
pub const FINE_CLASSES: usize = 100;
/// Number of coarse labels (superclasses).
pub const COARSE_CLASSES: usize = 20;
/// Images in CIFAR-100's training split.
pub const TRAIN_IMAGES: usize = 50_000;
/// Images in CIFAR-100's test split.
pub const TEST_IMAGES: usize = 10_000;

const LABEL_BYTES: usize = 2;
/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = LABEL_BYTES + IMAGE_BYTES;
/// Records decoded at a time: 200 KB, which stays in cache.
const RECORDS_PER_READ: usize = 64;

impl Split {
    /// Reads a file of CIFAR-100 records, as many as it has.
    ///
    /// [`Cifar100::from_dir`](crate::Cifar100::from_dir) reads the data set itself, and insists on its exact
    /// sizes.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Truncated`] for anything but a whole number of records, [`Error::Label`]
    /// for a label out of range, and [`Error::Io`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        read_file(path.as_ref(), None)
    }
}

/// Reads the file of records at `path`: exactly `records` of them, where that is given.
pub(crate) fn read_file(path: &Path, records: Option<usize>) -> Result<Split> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.into() },
        _ => Error::io("open", path)(source),
    })?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    read_records(file, path, size, records)
}

/// Decodes `size` bytes of records from `reader`; `path` is for messages.
pub(crate) fn read_records(
    mut reader: impl Read,
    path: &Path,
    size: u64,
    records: Option<usize>,
) -> Result<Split> {
    let records = check_size(path, size, records)?;
    let too_many = |_| Error::io("hold", path)(io::ErrorKind::OutOfMemory.into());
    let mut images = Vec::new();
    images.try_reserve_exact(records * IMAGE_BYTES).map_err(too_many)?;
    let (mut labels, mut coarse_labels) = (Vec::with_capacity(records), Vec::with_capacity(records));

    let mut buffer = vec![0; RECORDS_PER_READ * RECORD_BYTES];
    while labels.len() < records {
        let wanted = (records - labels.len()).min(RECORDS_PER_READ) * RECORD_BYTES;
        let found = read_full(&mut reader, &mut buffer[..wanted]).map_err(Error::io("read", path))?;
        if found < wanted {
            // The file shrank while it was read, or an archive ended early.
            let found = (labels.len() * RECORD_BYTES + found) as u64;
            return Err(truncated(path, size, found));
        }
        for record in buffer[..wanted].as_chunks::<RECORD_BYTES>().0 {
            let index = labels.len();
            coarse_labels.push(check_label(path, index, 0, "coarse", record[0], COARSE_CLASSES)?);
            labels.push(check_label(path, index, 1, "fine", record[1], FINE_CLASSES)?);
            images.extend_from_slice(&record[LABEL_BYTES..]);
        }
    }
    Split::new(images, labels, coarse_labels)
}

/// The number of records in a file of `size` bytes: exactly `records`, or any whole number but none.
pub(crate) fn check_size(path: &Path, size: u64, records: Option<usize>) -> Result<usize> {
    let record = RECORD_BYTES as u64;
    let expected = records.map_or(size.next_multiple_of(record), |records| records as u64 * record);
    if size == 0 {
        Err(Error::Empty { path: path.into() })
    } else if size < expected {
        Err(truncated(path, expected, size))
    } else if size > expected {
        Err(Error::Oversized { path: path.into(), expected, found: size })
    } else {
        usize::try_from(size / record).map_err(|_| Error::io("hold", path)(io::ErrorKind::OutOfMemory.into()))
    }
}

fn truncated(path: &Path, expected: u64, found: u64) -> Error {
    Error::Truncated { path: path.into(), record: found / RECORD_BYTES as u64, expected, found }
}

fn check_label(
    path: &Path,
    record: usize,
    byte: usize,
    kind: &'static str,
    value: u8,
    classes: usize,
) -> Result<u8> {
    if usize::from(value) < classes {
        return Ok(value);
    }
    let offset = (record * RECORD_BYTES + byte) as u64;
    let max = (classes - 1) as u8;
    Err(Error::Label { path: path.into(), record: record as u64, offset, kind, value, max })
}

/// Fills `buffer` as far as the reader has bytes; how many came.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(coarse: u8, fine: u8, pixel: u8) -> Vec<u8> {
        let mut bytes = vec![coarse, fine];
        bytes.extend([pixel; IMAGE_BYTES]);
        bytes
    }

    fn read(bytes: &[u8], records: Option<usize>) -> Result<Split> {
        read_records(bytes, Path::new("some.bin"), bytes.len() as u64, records)
    }

    #[test]
    fn records_are_decoded_in_order() {
        // More than one buffer's worth, and not a whole number of buffers.
        let count = 2 * RECORDS_PER_READ + 3;
        let bytes: Vec<u8> =
            (0..count).flat_map(|i| record((i % 20) as u8, (i % 100) as u8, i as u8)).collect();
        let split = read(&bytes, Some(count)).unwrap();
        assert_eq!(split.len(), count);
        for i in 0..count {
            assert_eq!((split.coarse_label(i), split.label(i)), ((i % 20) as u8, (i % 100) as u8));
            assert_eq!(split.image(i), &[i as u8; IMAGE_BYTES]);
        }
    }

    #[test]
    fn sizes_are_checked() {
        let two = [record(0, 0, 1), record(19, 99, 2)].concat();
        assert_eq!(read(&two, None).unwrap().len(), 2);
        let message = |result: Result<Split>| result.unwrap_err().to_string();
        assert_eq!(
            message(read(&[], None)),
            "some.bin is empty: records of 3074 bytes expected; get the file again"
        );
        assert_eq!(
            message(read(&two[..4000], None)),
            "some.bin is cut short in record 1: 6148 bytes expected (2 records of 3074), 4000 found; \
             get the file again"
        );
        assert_eq!(
            message(read(&two[..3074], Some(2))),
            "some.bin is cut short in record 1: 6148 bytes expected (2 records of 3074), 3074 found; \
             get the file again"
        );
        assert_eq!(
            message(read(&two, Some(1))),
            "some.bin is too long: 3074 bytes expected (1 records of 3074), 6148 found; \
             is it of CIFAR-100's binary version?"
        );
    }

    #[test]
    fn a_file_shorter_than_it_said_is_cut_short() {
        let bytes = record(0, 0, 0);
        let error = read_records(&bytes[..100], Path::new("some.bin"), 2 * 3074, None).unwrap_err();
        assert!(matches!(error, Error::Truncated { record: 0, expected: 6148, found: 100, .. }), "{error}");
    }

    #[test]
    fn labels_are_checked() {
        let fine = [record(19, 99, 0), record(0, 100, 0)].concat();
        assert_eq!(
            read(&fine, None).unwrap_err().to_string(),
            "some.bin: record 1 has the fine label 100 at offset 3075, 0 to 99 allowed; \
             is it of CIFAR-100's binary version?"
        );
        let coarse = record(20, 0, 0);
        assert_eq!(
            read(&coarse, None).unwrap_err().to_string(),
            "some.bin: record 0 has the coarse label 20 at offset 0, 0 to 19 allowed; \
             is it of CIFAR-100's binary version?"
        );
    }
}
