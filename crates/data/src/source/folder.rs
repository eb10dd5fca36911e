//! The official versions in a folder.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::layout::{Layout, Version, layouts};
use super::{Origin, Parts};
use crate::checksum::Summed;
use crate::{Cifar, Error, Result, Variant, binary};

pub(super) fn read(variant: Variant, dir: &Path) -> Result<Cifar> {
    let (layout, folder) = locate(variant, dir).ok_or_else(|| Error::NoData { path: dir.into(), variant })?;
    let mut parts = Parts::new(layout);
    let mut files = Vec::new();
    for &(member, name) in layout.members {
        let path = folder.join(name);
        let images = layout.images(member);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match images {
                Some(_) => return Err(Error::Missing { path, variant }),
                None => continue,
            },
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        if let (Version::Binary, Some(_)) = (layout.version, images) {
            let size = file.metadata().map_err(Error::io("read", &path))?.len();
            binary::check_size(variant, &path, size, images)?;
        }
        let mut file = Summed::new(file);
        parts.add(member, &mut file, &path)?;
        files.push(file.finish(name).map_err(Error::io("read", &path))?);
    }
    let origin = Origin::Folder { path: folder.clone(), version: layout.version };
    parts.finish(&folder, origin, files)
}

/// `dir` or the official folder in it, whichever has a file of images.
fn locate(variant: Variant, dir: &Path) -> Option<(&'static Layout, PathBuf)> {
    layouts(variant).iter().find_map(|layout| {
        let has_images = |folder: &PathBuf| {
            layout
                .image_files()
                .any(|(_, name)| folder.join(name).symlink_metadata().is_ok_and(|m| !m.is_dir()))
        };
        let folder = [dir.into(), dir.join(layout.folder)].into_iter().find(has_images)?;
        Some((layout, folder))
    })
}
