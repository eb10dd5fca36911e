//! Where the bytes come from: a folder, an archive, a download, the Hugging Face hub, or a generator.

mod archive;
#[cfg(feature = "download")]
pub mod download;
mod folder;
#[cfg(feature = "hub")]
mod hub;
pub(crate) mod layout;
#[cfg(feature = "hub")]
mod parquet;
#[cfg(feature = "download")]
mod partial;
mod synthetic;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::checksum::FileChecksum;
use crate::{Cifar, Error, Result, Split, Variant, binary, class_names, python};
use layout::{Layout, Member, Version, layouts};

/// Where a data set comes from, with the sums of the files that were read. `Display` says it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which data set it is, or is shaped like.
    pub variant: Variant,
    /// Where its images come from.
    pub origin: Origin,
    /// Every file that was read, in order of reading: the archive alone where they were in one; none for
    /// generated images.
    pub files: Vec<FileChecksum>,
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A folder with the files of one of the official versions.
    Folder {
        /// The folder that has the files.
        path: PathBuf,
        /// Which version they are of.
        version: Version,
    },
    /// A .tar.gz of one of the official versions.
    Archive {
        /// The archive.
        path: PathBuf,
        /// Which version it is of.
        version: Version,
    },
    /// The Hugging Face hub.
    Hub {
        /// The data set's owner and name there.
        repository: String,
    },
    /// The hub's two files, from the disk.
    Parquet {
        /// That of the training split.
        train: PathBuf,
        /// That of the test split.
        test: PathBuf,
    },
    /// Generated images: not CIFAR.
    Synthetic {
        /// What they were drawn from.
        seed: u64,
    },
}

impl Source {
    /// Whether the images are generated, so that results on them say nothing about CIFAR.
    pub fn is_synthetic(&self) -> bool {
        matches!(self.origin, Origin::Synthetic { .. })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = self.variant;
        match &self.origin {
            Origin::Folder { path, version } => {
                write!(f, "{variant} from the folder {} ({version} version)", path.display())
            }
            Origin::Archive { path, version } => {
                write!(f, "{variant} from the archive {} ({version} version)", path.display())
            }
            Origin::Hub { repository } => write!(f, "{variant} from the Hugging Face hub's {repository}"),
            Origin::Parquet { train, test } => {
                write!(f, "{variant} from {} and {}", train.display(), test.display())
            }
            Origin::Synthetic { seed } => write!(f, "synthetic images of seed {seed} (not {variant})"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Python => "Python",
        })
    }
}

impl Cifar {
    /// Reads the data set from wherever `path` leads: an archive, as for
    /// [`from_archive`](Self::from_archive); a folder, as for [`from_dir`](Self::from_dir); or a folder with
    /// one of the official archives in it, under its official name.
    ///
    /// # Errors
    /// As [`from_dir`](Self::from_dir) and [`from_archive`](Self::from_archive).
    pub fn open(variant: Variant, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::from_archive(variant, path);
        }
        match Self::from_dir(variant, path) {
            Err(error @ Error::NoData { .. }) => {
                let archives = layouts(variant).iter().map(|layout| path.join(layout.archive));
                match archives.into_iter().find(|archive| archive.is_file()) {
                    Some(archive) => Self::from_archive(variant, archive),
                    None => Err(error),
                }
            }
            result => result,
        }
    }

    /// Reads the data set from `dir`, or from the folder in it that the official archive unpacks to: the
    /// binary version (`train.bin`, `test.bin`; `data_batch_1.bin`, …), or the Python version (`train`,
    /// `test`; `data_batch_1`, …), whose pickles are decoded, never executed. The names of the classes come
    /// from the files beside where those are there.
    ///
    /// ```no_run
    /// use wrn_sam_data::{Cifar, Variant};
    ///
    /// let cifar = Cifar::from_dir(Variant::Cifar10, "cifar-10-batches-py")?;
    /// assert_eq!(cifar.classes(), 10);
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoData`] where neither folder has any of it; [`Error::Missing`], [`Error::Empty`],
    /// [`Error::Truncated`], [`Error::Oversized`] and [`Error::Python`] for files that are not exactly the
    /// data set's; [`Error::Label`] and [`Error::Names`] for what is in them; [`Error::Io`].
    pub fn from_dir(variant: Variant, dir: impl AsRef<Path>) -> Result<Self> {
        folder::read(variant, dir.as_ref())
    }

    /// Reads the data set from a .tar.gz of its binary or its Python version, in memory: nothing is unpacked
    /// to disk.
    ///
    /// # Errors
    /// [`Error::Archive`] where it cannot be decoded, gzip's checksum included; [`Error::Entry`] for entries
    /// that are links or devices, lead out of the folder, or are too large; and those of
    /// [`from_dir`](Self::from_dir).
    pub fn from_archive(variant: Variant, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
        archive::read(variant, file, path)
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
    /// They are for tests, and for first runs where CIFAR-100 cannot be had; results on them say nothing
    /// about CIFAR-100. Labels go round: image `i` has the fine label `i % 100`.
    ///
    /// ```
    /// let synthetic = wrn_sam_data::Cifar::synthetic(17, 500, 100);
    /// assert_eq!((synthetic.train.len(), synthetic.test.len()), (500, 100));
    /// assert_eq!(synthetic.source.to_string(), "synthetic images of seed 17 (not CIFAR-100)");
    /// ```
    pub fn synthetic(seed: u64, train_len: usize, test_len: usize) -> Self {
        synthetic::generate(seed, train_len, test_len)
    }
}

