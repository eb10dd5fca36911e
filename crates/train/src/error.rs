//! What can go wrong in a run, and what the user can do about it.

use std::path::PathBuf;

use crate::recipe::Difference;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a recipe was refused, or a run could not start, continue or be resumed.
///
/// None of these leaves a run's folder worse than it was: files are replaced whole or not at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of the recipe is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] wrn_sam_kernels::OutOfRange),

    /// A recipe is not the TOML of a [`Recipe`](crate::Recipe): a syntax error, an unknown key or a wrong type.
    #[error("not a recipe: {message}")]
    Toml {
        /// What the TOML reader said, with line and column.
        message: String,
    },

    /// A recipe file was refused.
    #[error("recipe {}: {source}", path.display())]
    RecipeFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<Error>,
    },

    /// The data handed to the trainer cannot be trained on.
    #[error("{what}; found {found}, expected {expected}")]
    UnsuitableData {
        /// What about the data is wrong.
        what: &'static str,
        /// What was found.
        found: String,
        /// What is needed.
        expected: String,
    },

    /// A new run was asked for in a folder that already holds something.
    #[error(
        "the folder {} is not empty (it holds {entry}) and nothing in it is overwritten: choose a new folder, or \
         resume the run in it",
        path.display()
    )]
    FolderNotEmpty {
        /// The folder.
        path: PathBuf,
        /// One thing found in it.
        entry: String,
    },

    /// A folder to resume holds no run.
    #[error("{} holds no run to resume: there is neither a recipe.toml nor a checkpoint in it", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },

    /// Another process trains in this folder.
    #[error("another process is training in {}: wait for it to end, or stop it first", path.display())]
    FolderInUse {
        /// The folder.
        path: PathBuf,
    },

    /// The folder's run had another recipe than the one to resume it with.
    #[error(
        "{} was trained with another recipe and cannot be resumed with this one: {}",
        path.display(),
        differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
    )]
    OtherRecipe {
        /// The recipe or checkpoint that differs.
        path: PathBuf,
        /// Every key that differs, with both values.
        differences: Vec<Difference>,
    },

    /// A checkpoint was written while training on other images.
    #[error(
        "{} was written while training on other images (fingerprint {found}) than those given now (fingerprint \
         {expected}): resume with the data set the run began with",
        path.display()
    )]
    OtherData {
        /// The checkpoint.
        path: PathBuf,
        /// The fingerprint of the images in the checkpoint.
        found: String,
        /// The fingerprint of the images given.
        expected: String,
    },

    /// A checkpoint is damaged, cut short or not a checkpoint.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A run has checkpoints, but none of them can be read.
    #[error(
        "no checkpoint in {} can be used: {}. Nothing was changed. Put back a copy of one of them, or remove them \
         all to start the run again from its recipe",
        folder.display(),
        failures.iter().map(|failure| failure.to_string()).collect::<Vec<_>>().join("; ")
    )]
    NoUsableCheckpoint {
        /// The folder of the checkpoints.
        folder: PathBuf,
        /// What is wrong with each, newest first.
        failures: Vec<Error>,
    },

    /// A run has results, but its checkpoints are gone.
    #[error(
        "{} holds {found}, but no checkpoint to resume from. To train again from the start would overwrite it. \
         Nothing was changed. Put the checkpoints back, or start a new run in another folder",
        folder.display()
    )]
    CheckpointsMissing {
        /// The folder of the run.
        folder: PathBuf,
        /// What it holds.
        found: String,
    },

    /// A run cannot be lengthened: with more epochs, those already trained would have had another learning rate.
    #[error(
        "the run cannot be lengthened from {from} to {to} epochs as if it had always been that long: epoch {epoch} \
         was trained with the learning rate {found}, and the schedule of {to} epochs has {expected} there. Nothing was \
         changed. Start a new run, or ask for `Lengthening::KeepPastRates`: past epochs then count as they were"
    )]
    CannotLengthen {
        /// The epochs of the run.
        from: usize,
        /// The epochs asked for.
        to: usize,
        /// The first epoch whose rate differs, from 1.
        epoch: usize,
        /// The rate it was trained with.
        found: f64,
        /// The rate that the longer schedule has.
        expected: f64,
    },

    /// The weights that a run began with are no longer the same file.
    #[error(
        "{} is not the file that the run began with: its MD5 is {found}, expected {expected}. Nothing was changed",
        path.display()
    )]
    OtherWeights {
        /// The file of weights.
        path: PathBuf,
        /// The MD5 of the file now.
        found: String,
        /// The MD5 written in the run's source.toml.
        expected: String,
    },

    /// Training has diverged without a gradient that is not finite.
    #[error(
        "training has diverged: {what} is infinite or NaN (learning rate {learning_rate}, rho {rho}). Nothing of \
         that was saved: files and checkpoints are those from before"
    )]
    Diverged {
        /// The parameter or figure.
        what: String,
        /// The learning rate of the epoch.
        learning_rate: f64,
        /// The radius of SAM's neighborhood.
        rho: f64,
    },

    /// Something that was to be counted, or read as metrics, is nothing of the kind.
    #[error("metrics {what}: found `{found}`, expected {expected}")]
    Metrics {
        /// Where: a batch, a row or the header.
        what: String,
        /// What was found.
        found: String,
        /// What should stand there.
        expected: String,
    },

    /// A step failed: most often training diverged and its gradients are no longer finite. (On a GPU that is found a few
    /// steps later; the weights are those from before them.)
    #[error("epoch {epoch}, step {step}: {source}")]
    Step {
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 1.
        step: usize,
        /// What failed.
        source: Box<Error>,
    },

    /// A rank was started with another program, recipe or data set than rank 0. Nothing was trained.
    #[error("rank {rank} has {found}, and rank 0 has {expected}: start all ranks alike")]
    OtherRank {
        /// The rank.
        rank: usize,
        /// What it has.
        found: String,
        /// What rank 0 has.
        expected: String,
    },

    /// The ranks no longer have the same weights, buffers and optimizer state. No checkpoint was written.
    #[error(
        "rank {} has other weights, buffers or optimizer state than most ranks after {step}: its processor or memory \
         may be faulty, or its machine computes differently. Resume from the last checkpoint without it",
        ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
    )]
    Drifted {
        /// The ranks that differ.
        ranks: Vec<usize>,
        /// Where in the run.
        step: String,
    },

    /// The ranks did not take each image of an epoch once.
    #[error(
        "the ranks did not take every image of epoch {epoch} once (fingerprint {found:016x}, expected \
         {expected:016x}): a fault of this program, please report it"
    )]
    ImagesNotOnce {
        /// The epoch, from 1.
        epoch: usize,
        /// The fingerprint of the images taken.
        found: u64,
        /// The fingerprint of the epoch's images.
        expected: u64,
    },

    /// The ranks of a run cannot reach each other, or one of them has stopped.
    #[error(transparent)]
    Collective(#[from] wrn_sam_collective::Error),

    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// An error of the data.
    #[error(transparent)]
    Data(#[from] wrn_sam_data::Error),

    /// An error of the network.
    #[error(transparent)]
    Models(#[from] wrn_sam_models::Error),

    /// An error of the loss.
    #[error(transparent)]
    Losses(#[from] wrn_sam_losses::Error),

    /// An error of the optimizer.
    #[error(transparent)]
    Optim(#[from] wrn_sam_optim::Error),

    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// An error of a kernel.
    #[error(transparent)]
    Kernels(#[from] wrn_sam_kernels::Error),
}

impl From<wrn_sam_files::Error> for Error {
    fn from(error: wrn_sam_files::Error) -> Self {
        let wrn_sam_files::Error { action, path, source, .. } = error;
        Self::Io { action, path, source }
    }
}

impl Error {
    /// For `map_err`: an input or output error on `path`, while trying to `action` ("read", "write", …).
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
