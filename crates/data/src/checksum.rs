//! MD5 of bytes as they are read.

use std::io::{self, Read};

use md5::{Digest, Md5};

/// A file that was read, and what was in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChecksum {
    /// The file's name, without its folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The MD5 of its bytes, in 32 hexadecimal digits.
    pub md5: String,
}

/// A reader that keeps the sum of what it gives.
pub(crate) struct Summed<R> {
    inner: R,
    digest: Md5,
    bytes: u64,
}

impl<R: Read> Summed<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, digest: Md5::new(), bytes: 0 }
    }

    /// Reads what is left, and gives the sum of all.
    pub(crate) fn finish(mut self, name: impl Into<String>) -> io::Result<FileChecksum> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(FileChecksum { name: name.into(), bytes: self.bytes, md5: hex(&self.digest.finalize()) })
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Bytes as hexadecimal digits, two for each, such as a checksum's.
///
/// ```
/// assert_eq!(wrn_sam_data::hex(&[0, 171]), "00ab");
/// ```
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_of_all_bytes_read_or_not() {
        let mut reader = Summed::new(&b"message digest"[..]);
        reader.read_exact(&mut [0; 3]).unwrap();
        let sum = reader.finish("text").unwrap();
        // RFC 1321, A.5.
        assert_eq!((sum.bytes, sum.md5.as_str()), (14, "f96b697d7cb7938d525a2f31aaf161d0"));
    }
}
