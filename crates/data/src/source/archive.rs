//! CIFAR-100's binary version in its .tar.gz.
//!
//! An archive is foreign bytes: every entry is checked before a byte of it is used, what is not of CIFAR-100
//! is passed over, and all that decoding can yield is bounded.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use flate2::read::GzDecoder;
use tar::EntryType;

use super::folder::MAX_NAMES_BYTES;
use super::{FOLDER, Member, Parts, Source};
use crate::cifar::{RECORD_BYTES, TEST_IMAGES, TRAIN_IMAGES, read_records};
use crate::{Cifar100, Error, Result};

/// The most bytes that an archive may unpack to; the official one has 184 million.
const MAX_UNPACKED_BYTES: u64 = 256 << 20;

impl Member {
    /// Which file the archive's entry `path` is, if it is in the official folder or in none.
    fn of(path: &Path) -> Option<Self> {
        let mut names = path.components().filter(|component| *component != Component::CurDir).rev();
        let name = names.next()?.as_os_str();
        let in_place = match (names.next(), names.next()) {
            (None, _) => true,
            (Some(folder), None) => folder.as_os_str() == FOLDER,
            _ => false,
        };
        Self::ALL.into_iter().find(|member| in_place && name == member.file_name())
    }

    /// The most bytes that the file may have.
    fn max_bytes(self) -> u64 {
        match self {
            Self::Train => (TRAIN_IMAGES * RECORD_BYTES) as u64,
            Self::Test => (TEST_IMAGES * RECORD_BYTES) as u64,
            Self::FineNames | Self::CoarseNames => MAX_NAMES_BYTES,
        }
    }
}

pub(super) fn read(archive: &Path) -> Result<Cifar100> {
    let mut parts = Parts::default();
    visit(archive, |member, path, size, reader| {
        match member {
            Member::Train => parts.train = Some(read_records(reader, path, size, Some(TRAIN_IMAGES))?),
            Member::Test => parts.test = Some(read_records(reader, path, size, Some(TEST_IMAGES))?),
            Member::FineNames | Member::CoarseNames => {
                let mut text = String::new();
                reader.read_to_string(&mut text).map_err(Error::io("read", path))?;
                parts.add_names(member, &text, path)?;
            }
        }
        Ok(())
    })?;
    parts.finish(&archive.join(FOLDER), Source::Archive(archive.into()))
}

/// Writes CIFAR-100's files from the archive into the existing folder `target`, and nothing else anywhere.
#[cfg(feature = "download")]
pub(super) fn unpack(archive: &Path, target: &Path) -> Result<()> {
    let mut found = Vec::new();
    visit(archive, |member, path, size, reader| {
        if matches!(member, Member::Train | Member::Test) {
            crate::cifar::check_size(path, size, None)?;
        }
        let out = target.join(member.file_name());
        let mut file = File::create(&out).map_err(Error::io("create", &out))?;
        let copied = io::copy(reader, &mut file).and_then(|_| file.sync_all());
        copied.map_err(Error::io("unpack to", &out))?;
        found.push(member);
        Ok(())
    })?;
    match [Member::Train, Member::Test].into_iter().find(|member| !found.contains(member)) {
        Some(member) => Err(Error::Missing { path: archive.join(FOLDER).join(member.file_name()) }),
        None => Ok(()),
    }
}

/// Calls `take` with each of CIFAR-100's files in the archive: which it is, its path for messages, its size
/// and its bytes.
fn visit(
    archive: &Path,
    mut take: impl FnMut(Member, &Path, u64, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let damaged = |source| Error::Archive { path: archive.into(), source };
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let unzipped = Bounded { inner: GzDecoder::new(BufReader::new(file)), left: MAX_UNPACKED_BYTES };
    let mut tar = tar::Archive::new(unzipped);
    let mut found = Vec::new();
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let refuse = |reason| Error::Entry { path: archive.into(), entry: path.clone(), reason };
        let stays = |component| matches!(component, Component::Normal(_) | Component::CurDir);
        if !path.components().all(stays) {
            return Err(refuse("leads out of the folder"));
        }
        let member = match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            EntryType::Regular => Member::of(&path),
            _ => return Err(refuse("is a link or no plain file")),
        };
        let size = entry.size();
        if size > member.map_or(MAX_UNPACKED_BYTES, Member::max_bytes) {
            return Err(refuse("is too large"));
        }
        let Some(member) = member else { continue };
        if found.contains(&member) {
            return Err(refuse("is there twice"));
        }
        found.push(member);
        take(member, &archive.join(&path), size, &mut entry).map_err(|error| match error {
            Error::Io { action: "read", source, .. } => damaged(source),
            error => error,
        })?;
    }
    // gzip's checksum lies at the very end, behind what tar reads.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(())
}

/// A reader that fails once it has given more than `left` bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(format!("it unpacks to more than {MAX_UNPACKED_BYTES} bytes")))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_by_name_and_place() {
        let of = |path: &str| Member::of(Path::new(path));
        assert_eq!(of("cifar-100-binary/train.bin"), Some(Member::Train));
        assert_eq!(of("./cifar-100-binary/test.bin"), Some(Member::Test));
        assert_eq!(of("fine_label_names.txt"), Some(Member::FineNames));
        assert_eq!(of("cifar-100-python/train"), None);
        assert_eq!(of("elsewhere/train.bin"), None);
        assert_eq!(of("cifar-100-binary/old/train.bin"), None);
        assert_eq!(of("a/cifar-100-binary/train.bin"), None);
        assert_eq!(of(""), None);
    }
}
