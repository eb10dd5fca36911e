//! The folder of a run: what lies where in it, who may write to it, and how a file is replaced.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use wrn_sam_data::Source;

use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// The folder of a run, held by this process alone until dropped.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Holds the lock; the system lets go of it however the process ends.
    _lock: File,
}

const LOCK: &str = ".lock";

impl RunFolder {
    /// Makes the folder of a new run and writes its recipe, the first file of every run.
    ///
    /// # Errors
    /// [`Error::FolderNotEmpty`] if `path` holds anything, hidden files apart; [`Error::FolderInUse`]; [`Error::Io`]
    /// if it cannot be written.
    pub(crate) fn create(path: &Path, recipe: &Recipe) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(Error::io("create the folder", path))?;
        for entry in std::fs::read_dir(path).map_err(Error::io("list", path))? {
            let entry = entry.map_err(Error::io("list", path))?.file_name().to_string_lossy().into_owned();
            if !entry.starts_with('.') {
                return Err(Error::FolderNotEmpty { path: path.into(), entry });
            }
        }
        let folder = Self::lock(path)?;
        folder.write_recipe(recipe)?;
        folder.with_checkpoints()
    }

    /// Opens the folder of a run to go on with it, and reads its recipe.
    ///
    /// # Errors
    /// Those of [`Recipe::of_run`]; [`Error::FolderInUse`]; [`Error::Io`] if it cannot be written.
    pub(crate) fn open(path: &Path) -> Result<(Self, Recipe)> {
        let recipe = Recipe::of_run(path)?;
        Ok((Self::lock(path)?.with_checkpoints()?, recipe))
    }

    fn with_checkpoints(self) -> Result<Self> {
        let checkpoints = self.checkpoints();
        std::fs::create_dir_all(&checkpoints).map_err(Error::io("create the folder", &checkpoints))?;
        Ok(self)
    }

    fn lock(path: &Path) -> Result<Self> {
        let lock_path = path.join(LOCK);
        let lock = File::create(&lock_path).map_err(Error::io("write to", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::FolderInUse { path: path.into() }),
            // Some network file systems know no locks; a run there goes on without.
            Err(TryLockError::Error(error)) => tracing::warn!(%error, "cannot lock {}", path.display()),
        }
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// Writes `recipe.toml`.
    pub(crate) fn write_recipe(&self, recipe: &Recipe) -> Result<()> {
        let text = format!("# Every value in force in this run.\n{}", recipe.to_toml()?);
        write_atomically(&self.file("recipe.toml"), text.as_bytes())
    }

    /// Writes `source.toml`: where the images come from, the sums of the files they were read from, and their own.
    pub(crate) fn write_source(&self, source: &Source, images_md5: &str) -> Result<()> {
        let files = source.files.iter().map(|file| SourceFile {
            name: &file.name,
            bytes: file.bytes,
            md5: &file.md5,
        });
        let record = SourceRecord { source: source.to_string(), images_md5, file: files.collect() };
        let toml = toml::to_string(&record).map_err(|error| Error::Toml { message: error.to_string() })?;
        let text = format!("# Where this run's images come from.\n{toml}");
        write_atomically(&self.file("source.toml"), text.as_bytes())
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file directly in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder of the checkpoints.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
}

/// What `source.toml` says.
#[derive(Serialize)]
struct SourceRecord<'a> {
    source: String,
    images_md5: &'a str,
    file: Vec<SourceFile<'a>>,
}

#[derive(Serialize)]
struct SourceFile<'a> {
    name: &'a str,
    bytes: u64,
    md5: &'a str,
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // The lock ends with the process; the file is only tidied away.
        let _ = std::fs::remove_file(self.path.join(LOCK));
    }
}

/// Replaces the file at `path` by one of these bytes: whole, or not at all.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes))
}

/// Replaces the file at `path` by what `write` writes: whole, or not at all.
///
/// A folder has one temporary name, so that a killed process leaves one file at most, and the next write takes it.
pub(crate) fn write_atomically_with(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let partial = path.with_file_name(".partial");
    let written = File::create(&partial).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    });
    written.map_err(|source| {
        // What failed is what the user must hear of, not this tidying.
        let _ = std::fs::remove_file(&partial);
        Error::Io { action: "write", path: path.into(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, b"old").unwrap();
        let error = write_atomically_with(&path, |file| {
            file.write_all(b"half of the ne")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(error.unwrap_err().to_string().ends_with("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write_atomically(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let held = RunFolder::create(folder.path(), &Recipe::quick()).unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::FolderInUse { .. }), "{error}");
        drop(held);
        assert_eq!(RunFolder::open(folder.path()).unwrap().1, Recipe::quick());
    }

    #[test]
    fn the_source_is_written_with_its_sums() {
        let folder = tempfile::tempdir().unwrap();
        let held = RunFolder::create(folder.path(), &Recipe::quick()).unwrap();
        let mut source = wrn_sam_data::Cifar::synthetic(3, 1, 1).source;
        source.files =
            vec![wrn_sam_data::FileChecksum { name: "train.bin".into(), bytes: 5, md5: "ab".into() }];
        held.write_source(&source, "cd").unwrap();
        assert_eq!(
            std::fs::read_to_string(folder.path().join("source.toml")).unwrap(),
            "# Where this run's images come from.\n\
             source = \"synthetic images of seed 3 (not CIFAR-100)\"\nimages_md5 = \"cd\"\n\n\
             [[file]]\nname = \"train.bin\"\nbytes = 5\nmd5 = \"ab\"\n"
        );
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let error = RunFolder::create(folder.path(), &Recipe::quick()).unwrap_err().to_string();
        assert!(error.contains("notes.txt") && error.contains("not empty"), "{error}");
        assert!(matches!(RunFolder::open(folder.path()), Err(Error::NotARun { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        let file = folder.path().join("notes.txt");
        let error = RunFolder::create(&file.join("run"), &Recipe::quick()).unwrap_err().to_string();
        assert!(error.starts_with("cannot create the folder"), "{error}");
    }
}
