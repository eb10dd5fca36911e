//! Fetching the official archive.
//!
//! The bytes go to a hidden file in the destination folder, from which an interrupted download resumes. The whole file
//! is checked against its MD5, unpacked to a temporary folder and renamed into place. So nothing half-written can be
//! taken for data at any moment, and nothing that was there is changed.

mod options;
mod partial;
mod transfer;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::archive;
use super::layout::{FileLayout, layouts};
use crate::{Dataset, Error, Result, binary};
use partial::Partial;
use transfer::fetch;

pub use options::{DownloadOptions, DownloadProgress, TIMEOUT_VARIABLE};

impl Dataset {
    /// Fetches the data set to `dir` if it is not there, and reads it: [`download`], then
    /// [`from_dir`](Self::from_dir).
    ///
    /// ```no_run
    /// use wrn_sam_data::{Dataset, Variant, download::DownloadOptions};
    ///
    /// let options = DownloadOptions::from_env(Variant::Cifar100)?;
    /// let options = options.with_progress(|progress| eprintln!("{progress:?}"));
    /// let cifar = Dataset::download("data", &options)?;
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of both.
    pub fn download(dir: impl AsRef<Path>, options: &DownloadOptions) -> Result<Self> {
        Self::from_dir(options.variant, download(dir.as_ref(), options)?)
    }
}

/// Fetches a data set's binary version into the folder in `dir` that its official archive unpacks to
/// (`cifar-100-binary`, `cifar-10-batches-bin`), and returns that folder. Where it is already whole, nothing is
/// fetched.
///
/// An interrupted download resumes if the server can send only the rest and still has the same file; otherwise it
/// starts again. If two processes or threads fetch to one `dir` at the same time, one waits for the other.
///
/// Proxies are taken from the environment: `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY`, with `NO_PROXY` for
/// exceptions.
///
/// # Errors
/// What [`DownloadOptions::validate`] refuses; [`Error::Occupied`] where something else has the folder's name; [`Error::Connect`] where no answer comes
/// within `connect_timeout`; [`Error::Status`], [`Error::Stalled`], [`Error::CutOff`],
/// [`Error::DownloadTooLarge`], [`Error::Checksum`]; those of
/// [`Dataset::from_archive`](crate::Dataset::from_archive); [`Error::Io`]. All leave `dir` as it was, but for the
/// hidden part of a broken download.
pub fn download(dir: &Path, options: &DownloadOptions) -> Result<PathBuf> {
    options.validate()?;
    let layout = &layouts(options.variant)[0];
    let target = dir.join(layout.folder);
    if is_whole(layout, &target)? {
        return Ok(target);
    }
    let made = make_folder(dir)?;
    let fetched = fetch_and_unpack(dir, layout, &target, options);
    if fetched.is_err() {
        // Innermost first; those that are not empty stay.
        for folder in made.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
    fetched.map(|()| target)
}

/// Makes the folder `dir`; the folders that were not there, outermost first.
fn make_folder(dir: &Path) -> Result<Vec<PathBuf>> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && path.symlink_metadata().is_err();
    let mut made: Vec<PathBuf> = dir.ancestors().take_while(missing).map(Path::to_path_buf).collect();
    made.reverse();
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    Ok(made)
}

fn fetch_and_unpack(dir: &Path, layout: &FileLayout, target: &Path, options: &DownloadOptions) -> Result<()> {
    let mut partial =
        Partial::open(dir.join(format!(".{}.part", layout.archive)), &options.url, &options.md5)?;
    // Another process may have been faster.
    if is_whole(layout, target)? {
        partial.remove();
        return Ok(());
    }
    let unpacked = fetch(&mut partial, options).and_then(|()| unpack(&mut partial, dir, layout, target));
    match &unpacked {
        // Bytes that came are good until the sum says otherwise.
        Err(error) if is_passing(error) => {}
        _ => partial.remove(),
    }
    unpacked
}

/// Whether what was received may be of use for another try.
fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect { .. }
            | Error::Status { .. }
            | Error::Stalled { .. }
            | Error::CutOff { .. }
            | Error::Io { .. }
            | Error::Occupied { .. }
    )
}

/// Unpacks the whole archive to `target`, through a temporary folder next to it.
fn unpack(partial: &mut Partial, dir: &Path, layout: &FileLayout, target: &Path) -> Result<()> {
    let unpacked = TempDir::with_prefix_in(".cifar-", dir).map_err(Error::io("create a folder in", dir))?;
    // Not the temporary folder itself: only its owner can read that.
    let folder = unpacked.path().join(layout.folder);
    fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
    let path = partial.path().to_path_buf();
    archive::unpack(layout.variant, partial.reader()?, &path, &folder)?;
    if let Err(error) = fs::rename(&folder, target) {
        // Where there are no locks, another process may have been faster.
        return if is_whole(layout, target)? { Ok(()) } else { Err(Error::io("rename to", target)(error)) };
    }
    tracing::info!("fetched {}", target.display());
    Ok(())
}

/// Whether the folder is there and whole; an error where it is there and is not.
fn is_whole(layout: &FileLayout, target: &Path) -> Result<bool> {
    if target.symlink_metadata().is_err() {
        return Ok(false);
    }
    let variant = layout.variant;
    for (member, name) in layout.image_files() {
        let path = target.join(name);
        let checked = match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Err(Error::Directory { path }),
            Ok(metadata) => binary::check_size(variant, &path, metadata.len(), layout.images(member)),
            Err(_) => Err(Error::Missing { path, variant }),
        };
        if let Err(problem) = checked {
            return Err(Error::Occupied { path: target.into(), problem: Box::new(problem) });
        }
    }
    Ok(true)
}