/// What was read of a distribution's files, on the way to a [`Cifar`].
struct Parts {
    layout: &'static Layout,
    train: Vec<Option<Split>>,
    test: Option<Split>,
    fine_names: Option<Vec<String>>,
    coarse_names: Option<Vec<String>>,
}

impl Parts {
    fn new(layout: &'static Layout) -> Self {
        let train = vec![None; layout.train_parts()];
        Self { layout, train, test: None, fine_names: None, coarse_names: None }
    }

    /// Decodes a member from all that the reader has; `path` is for messages.
    fn add(&mut self, member: Member, mut reader: impl Read, path: &Path) -> Result<()> {
        let Layout { variant, version, .. } = *self.layout;
        let max_bytes = self.layout.max_bytes(member);
        match (member, self.layout.images(member)) {
            (_, Some(images)) => {
                let split = match version {
                    Version::Binary => binary::read_records(variant, reader, path, Some(images))?,
                    Version::Python => python::read_batch(variant, reader, path, max_bytes, Some(images))?,
                };
                match member {
                    Member::Train(part) => self.train[part] = Some(split),
                    _ => self.test = Some(split),
                }
            }
            (Member::Meta, _) => {
                let [fine, coarse] = python::read_names(variant, reader, path, max_bytes)?;
                (self.fine_names, self.coarse_names) = (Some(fine), Some(coarse));
            }
            _ => {
                let mut text = String::new();
                reader.by_ref().take(max_bytes).read_to_string(&mut text).map_err(Error::io("read", path))?;
                let (names, expected) = match member {
                    Member::FineNames => (&mut self.fine_names, variant.classes()),
                    _ => (&mut self.coarse_names, variant.coarse_classes()),
                };
                *names = Some(class_names::parse(&text, path, expected)?);
            }
        }
        Ok(())
    }

    /// The whole, if all images are there; `folder` is where they should be.
    fn finish(self, folder: &Path, origin: Origin, files: Vec<FileChecksum>) -> Result<Cifar> {
        let variant = self.layout.variant;
        let images: Vec<_> = self.train.into_iter().chain([self.test]).collect();
        let mut splits = Vec::new();
        for (split, (_, name)) in images.into_iter().zip(self.layout.image_files()) {
            splits.push(split.ok_or_else(|| Error::Missing { path: folder.join(name), variant })?);
        }
        let test = splits.pop().expect("a test split");
        let cifar = Cifar {
            train: Split::concatenated(splits)?,
            test,
            fine_names: self.fine_names.unwrap_or_else(|| class_names::built_in(variant.names())),
            coarse_names: self.coarse_names.unwrap_or_else(|| class_names::built_in(variant.coarse_names())),
            source: Source { variant, origin, files },
        };
        tracing::info!(train = cifar.train.len(), test = cifar.test.len(), "read {}", cifar.source);
        Ok(cifar)
    }
}
