//! Runs of a tiny network, and their folders.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use wrn_sam_data::Dataset;
use wrn_sam_train::{Observer, Outcome, Recipe, Trainer, Warning, metrics};

/// Four steps an epoch, the last of 4 images; a test split of 40, the last batch of 8.
pub fn recipe() -> Recipe {
    Recipe::reference().with(|recipe| {
        recipe.depth = 10;
        recipe.width_factor = 1;
        recipe.dropout = 0.1;
        recipe.train_limit = 100;
        recipe.epochs = 2;
        recipe.batch_size = 32;
        recipe.threads = 1;
        recipe.checkpoint_every = 1;
    })
}

pub fn data() -> Dataset {
    Dataset::synthetic(17, 120, 40)
}

pub fn trainer<'a>(recipe: &Recipe) -> Trainer<'a> {
    Trainer::new(recipe.clone(), data())
}

/// Everything a run ends in but the time.
#[derive(PartialEq)]
pub struct End {
    pub metrics: Vec<String>,
    pub model: Vec<u8>,
    pub best: Vec<u8>,
}

impl End {
    pub fn of(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("metrics.csv")).unwrap();
        let without_time = |line: &str| line.split(',').take(7).collect::<Vec<_>>().join(",");
        let read = |name| std::fs::read(folder.join(name)).unwrap();
        Self {
            metrics: text.lines().map(without_time).collect(),
            model: read("model.safetensors"),
            best: read("best.safetensors"),
        }
    }

    pub fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!(self.metrics, other.metrics, "{what}");
        assert!(self.model == other.model, "{what}: other weights at the end");
        assert!(self.best == other.best, "{what}: other best weights");
    }
}

/// A copy of the run that all others are held against.
pub fn whole_run() -> (TempDir, PathBuf, End) {
    static WHOLE: OnceLock<TempDir> = OnceLock::new();
    let whole = WHOLE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let outcome = trainer(&recipe()).run(&folder.path().join("whole")).unwrap();
        assert!(matches!(outcome, Outcome::Completed { metrics, .. } if metrics.len() == 2));
        folder
    });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("whole");
    copy_folder(&whole.path().join("whole"), &out);
    let end = End::of(&out);
    (folder, out, end)
}

pub fn checkpoints(out: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies results at the moments when files of less training could take their place.
pub struct Watch<'a> {
    pub out: &'a Path,
    pub models: Vec<Vec<u8>>,
    pub warnings: Vec<Warning>,
}

impl<'a> Watch<'a> {
    pub fn new(out: &'a Path) -> Self {
        Self { out, models: Vec::new(), warnings: Vec::new() }
    }
}

impl Observer for Watch<'_> {
    fn on_epoch(&mut self, _: &metrics::EpochMetrics) {
        self.models.push(std::fs::read(self.out.join("model.safetensors")).unwrap());
    }
    fn on_warning(&mut self, warning: &Warning) {
        self.warnings.push(warning.clone());
    }
}
