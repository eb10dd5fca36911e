//! The binary version's files: bytes -> records, every offset checked.
//!
//! A record is CIFAR-100's two label bytes (coarse, then fine) or CIFAR-10's one, and 3072 bytes of image:
//! planes of red, green and blue, each 32 rows of 32. A file is records end to end, with no header.
//! (<https://www.cs.toronto.edu/~kriz/cifar.html>)

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::cifar::{IMAGE_BYTES, Variant};
use crate::{Error, Result, Split};

/// Records decoded at a time: 200 KB, which stays in cache.
const RECORDS_PER_READ: usize = 64;

impl Variant {
    fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    /// Bytes of a record of the binary version.
    pub(crate) fn record_bytes(self) -> usize {
        self.label_bytes() + IMAGE_BYTES
    }
}

impl Split {
    /// Reads all records of a file of the binary version.
    ///
    /// [`Dataset::from_dir`](crate::Dataset::from_dir) reads the data set itself, and requires its exact sizes.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Truncated`] for anything but a whole number of records, [`Error::Label`]
    /// for a label out of range, and [`Error::Io`].
    pub fn read(variant: Variant, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("open", path))?;
        Self::from_binary(variant, file, path)
    }

    /// Reads records of the binary version to the reader's end. Messages call it `name`.
    ///
    /// ```
    /// use wrn_sam_data::{Split, Variant};
    ///
    /// let record = [&[7][..], &[0; 3072]].concat(); // a label, and an image
    /// let split = Split::from_binary(Variant::Cifar10, &record[..], "some.bin")?;
    /// assert_eq!(split.labels(), [7]);
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_binary(variant: Variant, reader: impl Read, name: impl AsRef<Path>) -> Result<Self> {
        read_records(variant, reader, name.as_ref(), None)
    }
}

/// Decodes the reader's records: exactly `records` of them, where that is given. `path` is for messages.
pub(crate) fn read_records(
    variant: Variant,
    mut reader: impl Read,
    path: &Path,
    records: Option<usize>,
) -> Result<Split> {
    let record_bytes = variant.record_bytes();
    let too_many = |_| Error::io("hold", path)(io::ErrorKind::OutOfMemory.into());
    let (mut images, mut labels, mut coarse_labels) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(records) = records {
        images.try_reserve_exact(records * IMAGE_BYTES).map_err(too_many)?;
    }

    let mut buffer = vec![0; RECORDS_PER_READ * record_bytes];
    loop {
        let left = records.map_or(RECORDS_PER_READ, |records| records - labels.len()).min(RECORDS_PER_READ);
        let wanted = left * record_bytes;
        let found = read_full(&mut reader, &mut buffer[..wanted]).map_err(Error::io("read", path))?;
        images.try_reserve(found).map_err(too_many)?;
        for record in buffer[..found].chunks_exact(record_bytes) {
            let index = labels.len();
            let (&label, coarse) = record[..variant.label_bytes()].split_last().expect("a label byte");
            if let [coarse] = *coarse {
                check_label(variant, path, index, 0, "coarse", coarse, variant.coarse_classes())?;
                coarse_labels.push(coarse);
            }
            check_label(variant, path, index, coarse.len(), "fine", label, variant.classes())?;
            labels.push(label);
            images.extend_from_slice(&record[variant.label_bytes()..]);
        }
        if found < wanted || Some(labels.len()) == records {
            let read = (labels.len() * record_bytes + found % record_bytes) as u64;
            let rest = io::copy(&mut reader, &mut io::sink()).map_err(Error::io("read", path))?;
            check_size(variant, path, read + rest, records)?;
            break;
        }
    }
    images.shrink_to_fit();
    Split::new(images, labels, (variant.coarse_classes() > 0).then_some(coarse_labels))
}

/// Checks that a file of `size` bytes has exactly `records` records, or any whole number from 1 on.
pub(crate) fn check_size(variant: Variant, path: &Path, size: u64, records: Option<usize>) -> Result<()> {
    let record = variant.record_bytes() as u64;
    let expected = records.map_or(size.next_multiple_of(record), |records| records as u64 * record);
    let path = path.into();
    if size == 0 {
        Err(Error::Empty { path, variant })
    } else if size < expected {
        Err(Error::Truncated { path, variant, record: size / record, expected, found: size })
    } else if size > expected {
        Err(Error::Oversized { path, variant, expected, found: size })
    } else {
        Ok(())
    }
}

fn check_label(
    variant: Variant,
    path: &Path,
    record: usize,
    byte: usize,
    kind: &'static str,
    value: u8,
    classes: usize,
) -> Result<()> {
    if usize::from(value) < classes {
        return Ok(());
    }
    let offset = (record * variant.record_bytes() + byte) as u64;
    let max = (classes - 1) as u8;
    Err(Error::Label { path: path.into(), variant, record: record as u64, offset, kind, value, max })
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

    fn record(labels: &[u8], pixel: u8) -> Vec<u8> {
        [labels, &[pixel; IMAGE_BYTES]].concat()
    }

    fn read(bytes: &[u8], records: Option<usize>) -> Result<Split> {
        read_records(Variant::Cifar100, bytes, Path::new("some.bin"), records)
    }

    #[test]
    fn records_are_decoded_in_order() {
        // More than one buffer's worth, and not a whole number of buffers; and a whole number.
        for count in [2 * RECORDS_PER_READ + 3, 2 * RECORDS_PER_READ] {
            let bytes: Vec<u8> =
                (0..count).flat_map(|i| record(&[(i % 20) as u8, (i % 100) as u8], i as u8)).collect();
            for records in [Some(count), None] {
                let split = read(&bytes, records).unwrap();
                assert_eq!(split.len(), count);
                for i in 0..count {
                    assert_eq!(split.label(i), (i % 100) as u8);
                    assert_eq!(split.coarse_labels().unwrap()[i], (i % 20) as u8);
                    assert_eq!(split.image(i), &[i as u8; IMAGE_BYTES]);
                }
            }
        }
    }

    #[test]
    fn cifar10_has_one_label() {
        let bytes = [record(&[9], 1), record(&[0], 2)].concat();
        let split = Split::from_binary(Variant::Cifar10, &bytes[..], "some.bin").unwrap();
        assert_eq!((split.labels(), split.coarse_labels()), (&[9, 0][..], None));
        assert_eq!(split.image(1), &[2; IMAGE_BYTES]);
        let bytes = [record(&[9], 1), record(&[10], 2)].concat();
        assert_eq!(
            Split::from_binary(Variant::Cifar10, &bytes[..], "some.bin").unwrap_err().to_string(),
            "some.bin: record 1 has the fine label 10 at offset 3073, 0 to 9 allowed; \
             is it of CIFAR-10's binary version?"
        );
    }

    #[test]
    fn sizes_are_checked() {
        let two = [record(&[0, 0], 1), record(&[19, 99], 2)].concat();
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
    fn labels_are_checked() {
        let fine = [record(&[19, 99], 0), record(&[0, 100], 0)].concat();
        assert_eq!(
            read(&fine, None).unwrap_err().to_string(),
            "some.bin: record 1 has the fine label 100 at offset 3075, 0 to 99 allowed; \
             is it of CIFAR-100's binary version?"
        );
        let coarse = record(&[20, 0], 0);
        assert_eq!(
            read(&coarse, None).unwrap_err().to_string(),
            "some.bin: record 0 has the coarse label 20 at offset 0, 0 to 19 allowed; \
             is it of CIFAR-100's binary version?"
        );
    }
}
