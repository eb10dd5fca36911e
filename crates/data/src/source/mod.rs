//! Where the bytes come from: a folder, an archive, a download, or a generator.

mod archive;
#[cfg(feature = "download")]
pub mod download;
mod folder;
mod synthetic;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::class_names::{self, COARSE_NAMES, FINE_NAMES};
use crate::{Error, Result, Split};

/// The folder that the official archive unpacks to.
pub(crate) const FOLDER: &str = "cifar-100-binary";
/// The official archive's name.
pub(crate) const ARCHIVE: &str = "cifar-100-binary.tar.gz";

/// CIFAR-100, or images in its shape: both splits and the names of the classes.
///
/// ```no_run
/// use wrn_sam_data::Cifar100;
///
/// let cifar = Cifar100::open("data")?;
/// println!("{}: {} + {} images", cifar.source, cifar.train.len(), cifar.test.len());
/// println!("the first is a {}", cifar.fine_names[usize::from(cifar.train.label(0))]);
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cifar100 {
    /// The training split; 50,000 images in CIFAR-100.
    pub train: Split,
    /// The test split; 10,000 images in CIFAR-100.
    pub test: Split,
    /// The name of each fine label, 100 of them.
    pub fine_names: Vec<String>,
    /// The name of each coarse label, 20 of them.
    pub coarse_names: Vec<String>,
    /// Where all this comes from.
    pub source: Source,
}

/// Where a data set comes from. `Display` says it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A folder with the binary version's files.
    Folder(PathBuf),
    /// A .tar.gz of the binary version.
    Archive(PathBuf),
    /// Generated images: not CIFAR-100.
    Synthetic {
        /// What they were drawn from.
        seed: u64,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "CIFAR-100 from the folder {}", path.display()),
            Self::Archive(path) => write!(f, "CIFAR-100 from the archive {}", path.display()),
            Self::Synthetic { seed } => write!(f, "synthetic images of seed {seed} (not CIFAR-100)"),
        }
    }
}

impl Cifar100 {
    /// Reads CIFAR-100 from wherever `path` leads: an archive; a folder as for [`from_dir`](Self::from_dir);
    /// or a folder with the archive `cifar-100-binary.tar.gz` in it.
    ///
    /// # Errors
    /// As [`from_dir`](Self::from_dir) and [`from_archive`](Self::from_archive).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::from_archive(path);
        }
        match Self::from_dir(path) {
            Err(Error::NoData { .. }) if path.join(ARCHIVE).is_file() => {
                Self::from_archive(path.join(ARCHIVE))
            }
            result => result,
        }
    }

    /// Reads CIFAR-100's binary version from the folder `dir` or `dir/cifar-100-binary`: `train.bin` and
    /// `test.bin`, and the names of the classes from the two `*_label_names.txt` where they are there.
    ///
    /// # Errors
    /// [`Error::NoData`] where neither folder has any of it; [`Error::Missing`], [`Error::Empty`],
    /// [`Error::Truncated`] and [`Error::Oversized`] for files that are not exactly CIFAR-100's;
    /// [`Error::Label`] and [`Error::Names`] for what is in them; [`Error::Io`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        folder::read(dir.as_ref())
    }

    /// Reads CIFAR-100's binary version from its .tar.gz, in memory: nothing is unpacked to disk.
    ///
    /// # Errors
    /// [`Error::Archive`] where it cannot be decoded, gzip's checksum included; [`Error::Entry`] for entries
    /// that are links or devices, lead out of the folder, or are too large; and those of
    /// [`from_dir`](Self::from_dir).
    pub fn from_archive(path: impl AsRef<Path>) -> Result<Self> {
        archive::read(path.as_ref())
    }

    /// Images with learnable classes in CIFAR-100's shape, drawn from `seed`: the same on every machine. They
    /// are bands of colour whose hue and width give the coarse label, and whose direction gives the fine one,
    /// under noise.
    ///
    /// They are for tests, and for first runs where CIFAR-100 cannot be had; results on them say nothing
    /// about CIFAR-100. Labels go round: image `i` has the fine label `i % 100`.
    ///
    /// ```
    /// let synthetic = wrn_sam_data::Cifar100::synthetic(17, 500, 100);
    /// assert_eq!((synthetic.train.len(), synthetic.test.len()), (500, 100));
    /// assert_eq!(synthetic.source.to_string(), "synthetic images of seed 17 (not CIFAR-100)");
    /// ```
    pub fn synthetic(seed: u64, train_len: usize, test_len: usize) -> Self {
        synthetic::generate(seed, train_len, test_len)
    }
}

/// The files of the binary version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    Train,
    Test,
    FineNames,
    CoarseNames,
}

impl Member {
    const ALL: [Self; 4] = [Self::Train, Self::Test, Self::FineNames, Self::CoarseNames];

    fn file_name(self) -> &'static str {
        match self {
            Self::Train => "train.bin",
            Self::Test => "test.bin",
            Self::FineNames => "fine_label_names.txt",
            Self::CoarseNames => "coarse_label_names.txt",
        }
    }
}

/// What was read of the binary version, on the way to a [`Cifar100`].
#[derive(Default)]
struct Parts {
    train: Option<Split>,
    test: Option<Split>,
    fine_names: Option<Vec<String>>,
    coarse_names: Option<Vec<String>>,
}

impl Parts {
    /// Takes the text of a file of names, found at `path`.
    fn add_names(&mut self, member: Member, text: &str, path: &Path) -> Result<()> {
        match member {
            Member::FineNames => self.fine_names = Some(class_names::parse(text, path, FINE_NAMES.len())?),
            _ => self.coarse_names = Some(class_names::parse(text, path, COARSE_NAMES.len())?),
        }
        Ok(())
    }

    /// The whole, if both splits are there; `folder` is where they should be.
    fn finish(self, folder: &Path, source: Source) -> Result<Cifar100> {
        let missing = |member: Member| Error::Missing { path: folder.join(member.file_name()) };
        let cifar = Cifar100 {
            train: self.train.ok_or_else(|| missing(Member::Train))?,
            test: self.test.ok_or_else(|| missing(Member::Test))?,
            fine_names: self.fine_names.unwrap_or_else(|| class_names::built_in(&FINE_NAMES)),
            coarse_names: self.coarse_names.unwrap_or_else(|| class_names::built_in(&COARSE_NAMES)),
            source,
        };
        tracing::info!(train = cifar.train.len(), test = cifar.test.len(), "read {}", cifar.source);
        Ok(cifar)
    }
}
