//! Where pictures come from: files, folders and stdin.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::support::AnyError;

/// The argument that means stdin.
const STDIN: &str = "-";

/// The pictures that an argument names: itself, or those in a folder and its folders, sorted by name.
///
/// # Errors
/// Where a folder cannot be listed or has no pictures.
pub fn images(argument: &Path) -> Result<Vec<PathBuf>, AnyError> {
    if argument == Path::new(STDIN) || !argument.is_dir() {
        return Ok(vec![argument.to_path_buf()]);
    }
    let mut images = Vec::new();
    add_folder(argument, &mut images)?;
    if images.is_empty() {
        return Err("the folder has no .png, .jpg or .jpeg file".into());
    }
    images.sort();
    Ok(images)
}

/// Hidden files and folders are left out, as are links to folders, which may lead back.
fn add_folder(folder: &Path, images: &mut Vec<PathBuf>) -> Result<(), AnyError> {
    let listing = |error| format!("cannot list {}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(listing)?.is_dir() {
            add_folder(&path, images)?;
        } else if has_picture_name(&path) && !path.is_dir() {
            images.push(path);
        }
    }
    Ok(())
}

fn has_picture_name(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
}

/// The bytes of one picture.
pub fn read(path: &Path) -> Result<Vec<u8>, AnyError> {
    if path == Path::new(STDIN) {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    Ok(fs::read(path)?)
}
