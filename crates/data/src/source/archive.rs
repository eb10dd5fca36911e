//! The official files in their .tar.gz.
//!
//! An archive is foreign bytes: every entry is checked before a byte of it is used, what is not of the data set is
//! skipped, and all that decoding can yield is bounded.

use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use flate2::read::GzDecoder;
use tar::EntryType;

use super::Origin;
use super::layout::{FileLayout, layouts};
use super::parts::{DatasetParts, MemberFile};
use crate::checksum::{FileChecksum, Summed};
use crate::{Dataset, Error, Result, Variant};

/// The most bytes that an archive may unpack to; the official ones have up to 187 million.
const MAX_UNPACKED_BYTES: u64 = 256 << 20;

pub(super) fn read(variant: Variant, reader: impl Read, archive: &Path) -> Result<Dataset> {
    let mut parts = None;
    let file = visit(variant, reader, archive, |layout, file| {
        let (_, parts) = parts.get_or_insert_with(|| (layout, DatasetParts::new(layout)));
        parts.add(file)
    })?;
    let (layout, parts) = parts.expect("`visit` fails where there is no file");
    let origin = Origin::Archive { path: archive.into(), format: layout.format };
    parts.finish(&archive.join(layout.folder), origin, Some(file))
}

/// Writes the binary version's files from the archive into the existing folder `target`, and nothing else
/// anywhere.
#[cfg(feature = "download")]
pub(super) fn unpack(variant: Variant, reader: impl Read, archive: &Path, target: &Path) -> Result<()> {
    let binary = &layouts(variant)[0];
    let mut found = Vec::new();
    visit(variant, reader, archive, |layout, file| {
        if layout != binary {
            return Ok(());
        }
        if layout.images(file.member).is_some() {
            crate::binary::check_size(variant, file.path, file.size, None)?;
        }
        let path = target.join(layout.name(file.member));
        let mut out = std::fs::File::create(&path).map_err(Error::io("create", &path))?;
        io::copy(file.reader, &mut out)
            .and_then(|_| out.sync_all())
            .map_err(Error::io("unpack to", &path))?;
        found.push(file.member);
        Ok(())
    })?;
    match binary.image_files().find(|(member, _)| !found.contains(member)) {
        Some((_, name)) => Err(Error::Missing { path: archive.join(binary.folder).join(name), variant }),
        None => Ok(()),
    }
}

/// Calls `take` with each of the data set's files in the archive, at least one, all of one layout: that of the first.
/// Gives the archive's own sum.
fn visit(
    variant: Variant,
    reader: impl Read,
    archive: &Path,
    take: impl FnMut(&'static FileLayout, MemberFile) -> Result<()>,
) -> Result<FileChecksum> {
    let damaged = |source| Error::Archive { path: archive.into(), variant, source };
    let mut file = Summed::new(reader);
    let unzipped = GzDecoder::new(BufReader::with_capacity(1 << 16, &mut file));
    let mut tar =
        tar::Archive::new(BoundedStream { inner: unzipped, left: MAX_UNPACKED_BYTES, failure: None });
    let visited = visit_entries(variant, &mut tar, archive, take);
    // What a damaged stream seems to hold says nothing: the damage is the error to report.
    tar.into_inner().check().map_err(damaged)?;
    visited?;
    let name = archive.file_name().unwrap_or(archive.as_os_str()).to_string_lossy();
    file.finish(name).map_err(damaged)
}

fn visit_entries(
    variant: Variant,
    tar: &mut tar::Archive<impl Read>,
    archive: &Path,
    mut take: impl FnMut(&'static FileLayout, MemberFile) -> Result<()>,
) -> Result<()> {
    let damaged = |source| Error::Archive { path: archive.into(), variant, source };
    let member_of = |variant, path: &Path| {
        layouts(variant).iter().find_map(|layout| Some((layout, layout.member(path)?)))
    };
    let mut first: Option<&'static FileLayout> = None;
    let mut found = Vec::new();
    let mut other = None;
    // Raw: long names would be gathered in memory, whatever their length, and no file of CIFAR's has one.
    for entry in tar.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let refuse = |reason| Error::Entry { path: archive.into(), entry: path.clone(), reason };
        let stays = |component| matches!(component, Component::Normal(_) | Component::CurDir);
        if !path.components().all(stays) {
            return Err(refuse("leads out of the folder"));
        }
        let known = match entry.header().entry_type() {
            EntryType::Directory | EntryType::XHeader | EntryType::XGlobalHeader => continue,
            EntryType::GNULongName => continue,
            EntryType::Regular => {
                member_of(variant, &path).filter(|(layout, _)| first.is_none_or(|first| first == *layout))
            }
            _ => return Err(refuse("is a link or no plain file")),
        };
        let size = entry.size();
        if size > known.map_or(MAX_UNPACKED_BYTES, |(layout, member)| layout.max_bytes(member)) {
            return Err(refuse("is too large"));
        }
        let Some((layout, member)) = known else {
            other = other.or(member_of(variant.other(), &path).map(|_| variant.other()));
            continue;
        };
        first = Some(layout);
        if found.contains(&member) {
            return Err(refuse("is there twice"));
        }
        found.push(member);
        take(layout, MemberFile { member, path: &archive.join(&path), size, reader: &mut entry })?;
    }
    match first {
        Some(_) => Ok(()),
        None => Err(Error::NoData { path: archive.into(), variant, other }),
    }
}

/// A reader that fails after more than `left` bytes, and remembers the first failure, which a decoder of what it reads
/// may have taken for something else.
struct BoundedStream<R> {
    inner: R,
    left: u64,
    failure: Option<(io::ErrorKind, String)>,
}

impl<R: Read> BoundedStream<R> {
    /// Reads to the end, where gzip's checksum is; the first failure, if there was one.
    fn check(mut self) -> io::Result<()> {
        if self.failure.is_none() {
            io::copy(&mut self, &mut io::sink())?;
        }
        self.failure.map_or(Ok(()), |(kind, message)| Err(io::Error::new(kind, message)))
    }
}

impl<R: Read> Read for BoundedStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).and_then(|count| {
            self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
                io::Error::other(format!("it unpacks to more than {MAX_UNPACKED_BYTES} bytes"))
            })?;
            Ok(count)
        });
        read.inspect_err(|error| {
            self.failure.get_or_insert_with(|| (error.kind(), error.to_string()));
        })
    }
}
