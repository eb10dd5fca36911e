//! Where pictures come from: files, folders and stdin.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use wrn_sam::data::pictures;

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
    let images = pictures::list(argument)?;
    if images.is_empty() {
        return Err("the folder has no .png, .jpg or .jpeg file".into());
    }
    Ok(images)
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
