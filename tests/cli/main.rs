//! The programs as a user meets them: help, wrong flags, bad inputs, and what each says and leaves behind.

mod data;
mod flags;
mod folders;
mod output;
mod own_data;
mod programs;
mod report;
#[cfg(unix)]
mod resume_command;
#[cfg(unix)]
mod signals;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use tempfile::{TempDir, tempdir};

fn folder() -> TempDir {
    tempdir().expect("a temporary folder")
}

fn write(path: &Path, contents: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
    std::fs::write(path, contents).expect("a temporary file");
}

/// Everything below a folder with its contents, to see that it stays as it was.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.push((path.clone(), std::fs::read(&path).ok()));
        }
    }
    found.sort();
    found
}
