//! Where a data set comes from, in a form that can be printed and recorded.

use std::fmt;
use std::path::PathBuf;

use crate::Variant;
use crate::checksum::FileChecksum;

/// Where a data set comes from, with the checksums of the files that were read. `Display` puts it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// The data set's name, without a path: `CIFAR-100`, `synthetic images of seed 17 (not CIFAR-100)`, or that of images of
    /// your own.
    pub name: String,
    /// Which published data set it is, or has the shape of; none for images of your own.
    pub variant: Option<Variant>,
    /// Where its images come from.
    pub origin: Origin,
    /// Every file that was read, in order of reading: only the archive if they were in one; none for
    /// generated images.
    pub files: Vec<FileChecksum>,
    /// Whether these are the published images and labels.
    ///
    /// They are if the MD5 of each file of images, in a folder or in an archive, is the published one. CIFAR-100 is
    /// also recognized by its content, in any order and format. CIFAR-10 from parquet files is never recognized, and
    /// neither are generated images or your own.
    pub known: bool,
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A folder with the files of one of the official formats.
    Folder {
        /// The folder that has the files.
        path: PathBuf,
        /// Their format.
        format: Format,
    },
    /// A .tar.gz of one of the official formats.
    Archive {
        /// The archive.
        path: PathBuf,
        /// The format of the files in it.
        format: Format,
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
    /// A folder of pictures by class.
    Pictures {
        /// The folder.
        path: PathBuf,
    },
    /// Images that a program had in memory.
    Memory,
    /// Generated images: not CIFAR.
    Synthetic {
        /// The seed that they were drawn from.
        seed: u64,
    },
}

/// The format of the official files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Records of bytes.
    Binary,
    /// Pickled dictionaries with numpy arrays.
    Python,
}

impl Source {
    pub(crate) fn new(variant: Variant, origin: Origin, files: Vec<FileChecksum>) -> Self {
        let name = match origin {
            Origin::Synthetic { seed } => format!("synthetic images of seed {seed} (not {variant})"),
            _ => variant.to_string(),
        };
        Self { name, variant: Some(variant), origin, files, known: false }
    }

    /// Of images that are no published data set.
    pub(crate) fn own(name: String, origin: Origin) -> Self {
        Self { name, variant: None, origin, files: Vec::new(), known: false }
    }

    /// Whether the images are generated, so that results on them say nothing about CIFAR.
    pub fn is_synthetic(&self) -> bool {
        matches!(self.origin, Origin::Synthetic { .. })
    }

    /// Whether the images have the form of a published data set, but are not the published ones.
    pub fn is_unknown(&self) -> bool {
        self.variant.is_some() && !self.known && !self.is_synthetic()
    }

    /// The folder or archive that was read, as an absolute path: [`Dataset::open`](crate::Dataset::open), or for a folder of
    /// pictures the function that read it, finds the same images there. `None` for other origins.
    pub fn location(&self) -> Option<PathBuf> {
        match &self.origin {
            // An error would mean that there is no current folder, or no path.
            Origin::Folder { path, .. } | Origin::Archive { path, .. } | Origin::Pictures { path } => {
                Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unknown() {
            f.write_str("unknown images in the form of ")?;
        }
        f.write_str(&self.name)?;
        match &self.origin {
            Origin::Folder { path, format } => {
                write!(f, " from the folder {} ({format} version)", path.display())
            }
            Origin::Archive { path, format } => {
                write!(f, " from the archive {} ({format} version)", path.display())
            }
            Origin::Hub { repository } => write!(f, " from the Hugging Face hub's {repository}"),
            Origin::Parquet { train, test } => write!(f, " from {} and {}", train.display(), test.display()),
            Origin::Pictures { path } => write!(f, ", pictures in {}", path.display()),
            Origin::Memory => f.write_str(", images in memory"),
            Origin::Synthetic { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Python => "Python",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_can_be_opened_from_any_folder() {
        let source = |origin| Source::new(Variant::Cifar100, origin, Vec::new());
        let here = std::env::current_dir().unwrap();
        let (path, format) = (PathBuf::from("data"), Format::Binary);
        for origin in [Origin::Folder { path: path.clone(), format }, Origin::Archive { path, format }] {
            assert_eq!(source(origin).location(), Some(here.join("data")));
        }
        assert_eq!(source(Origin::Synthetic { seed: 1 }).location(), None);
        assert_eq!(source(Origin::Hub { repository: "a/b".into() }).location(), None);
    }

    #[test]
    fn unknown_images_are_called_so() {
        let origin = Origin::Folder { path: "data".into(), format: Format::Python };
        let mut source = Source::new(Variant::Cifar10, origin, Vec::new());
        assert_eq!(
            source.to_string(),
            "unknown images in the form of CIFAR-10 from the folder data (Python version)"
        );
        source.known = true;
        assert_eq!(source.to_string(), "CIFAR-10 from the folder data (Python version)");
    }
}
