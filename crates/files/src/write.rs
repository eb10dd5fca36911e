//! A file appears under its name whole, or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::Builder;

use crate::error::{Error, Result};

/// A temporary file is named by these two and [`RANDOM`] letters and digits between them.
const PREFIX: &str = ".wrn-sam.";
const SUFFIX: &str = ".partial";
const RANDOM: usize = 8;

/// Replaces the file at `path` by what `fill` writes, or makes it.
///
/// The bytes go to a hidden file in the same folder, which is flushed to the disk and then renamed. So `path` is at
/// every moment the old file or the new one, also if the process is killed or the machine loses its power. On an error
/// or a panic in `fill` the hidden file is removed; only a killed process leaves it, for [`remove_leftovers`]. A
/// symbolic link at `path` is replaced, not followed.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("metrics.csv");
/// wrn_sam_files::write(&path, |file| file.write_all(b"epoch,loss\n"))?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"epoch,loss\n");
/// # Ok::<(), wrn_sam_files::Error>(())
/// ```
///
/// # Errors
/// [`Error`] with `path` where the folder is missing, full or not writable, and for an error of `fill`; a file that was
/// at `path` stays.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    replace(path, fill).map_err(Error::on("write", path))
}

fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    {
        // What `File::create` asks for; a temporary file is otherwise readable by its owner only.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let partial = builder.tempfile_in(folder)?;
    let mut writer = BufWriter::new(partial.as_file());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    partial.as_file().sync_all()?;
    partial.persist(path).map_err(|error| error.error)?;
    // The name is in the folder's own bytes. Not every system opens or flushes a folder; the file is whole in any case.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Removes the hidden files that processes which were killed inside [`write()`] left in `folder`, and says how many.
/// Nothing else is touched. Call it where no other process writes, such as a folder that is [locked](crate::lock).
///
/// # Errors
/// [`Error`] where the folder cannot be listed or a file in it cannot be removed.
pub fn remove_leftovers(folder: impl AsRef<Path>) -> Result<usize> {
    let folder = folder.as_ref();
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(Error::on("list", folder))? {
        let entry = entry.map_err(Error::on("list", folder))?;
        let is_file = entry.file_type().map_err(Error::on("list", folder))?.is_file();
        if is_file && entry.file_name().to_str().is_some_and(is_partial) {
            fs::remove_file(entry.path()).map_err(Error::on("remove", &entry.path()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_partial(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let error = write(&path, |file| {
            file.write_all(b"half of the ne")?;
            assert_eq!(names(folder.path()).iter().filter(|name| is_partial(name)).count(), 1);
            Err(io::Error::other("disk full"))
        });
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}: disk full", path.display()));
        let panics = std::panic::catch_unwind(|| write(&path, |_| panic!("on purpose")));
        assert!(panics.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing/file");
        assert_eq!(write(&missing, |_| Ok(())).unwrap_err().path, missing);
        let taken = folder.path().join("folder");
        fs::create_dir_all(taken.join("inside")).unwrap();
        assert_eq!(write(&taken, |_| Ok(())).unwrap_err().path, taken);
        assert_eq!(names(folder.path()), ["folder"]);
        assert_eq!(remove_leftovers(folder.path().join("missing")).unwrap_err().action, "list");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_has_the_permissions_of_any_other() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [ours, plain] = ["ours", "plain"].map(|name| folder.path().join(name));
        write(&ours, |_| Ok(())).unwrap();
        File::create(&plain).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(ours), mode(plain));
    }

    #[test]
    fn only_leftovers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        // As a killed process leaves it: the temporary file is not dropped.
        let killed =
            Builder::new().prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM).tempfile_in(folder.path());
        killed.unwrap().keep().unwrap();
        let others =
            [".partial", ".tmpA1b2C3", ".wrn-sam.1234567.partial", ".wrn-sam.1234567-.partial", "a.partial"];
        for name in others {
            fs::write(folder.path().join(name), "mine").unwrap();
        }
        fs::create_dir(folder.path().join(".wrn-sam.12345678.partial")).unwrap();
        assert_eq!(remove_leftovers(folder.path()).unwrap(), 1);
        assert_eq!(names(folder.path()).len(), others.len() + 1);
        assert_eq!(remove_leftovers(folder.path()).unwrap(), 0);
    }
}
