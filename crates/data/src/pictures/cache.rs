//! Pictures once decoded, kept beside them.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use md5::{Digest, Md5};

use crate::{Error, IMAGE_CHANNELS, Result, hex};

/// A file of one line, which says what is in it, and the pixels of all pictures.
pub(super) struct Cache {
    path: PathBuf,
    /// The beginning of the line: the pictures by path, length and time of change, and the size they are scaled to.
    key: String,
    bytes: usize,
}

impl Cache {
    /// For these pictures in `folder`.
    pub(super) fn of(folder: &Path, files: &[&Path], size: usize) -> Result<Self> {
        let mut listing = Md5::new();
        for path in files {
            let metadata = std::fs::metadata(path).map_err(Error::io("read", *path))?;
            let changed = metadata.modified().map_err(Error::io("read", *path))?;
            let changed = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            let name = path.strip_prefix(folder).unwrap_or(path);
            listing.update(name.as_os_str().as_encoded_bytes());
            listing.update(format!("\0{} {changed}\n", metadata.len()));
        }
        let listing = hex(&listing.finalize());
        Ok(Self {
            path: folder.join(format!(".wrn-sam-pictures-{size}")),
            key: format!("wrn-sam pictures 1, {} of {size}x{size}, {listing}", files.len()),
            bytes: files.len() * IMAGE_CHANNELS * size * size,
        })
    }

    fn header(&self, pixels: &[u8]) -> String {
        format!("{}, {}\n", self.key, hex(&Md5::digest(pixels)))
    }

    /// The pixels, if they are these pictures' and whole.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let mut file = std::fs::read(&self.path).ok()?;
        let header = file.len().checked_sub(self.bytes)?;
        let pixels = file.split_off(header);
        (file == self.header(&pixels).as_bytes()).then_some(pixels)
    }

    pub(super) fn write(&self, pixels: &[u8]) -> Result<(), wrn_sam_files::Error> {
        wrn_sam_files::write(&self.path, |file| {
            file.write_all(self.header(pixels).as_bytes())?;
            file.write_all(pixels)
        })
    }
}
