//! CIFAR-100's binary version in a folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{FOLDER, Member, Parts, Source};
use crate::cifar::{TEST_IMAGES, TRAIN_IMAGES, read_file};
use crate::{Cifar100, Error, Result};

/// The most bytes of a file of class names; CIFAR-100's have fewer than 1,000.
pub(super) const MAX_NAMES_BYTES: u64 = 1 << 16;

pub(super) fn read(dir: &Path) -> Result<Cifar100> {
    let folder = locate(dir)?;
    let mut parts = Parts {
        train: Some(read_file(&folder.join(Member::Train.file_name()), Some(TRAIN_IMAGES))?),
        test: Some(read_file(&folder.join(Member::Test.file_name()), Some(TEST_IMAGES))?),
        ..Parts::default()
    };
    for member in [Member::FineNames, Member::CoarseNames] {
        let path = folder.join(member.file_name());
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(MAX_NAMES_BYTES).read_to_string(&mut text)) {
            Ok(_) => parts.add_names(member, &text, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
    }
    parts.finish(&folder, Source::Folder(folder.clone()))
}

/// `dir` or the folder in it, whichever has one of the two files of records.
fn locate(dir: &Path) -> Result<PathBuf> {
    [dir.into(), dir.join(FOLDER)]
        .into_iter()
        .find(|folder: &PathBuf| {
            [Member::Train, Member::Test].iter().any(|member| folder.join(member.file_name()).exists())
        })
        .ok_or_else(|| Error::NoData { path: dir.into() })
}
