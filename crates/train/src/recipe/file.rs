//! A recipe as TOML: read, written, and compared key by key.

use std::fmt;
use std::path::Path;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::recipe::Recipe;

impl Recipe {
    /// Reads and validates a recipe; what `text` leaves out has the reference's value.
    ///
    /// # Errors
    /// [`Error::Toml`] for a syntax error, an unknown key or a wrong type; [`Error::OutOfRange`] for a value out
    /// of range.
    pub fn from_toml(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text)
            .map_err(|error| Error::Toml { message: error.to_string().trim_end().into() })?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// [`Recipe::from_toml`] of a file.
    ///
    /// # Errors
    /// Those of [`Recipe::from_toml`] with the path, and [`Error::Io`].
    pub fn from_toml_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::from_toml(&text)
            .map_err(|source| Error::RecipeFile { path: path.into(), source: source.into() })
    }

    /// The recipe of the run in `folder`, to resume it with: from `recipe.toml`, or from the newest checkpoint where that
    /// file was removed.
    ///
    /// # Errors
    /// [`Error::NotARun`] where there is neither; those of [`Recipe::from_toml_file`] and [`checkpoint::newest`].
    pub fn from_run(folder: &Path) -> Result<Self> {
        let path = folder.join("recipe.toml");
        if path.is_file() {
            return Self::from_toml_file(&path);
        }
        match checkpoint::newest(&folder.join("checkpoints"))? {
            Some(newest) => Self::from_toml(&newest.checkpoint.progress.recipe),
            None => Err(Error::NotARun { path: folder.into() }),
        }
    }

    /// The recipe as TOML, every key in it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a value out of range, so that what is written can always be read.
    pub fn to_toml(&self) -> Result<String> {
        self.validate()?;
        toml::to_string(self).map_err(|error| Error::Toml { message: error.to_string() })
    }

    /// Every key in which the two recipes differ and a run's results with them: all but `threads` and
    /// `checkpoint_every`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if either recipe is invalid.
    pub fn differences(&self, other: &Self) -> Result<Vec<Difference>> {
        let (ours, theirs) = (self.results_only()?, other.results_only()?);
        let differs = |(key, value): &(&String, &toml::Value)| theirs.get(*key) != Some(*value);
        let difference = |(key, value): (&String, &toml::Value)| Difference {
            key: key.clone(),
            ours: value.to_string(),
            theirs: theirs.get(key).map(toml::Value::to_string).unwrap_or_default(),
        };
        Ok(ours.iter().filter(differs).map(difference).collect())
    }

    /// The keys that a run's results depend on, as a table.
    pub(crate) fn results_only(&self) -> Result<toml::Table> {
        self.validate()?;
        let table =
            toml::Table::try_from(self).map_err(|error| Error::Toml { message: error.to_string() })?;
        let changes_results = |key: &String| !["threads", "checkpoint_every"].contains(&key.as_str());
        Ok(table.into_iter().filter(|(key, _)| changes_results(key)).collect())
    }
}

/// One key in which two recipes differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// The value asked for.
    pub ours: String,
    /// The value found in the run.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is {} here but {} there", self.key, self.ours, self.theirs)
    }
}
