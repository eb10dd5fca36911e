//! A file that one process holds at a time.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens the file at `path` for reading and writing, makes it where there is none, and holds it for this process only,
/// until the returned file is closed. Waits while another process holds it.
///
/// The holder may remove the file, and only the holder: whoever waited for it then opens the new one. A file system
/// without locks, as some networks have, is used without one; a `tracing` event says so.
///
/// # Errors
/// [`Error`] where the file cannot be opened.
pub fn lock(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    loop {
        if let Some(file) = held(path, true)? {
            return Ok(file);
        }
    }
}

/// As [`lock`], but `None` where another process holds the file.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join(".lock");
/// let held = wrn_sam_files::try_lock(&path)?;
/// assert!(held.is_some());
/// assert!(wrn_sam_files::try_lock(&path)?.is_none());
/// drop(held);
/// assert!(wrn_sam_files::try_lock(&path)?.is_some());
/// # Ok::<(), wrn_sam_files::Error>(())
/// ```
///
/// # Errors
/// [`Error`] where the file cannot be opened.
pub fn try_lock(path: impl AsRef<Path>) -> Result<Option<File>> {
    held(path.as_ref(), false)
}

/// The file at `path`, locked; `None` where another process holds it and this one does not wait.
fn held(path: &Path, wait: bool) -> Result<Option<File>> {
    loop {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::on("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if wait => {
                tracing::info!("waiting for another process to release {}", path.display());
                file.lock().map_err(Error::on("lock", path))?;
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => tracing::warn!(%error, "cannot lock {}", path.display()),
        }
        // Between opening and locking, the holder before may have removed the file.
        if is_still_at(&file, path) {
            return Ok(Some(file));
        }
    }
}

#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// Elsewhere a file that is open is not removed, or its identity is not known.
#[cfg(not(unix))]
fn is_still_at(_: &File, path: &Path) -> bool {
    fs::exists(path).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Each holder removes the file, so that the next one opens it at every possible moment of that.
    #[test]
    fn a_file_that_its_holder_removes_has_one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        let (holders, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let hold = |file: File| {
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
            held.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
            fs::remove_file(&path).unwrap();
            drop(file);
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..500).for_each(|_| hold(lock(&path).unwrap())));
                scope.spawn(|| (0..500).filter_map(|_| try_lock(&path).unwrap()).for_each(hold));
            }
        });
        assert!(held.into_inner() >= 1000);
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/.lock");
        assert_eq!(lock(&path).unwrap_err().path, path);
        assert_eq!(try_lock(folder.path()).unwrap_err().action, "open");
    }
}
