//! Where the bytes come from: a folder, an archive, a download, the Hugging Face hub, or a generator.

mod archive;
#[cfg(feature = "download")]
pub mod download;
mod folder;
#[cfg(feature = "hub")]
mod hub;
pub(crate) mod layout;
mod origin;
#[cfg(feature = "hub")]
mod parquet;
mod parts;
mod published;
mod synthetic;

use std::io::Read;
use std::path::Path;

use crate::{Dataset, Error, Result, Variant};

pub use origin::{Format, Origin, Source};

impl Dataset {
    /// Reads the data set from `path`: an archive, as [`from_archive`](Self::from_archive); a folder, as
    /// [`from_dir`](Self::from_dir); or a folder with one of the official archives, under its official name.
    ///
    /// # Errors
    /// As [`from_dir`](Self::from_dir) and [`from_archive`](Self::from_archive).
    pub fn open(variant: Variant, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::from_archive(variant, path);
        }
        match Self::from_dir(variant, path) {
            Err(error @ Error::NoData { .. }) => match folder::archive_in(variant, path) {
                Some(archive) => Self::from_archive(variant, archive),
                None => Err(error),
            },
            result => result,
        }
    }

    /// Reads the data set from `dir`, or from the folder in it that the official archive unpacks to: the
    /// binary version (`train.bin`, `test.bin`; `data_batch_1.bin`, …), or the Python version (`train`,
    /// `test`; `data_batch_1`, …), whose pickles are decoded, never executed. The names of the classes come
    /// from the files for them, if those exist.
    ///
    /// ```no_run
    /// use wrn_sam_data::{Dataset, Variant};
    ///
    /// let cifar = Dataset::from_dir(Variant::Cifar10, "cifar-10-batches-py")?;
    /// assert_eq!(cifar.classes(), 10);
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoData`] where neither folder has any of it; [`Error::Directory`] where a directory has the name of a
    /// file; [`Error::Missing`], [`Error::Empty`],
    /// [`Error::Truncated`], [`Error::Oversized`] and [`Error::Python`] for files that are not exactly the
    /// data set's; [`Error::Label`] and [`Error::Names`] for what is in them; [`Error::Io`].
    pub fn from_dir(variant: Variant, dir: impl AsRef<Path>) -> Result<Self> {
        folder::read(variant, dir.as_ref())
    }

    /// Reads the data set from a .tar.gz of its binary or its Python version, in memory: nothing is unpacked
    /// to disk.
    ///
    /// # Errors
    /// [`Error::Archive`] where it cannot be decoded to its end, where gzip's checksum is, whatever else is wrong; [`Error::Entry`] for entries
    /// that are links or devices, lead out of the folder, or are too large; and those of
    /// [`from_dir`](Self::from_dir).
    pub fn from_archive(variant: Variant, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        archive::read(variant, folder::open(path)?, path)
    }

    /// As [`from_archive`](Self::from_archive), from any reader, which is read to its end. Messages call it
    /// `name`.
    ///
    /// # Errors
    /// As [`from_archive`](Self::from_archive).
    pub fn from_archive_reader(variant: Variant, reader: impl Read, name: impl AsRef<Path>) -> Result<Self> {
        archive::read(variant, reader, name.as_ref())
    }

    /// Images with learnable classes in CIFAR-100's shape, drawn from `seed`: the same on every machine. They
    /// are bands of color whose hue and width give the coarse label, and whose direction gives the fine one,
    /// under noise.
    ///
    /// They are for tests, and for first runs without CIFAR-100; results on them say nothing about CIFAR-100. Image
    /// `i` has the fine label `i % 100`.
    ///
    /// ```
    /// let synthetic = wrn_sam_data::Dataset::synthetic(17, 500, 100);
    /// assert_eq!((synthetic.train.len(), synthetic.test.len()), (500, 100));
    /// assert_eq!(synthetic.source.to_string(), "synthetic images of seed 17 (not CIFAR-100)");
    /// ```
    pub fn synthetic(seed: u64, train_len: usize, test_len: usize) -> Self {
        synthetic::generate(seed, train_len, test_len)
    }
}
