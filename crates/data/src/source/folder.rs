//! The official files in a folder.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::Origin;
use super::layout::{FileLayout, layouts};
use super::parts::{DatasetParts, MemberFile};
use crate::{Dataset, Error, Result, Variant};

pub(super) fn read(variant: Variant, dir: &Path) -> Result<Dataset> {
    let (layout, folder) = find(variant, dir)?;
    let mut parts = DatasetParts::new(layout);
    for &(member, name) in layout.members {
        let path = folder.join(name);
        let mut file = match open(&path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                match layout.images(member) {
                    Some(_) => return Err(Error::Missing { path, variant }),
                    None => continue,
                }
            }
            file => file?,
        };
        let size = file.metadata().map_err(Error::io("read", &path))?.len();
        parts.add(MemberFile { member, path: &path, size, reader: &mut file })?;
    }
    let origin = Origin::Folder { path: folder.clone(), format: layout.format };
    parts.finish(&folder, origin, None)
}

/// Opens a file, which must not be a folder.
pub(super) fn open(path: &Path) -> Result<File> {
    // Where a folder cannot be opened, this is the clearer message.
    if path.is_dir() {
        return Err(Error::Directory { path: path.into() });
    }
    File::open(path).map_err(Error::io("open", path))
}

/// The files' layout and folder: `dir`, or the official folder in it.
fn find(variant: Variant, dir: &Path) -> Result<(&'static FileLayout, PathBuf)> {
    // A link that leads nowhere is a missing file.
    if let Some(found) = locate(variant, dir, |path| path.symlink_metadata().is_ok() && !path.is_dir()) {
        return Ok(found);
    }
    let archive = archive_in(variant, dir);
    // Folders named `train` and `test` can be anything.
    let in_the_way =
        |path: &Path| path.is_dir() && (path.extension().is_some() || path.parent() != Some(dir));
    if let (Some((layout, folder)), None) = (locate(variant, dir, in_the_way), archive) {
        let mut paths = layout.image_files().map(|(_, name)| folder.join(name));
        return Err(Error::Directory { path: paths.find(|path| path.is_dir()).unwrap_or(folder) });
    }
    let other = Some(variant.other())
        .filter(|other| locate(*other, dir, Path::is_file).is_some() || archive_in(*other, dir).is_some());
    Err(Error::NoData { path: dir.into(), variant, other })
}

/// `dir` or the official folder in it: the first in which `is_fit` holds for a file of images.
fn locate(
    variant: Variant,
    dir: &Path,
    is_fit: impl Fn(&Path) -> bool,
) -> Option<(&'static FileLayout, PathBuf)> {
    layouts(variant).iter().find_map(|layout| {
        let has_images = |folder: &PathBuf| layout.image_files().any(|(_, name)| is_fit(&folder.join(name)));
        let folder = [dir.into(), dir.join(layout.folder)].into_iter().find(has_images)?;
        Some((layout, folder))
    })
}

/// One of the official archives in a folder, under its official name.
pub(super) fn archive_in(variant: Variant, dir: &Path) -> Option<PathBuf> {
    layouts(variant).iter().map(|layout| dir.join(layout.archive)).find(|archive| archive.is_file())
}
