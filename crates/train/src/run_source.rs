//! Where a run's images and first weights come from: source.toml.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wrn_sam_data::{Origin, Source};

use crate::error::{Error, Result};

/// What `source.toml` in a run's folder says: where its images came from, and its first weights if they were given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunSource {
    /// Where the images came from, in words.
    pub source: String,
    /// Whether they are generated.
    pub synthetic: bool,
    /// Whether they are the published ones.
    pub known: bool,
    /// Whether they came from the Hugging Face hub.
    pub hub: bool,
    /// The folder or archive that they were read from, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<PathBuf>,
    /// The MD5 of all images and labels, as 32 hexadecimal digits.
    pub images_md5: String,
    /// The file of weights that the run began with, if it was given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<InitialWeights>,
    /// Each time that the run was given more epochs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengthened: Vec<Lengthened>,
    /// Every file that the images were read from.
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SourceFile>,
}

/// The weights that a run began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InitialWeights {
    /// The file.
    pub path: PathBuf,
    /// Its MD5, as 32 hexadecimal digits.
    pub md5: String,
}

/// A run that was given more epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lengthened {
    /// Epochs that had ended.
    pub after: usize,
    /// Epochs of the run before.
    pub from: usize,
    /// Epochs of the run since.
    pub to: usize,
    /// Whether the past epochs had the learning rates that a run of the new length has from its start.
    pub exact: bool,
}

/// A file that images were read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its MD5, as 32 hexadecimal digits.
    pub md5: String,
}

const FILE: &str = "source.toml";

impl RunSource {
    pub(crate) fn new(source: &Source, images_md5: &str) -> Self {
        let files = source.files.iter();
        Self {
            source: source.to_string(),
            synthetic: source.is_synthetic(),
            known: source.known,
            hub: matches!(source.origin, Origin::Hub { .. }),
            location: source.location(),
            images_md5: images_md5.into(),
            initial_weights: None,
            lengthened: Vec::new(),
            files: files
                .map(|file| SourceFile { name: file.name.clone(), bytes: file.bytes, md5: file.md5.clone() })
                .collect(),
        }
    }

    /// The source of the run in `folder`; `None` where there is no `source.toml`.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let out = folder.path().join("run");
    /// # use wrn_sam_data::Dataset;
    /// # use wrn_sam_train::{Recipe, RunSource, Trainer};
    /// # let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1\nepochs = 1\nbatch_size = 32")?;
    /// # let _ = Trainer::new(recipe, Dataset::synthetic(17, 64, 32)).run(&out)?;
    /// let source = RunSource::from_run(&out)?.expect("a run that has begun");
    /// assert!(source.synthetic && source.location.is_none());
    /// # Ok::<(), wrn_sam_train::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Toml`] for a file of another form.
    pub fn from_run(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
            Ok(text) => toml::from_str(&text)
                .map(Some)
                .map_err(|error| Error::Toml { message: format!("{}: {error}", path.display()) }),
        }
    }

    /// Writes `source.toml`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let toml = toml::to_string(self).map_err(|error| Error::Toml { message: error.to_string() })?;
        let text =
            format!("# Where this run's images come from, and its first weights if they were given.\n{toml}");
        Ok(wrn_sam_files::write(folder.join(FILE), |file| file.write_all(text.as_bytes()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(RunSource::from_run(folder.path()).unwrap(), None);
        let mut cifar = wrn_sam_data::Dataset::synthetic(3, 1, 1).source;
        cifar.files =
            vec![wrn_sam_data::FileChecksum { name: "train.bin".into(), bytes: 5, md5: "ab".into() }];
        let mut source = RunSource::new(&cifar, "cd");
        source.location = Some("/data/it's".into());
        source.initial_weights = Some(InitialWeights { path: "w.safetensors".into(), md5: "ef".into() });
        source.lengthened = vec![Lengthened { after: 4, from: 4, to: 8, exact: false }];
        source.write(folder.path()).unwrap();
        assert_eq!(RunSource::from_run(folder.path()).unwrap(), Some(source));
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        for line in [
            "source = \"synthetic images of seed 3 (not CIFAR-100)\"",
            "[[file]]\nname = \"train.bin\"\nbytes = 5\nmd5 = \"ab\"",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        std::fs::write(folder.path().join(FILE), "source = 5").unwrap();
        assert!(RunSource::from_run(folder.path()).unwrap_err().to_string().contains("source.toml"));
    }
}
