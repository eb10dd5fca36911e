//! A download that is not yet whole: one hidden file that survives the process and says what it is a part of.
//!
//! The file begins with a block of text (what is fetched, and what the server called it), followed by the bytes
//! received. It is locked while a process adds to it, so two processes never write to it together.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use crate::checksum::hex;
use crate::{Error, Result};

/// The block at the beginning.
const HEAD_BYTES: u64 = 4096;
const MAGIC: &str = "wrn-sam partial download 1";

#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    head: FileHead,
    /// Bytes of the archive that are there, and their sum.
    received: u64,
    digest: Md5,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FileHead {
    url: String,
    md5: String,
    /// What the server calls these bytes: a strong `ETag`, or `Last-Modified`; empty if it does not say.
    validator: String,
}

impl FileHead {
    fn to_text(&self) -> String {
        format!("{MAGIC}\n{}\n{}\n{}\n", self.url, self.md5, self.validator)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next() == Some(MAGIC)).then_some(())?;
        let mut line = || lines.next().map(String::from);
        Some(Self { url: line()?, md5: line()?, validator: line()? })
    }
}

impl Partial {
    /// Opens the file at `path`, makes it where there is none, and waits while another process has it.
    ///
    /// Bytes of the archive with this address and sum are kept; anything else is dropped.
    pub(super) fn open(path: PathBuf, url: &str, md5: &str) -> Result<Self> {
        let file = wrn_sam_files::lock(&path).map_err(|error| {
            let wrn_sam_files::Error { action, path, source, .. } = error;
            Error::Io { path, action, source }
        })?;
        let head = FileHead { url: url.into(), md5: md5.into(), validator: String::new() };
        let mut partial = Self { path, file, head, received: 0, digest: Md5::new() };
        partial.resume().map_err(Error::io("read", &partial.path))?;
        Ok(partial)
    }

    /// Keeps the bytes in the file if they are a part of what is wanted.
    fn resume(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        let mut head = Vec::new();
        (&self.file).take(HEAD_BYTES).read_to_end(&mut head)?;
        let found = str::from_utf8(&head).ok().and_then(FileHead::from_text);
        match found {
            Some(found) if found.url == self.head.url && found.md5 == self.head.md5 => self.head = found,
            _ => return Ok(()),
        }
        let mut buffer = vec![0; 1 << 16];
        loop {
            match (&self.file).read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    self.digest.update(&buffer[..count]);
                    self.received += count as u64;
                }
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// What the server called the bytes that are there.
    pub(super) fn validator(&self) -> &str {
        &self.head.validator
    }

    /// Drops all bytes and starts again with bytes that the server calls `validator`.
    pub(super) fn restart(&mut self, validator: &str) -> Result<()> {
        self.head.validator = validator.lines().next().unwrap_or_default().into();
        (self.received, self.digest) = (0, Md5::new());
        let mut head = self.head.to_text();
        if head.len() as u64 > HEAD_BYTES {
            // Without its validator it can still be told apart by the sum.
            self.head.validator.clear();
            head = self.head.to_text();
        }
        head.extend(std::iter::repeat_n(' ', (HEAD_BYTES as usize).saturating_sub(head.len())));
        let written = (|| {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(head.as_bytes())
        })();
        written.map_err(Error::io("write", &self.path))
    }

    /// Adds bytes at the end.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = (|| {
            self.file.seek(SeekFrom::Start(HEAD_BYTES + self.received))?;
            self.file.write_all(bytes)
        })();
        written.map_err(Error::io("write", &self.path))?;
        self.digest.update(bytes);
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// The sum of all bytes, in hexadecimal digits.
    pub(super) fn md5(&self) -> String {
        hex(&self.digest.clone().finalize())
    }

    /// A reader of all bytes.
    pub(super) fn reader(&mut self) -> Result<impl Read> {
        self.file.seek(SeekFrom::Start(HEAD_BYTES)).map_err(Error::io("read", &self.path))?;
        Ok(&self.file)
    }

    /// Removes the file: what is in it is used, or is of no use.
    pub(super) fn remove(self) {
        // If this fails, the file is hidden and harms nothing.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // There is nothing to resume from.
        if self.received == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, md5: &str) -> Partial {
        Partial::open(dir.join(".part"), "http://here/", md5).unwrap()
    }

    fn bytes(partial: &mut Partial) -> Vec<u8> {
        let mut bytes = Vec::new();
        partial.reader().unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_came_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = open(dir.path(), "sum");
        partial.restart("\"tag\"").unwrap();
        partial.write(b"abc").unwrap();
        drop(partial);
        let mut partial = open(dir.path(), "sum");
        assert_eq!((partial.received(), partial.validator()), (3, "\"tag\""));
        partial.write(b"def").unwrap();
        assert_eq!(bytes(&mut partial), b"abcdef");
        assert_eq!(partial.md5(), "e80b5017098950fc58aad83c8c14978e");
        partial.restart("").unwrap();
        partial.write(b"abc").unwrap();
        assert_eq!((bytes(&mut partial), partial.validator()), (b"abc".to_vec(), ""));
    }

    #[test]
    fn what_is_of_something_else_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part");
        let mut partial = open(dir.path(), "sum");
        partial.restart("").unwrap();
        partial.write(b"abc").unwrap();
        drop(partial);
        for damage in [&b"anything"[..], b"", MAGIC.as_bytes()] {
            fs::write(&path, damage).unwrap();
            assert_eq!(open(dir.path(), "sum").received(), 0);
            assert!(!path.exists());
        }
        let mut partial = open(dir.path(), "another sum");
        partial.restart("").unwrap();
        partial.write(b"abc").unwrap();
        drop(partial);
        assert_eq!(open(dir.path(), "sum").received(), 0);

        let mut partial = Partial::open(path.clone(), "http://there/", "sum").unwrap();
        partial.restart("").unwrap();
        partial.write(b"abc").unwrap();
        drop(partial);
        assert_eq!(open(dir.path(), "sum").received(), 0);
        assert!(!path.exists());
    }
}
