//! The folder of a run: the files in it, and the one process that may write to it.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::metrics;
use crate::recipe::Recipe;

/// Checks that a new run may begin in the folder `path`: there is none, or it is empty, hidden files apart.
/// [`Trainer::run`](crate::Trainer::run) does so too; this is for asking before any data are read.
///
/// # Errors
/// [`Error::FolderNotEmpty`]; [`Error::Io`] where it cannot be listed.
pub fn check_new_folder(path: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("list", path))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", path))?.file_name().to_string_lossy().into_owned();
        if !entry.starts_with('.') {
            return Err(Error::FolderNotEmpty { path: path.into(), entry });
        }
    }
    Ok(())
}

/// The folder of a run, held by this process only until dropped.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Holds the lock; the system releases it however the process ends. None on a rank that does not write.
    lock: Option<File>,
}

const LOCK: &str = ".lock";

impl RunFolder {
    /// Makes the folder of a new run.
    ///
    /// # Errors
    /// [`Error::FolderNotEmpty`]; [`Error::FolderInUse`]; [`Error::Io`] if it cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(Error::io("create the folder", path))?;
        check_new_folder(path)?;
        let folder = Self::lock(path)?;
        // Again, as another process may have held the lock in between.
        check_new_folder(path)?;
        Ok(folder)
    }

    /// Opens the folder of a run to resume it, and removes the files that a killed process left half written.
    ///
    /// # Errors
    /// [`Error::NotARun`]; [`Error::FolderInUse`]; [`Error::Io`] if it cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let has_recipe = path.join("recipe.toml").is_file();
        if !has_recipe && checkpoint::list(&path.join("checkpoints"))?.is_empty() {
            return Err(Error::NotARun { path: path.into() });
        }
        let folder = Self::lock(path)?;
        for folder in [folder.path.clone(), folder.checkpoints()] {
            if folder.is_dir() {
                let removed = wrn_sam_files::remove_leftovers(&folder)?;
                tracing::debug!(removed, folder = %folder.display(), "removed what a killed process left");
            }
        }
        Ok(folder)
    }

    /// The folder of a run whose files another rank writes. Nothing is written to it, and it need not be there.
    pub(crate) fn of_another_rank(path: &Path) -> Self {
        Self { path: path.into(), lock: None }
    }

    fn lock(path: &Path) -> Result<Self> {
        match wrn_sam_files::try_lock(path.join(LOCK))? {
            Some(lock) => Ok(Self { path: path.into(), lock: Some(lock) }),
            None => Err(Error::FolderInUse { path: path.into() }),
        }
    }

    /// Writes `recipe.toml`.
    pub(crate) fn write_recipe(&self, recipe: &Recipe) -> Result<()> {
        let text = recipe.to_toml()?;
        Ok(wrn_sam_files::write(self.file("recipe.toml"), |file| {
            write!(file, "# Every value in force in this run.\n{text}")
        })?)
    }

    /// The recipe in `recipe.toml`; `None` where there is no such file.
    pub(crate) fn recipe(&self) -> Result<Option<Recipe>> {
        let path = self.file("recipe.toml");
        if path.is_file() { Recipe::from_toml_file(&path).map(Some) } else { Ok(None) }
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
        self.file("checkpoints")
    }

    /// Refuses a folder with results of training, which a run from the start would overwrite.
    ///
    /// # Errors
    /// [`Error::CheckpointsMissing`].
    pub(crate) fn check_untrained(&self) -> Result<()> {
        let held = |found: String| Err(Error::CheckpointsMissing { folder: self.path.clone(), found });
        for name in ["model.safetensors", "best.safetensors"] {
            if self.file(name).exists() {
                return held(name.into());
            }
        }
        // What is no table of this program's may be somebody's work all the same.
        match metrics::read(&self.file("metrics.csv")) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Ok(rows) if rows.is_empty() => Ok(()),
            Ok(rows) => held(format!("metrics.csv with the rows of {} epochs", rows.len())),
            Err(_) => held("metrics.csv".into()),
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // While the lock is held: whoever waits for the file then sees that it is gone, and makes another.
        if self.lock.is_some() {
            let _ = std::fs::remove_file(self.path.join(LOCK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(path: &Path) -> RunFolder {
        let folder = RunFolder::create(path).unwrap();
        folder.write_recipe(&Recipe::quick()).unwrap();
        folder
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let held = create(folder.path());
        let error = RunFolder::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::FolderInUse { .. }), "{error}");
        drop(held);
        assert_eq!(RunFolder::open(folder.path()).unwrap().recipe().unwrap(), Some(Recipe::quick()));
    }

    #[test]
    fn leftovers_are_removed_when_a_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        drop(create(folder.path()));
        let checkpoints = folder.path().join("checkpoints");
        std::fs::create_dir(&checkpoints).unwrap();
        for folder in [folder.path(), &checkpoints] {
            std::fs::write(folder.join(".wrn-sam.AbCd1234.partial"), "half").unwrap();
        }
        drop(RunFolder::open(folder.path()).unwrap());
        assert_eq!(std::fs::read_dir(&checkpoints).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let error = RunFolder::create(folder.path()).unwrap_err().to_string();
        assert!(error.contains("notes.txt") && error.contains("not empty"), "{error}");
        assert!(matches!(RunFolder::open(folder.path()), Err(Error::NotARun { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        let file = folder.path().join("notes.txt");
        assert!(check_new_folder(&file).is_err());
        check_new_folder(&folder.path().join("new")).unwrap();
        let error = RunFolder::create(&file.join("run")).unwrap_err().to_string();
        assert!(error.starts_with("cannot create the folder"), "{error}");
    }

    #[test]
    fn results_without_a_checkpoint_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let run = create(folder.path());
        run.check_untrained().unwrap();
        metrics::write(&run.file("metrics.csv"), metrics::EvalSplit::Test, &[]).unwrap();
        run.check_untrained().unwrap();
        let row = metrics::EpochMetrics::from_csv("1,0.1,4,0.01,4,0.02,0.05,1,100,1").unwrap();
        metrics::write(&run.file("metrics.csv"), metrics::EvalSplit::Test, &[row]).unwrap();
        assert!(run.check_untrained().unwrap_err().to_string().contains("the rows of 1 epochs"));
        std::fs::write(run.file("metrics.csv"), "mine").unwrap();
        assert!(run.check_untrained().unwrap_err().to_string().contains("holds metrics.csv"));
        std::fs::remove_file(run.file("metrics.csv")).unwrap();
        std::fs::write(run.file("best.safetensors"), "").unwrap();
        assert!(run.check_untrained().unwrap_err().to_string().contains("best.safetensors"));
    }
}
