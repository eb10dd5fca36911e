//! The official versions in their .tar.gz.
//!
//! An archive is foreign bytes: every entry is checked before a byte of it is used, what is not of the data
//! set is passed over, and all that decoding can yield is bounded.

use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use flate2::read::GzDecoder;
use tar::EntryType;

use super::layout::{Layout, Member, Version, layouts};
use super::{Origin, Parts};
use crate::checksum::{FileChecksum, Summed};
use crate::{Cifar, Error, Result, Variant, binary};

/// The most bytes that an archive may unpack to; the official ones have up to 187 million.
const MAX_UNPACKED_BYTES: u64 = 256 << 20;

pub(super) fn read(variant: Variant, reader: impl Read, archive: &Path) -> Result<Cifar> {
    let mut parts = None;
    let file = visit(variant, reader, archive, |entry| {
        let parts = parts.get_or_insert_with(|| Parts::new(entry.layout));
        let path = archive.join(entry.path);
        if let (Version::Binary, images @ Some(_)) = (entry.layout.version, entry.layout.images(entry.member))
        {
            binary::check_size(variant, &path, entry.size, images)?;
        }
        parts.add(entry.member, entry.reader, &path)
    })?;
    let parts = parts.ok_or_else(|| Error::NoData { path: archive.into(), variant })?;
    let layout = parts.layout;
    let origin = Origin::Archive { path: archive.into(), version: layout.version };
    parts.finish(&archive.join(layout.folder), origin, vec![file])
}

/// Writes the binary version's files from the archive into the existing folder `target`, and nothing else
/// anywhere.
#[cfg(feature = "download")]
pub(super) fn unpack(variant: Variant, reader: impl Read, archive: &Path, target: &Path) -> Result<()> {
    let layout = &layouts(variant)[0];
    let mut found = Vec::new();
    visit(variant, reader, archive, |entry| {
        if entry.layout != layout {
            return Ok(());
        }
        if layout.images(entry.member).is_some() {
            binary::check_size(variant, &archive.join(entry.path), entry.size, None)?;
        }
        let (_, name) = layout.members.iter().find(|(member, _)| *member == entry.member).expect("a member");
        let out = target.join(name);
        let mut file = std::fs::File::create(&out).map_err(Error::io("create", &out))?;
        io::copy(entry.reader, &mut file)
            .and_then(|_| file.sync_all())
            .map_err(Error::io("unpack to", &out))?;
        found.push(entry.member);
        Ok(())
    })?;
    match layout.image_files().find(|(member, _)| !found.contains(member)) {
        Some((_, name)) => Err(Error::Missing { path: archive.join(layout.folder).join(name), variant }),
        None => Ok(()),
    }
}

/// One of the data set's files in an archive.
struct Entry<'a> {
    layout: &'static Layout,
    member: Member,
    path: &'a Path,
    size: u64,
    reader: &'a mut dyn Read,
}

/// Calls `take` with each of the data set's files in the archive, all of one version: that of the first.
/// Gives the archive's own sum.
fn visit(
    variant: Variant,
    reader: impl Read,
    archive: &Path,
    mut take: impl FnMut(Entry) -> Result<()>,
) -> Result<FileChecksum> {
    let damaged = |source| Error::Archive { path: archive.into(), variant, source };
    let mut file = Summed::new(reader);
    let unzipped = GzDecoder::new(BufReader::with_capacity(1 << 16, &mut file));
    let mut tar = tar::Archive::new(Bounded { inner: unzipped, left: MAX_UNPACKED_BYTES });
    let mut version: Option<&'static Layout> = None;
    let mut found = Vec::new();
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
            EntryType::Regular => layouts(variant)
                .iter()
                .filter(|layout| version.is_none_or(|version| version == *layout))
                .find_map(|layout| Some((layout, layout.member(&path)?))),
            _ => return Err(refuse("is a link or no plain file")),
        };
        let size = entry.size();
        if size > known.map_or(MAX_UNPACKED_BYTES, |(layout, member)| layout.max_bytes(member)) {
            return Err(refuse("is too large"));
        }
        let Some((layout, member)) = known else { continue };
        version = Some(layout);
        if found.contains(&member) {
            return Err(refuse("is there twice"));
        }
        found.push(member);
        take(Entry { layout, member, path: &path, size, reader: &mut entry }).map_err(
            |error| match error {
                Error::Io { action: "read", source, .. } => damaged(source),
                error => error,
            },
        )?;
    }
    // gzip's checksum lies at the very end, behind what tar reads.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(damaged)?;
    let name = archive.file_name().unwrap_or(archive.as_os_str()).to_string_lossy();
    file.finish(name).map_err(damaged)
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
