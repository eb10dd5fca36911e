//! A run: what it is made of, how it begins and how it goes on.

use std::path::{Path, PathBuf};

use candle_core::Device;
use wrn_sam_data::Cifar;

use crate::checkpoint;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::lengthen::{self, Lengthening};
use crate::metrics::EpochMetrics;
use crate::observer::Observer;
use crate::recipe::{DataChoice, Recipe};
use crate::run_folder::RunFolder;
use crate::session::Session;

/// Trains a network by a recipe and leaves all that came of it in a folder.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let out = folder.path().join("run");
/// use wrn_sam_data::Cifar;
/// use wrn_sam_train::{Outcome, Recipe, Trainer};
///
/// let recipe = Recipe { depth: 10, width_factor: 1, epochs: 1, batch_size: 32, ..Recipe::reference() };
/// let data = Cifar::synthetic(recipe.seed, 64, 32);
/// let outcome = Trainer::new(recipe, data).run(&out)?;
/// assert!(matches!(outcome, Outcome::Completed { metrics } if metrics.len() == 1));
/// assert!(out.join("model.safetensors").is_file());
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
///
/// The folder of a run:
///
/// ```text
/// recipe.toml                         every value in force, written first
/// source.toml                         where the images come from, with MD5 sums
/// metrics.csv                         a row an epoch, written anew each epoch
/// loss.svg top1.svg top5.svg          the curves, drawn anew each epoch
/// model.safetensors                   the weights after the last epoch, under PyTorch's names
/// best.safetensors                    those of the epoch with the best test top-1, the first of equals
/// checkpoints/epoch-EEEE-step-SSSSSS.safetensors
///                                     after E epochs and S steps of the next; the newest two are kept
/// ```
///
/// One seed fixes the weights, and every figure but the time, whatever the number of threads. A run that was
/// interrupted, or killed at any moment, ends the same when it is [resumed](Trainer::resume).
pub struct Trainer<'a> {
    pub(crate) recipe: Recipe,
    pub(crate) data: Cifar,
    pub(crate) device: Device,
    pub(crate) observer: Box<dyn Observer + 'a>,
    pub(crate) control: Control,
    pub(crate) initial_weights: Option<PathBuf>,
    pub(crate) lengthening: Lengthening,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum Outcome {
    /// All epochs were trained.
    Completed {
        /// One row an epoch.
        metrics: Vec<EpochMetrics>,
    },
    /// It was [stopped](Control::stop) and can be resumed.
    Interrupted {
        /// The checkpoint written for that.
        checkpoint: PathBuf,
    },
}

impl<'a> Trainer<'a> {
    /// Trains by `recipe` on `data`, on the CPU unless told otherwise.
    pub fn new(recipe: Recipe, data: Cifar) -> Self {
        Self {
            recipe,
            data,
            device: Device::Cpu,
            observer: Box::new(()),
            control: Control::default(),
            initial_weights: None,
            lengthening: Lengthening::default(),
        }
    }

    /// Trains on `device`.
    pub fn device(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Tells `observer` how the run goes.
    pub fn observer(self, observer: impl Observer + 'a) -> Self {
        Self { observer: Box::new(observer), ..self }
    }

    /// Does what `control` is asked for while the run goes on: stop, or write a checkpoint.
    #[must_use]
    pub fn with_control(self, control: Control) -> Self {
        Self { control, ..self }
    }

    /// Begins a run with the weights in the file `path`, of any kind that [`Parameters::load`](wrn_sam_models::Parameters::load) reads, rather than
    /// with those that the seed gives. The run's source.toml names the file.
    #[must_use]
    pub fn with_initial_weights(self, path: impl Into<PathBuf>) -> Self {
        Self { initial_weights: Some(path.into()), ..self }
    }

    /// Says what [`resume`](Self::resume) does where the recipe has more epochs than the run had.
    #[must_use]
    pub fn with_lengthening(self, lengthening: Lengthening) -> Self {
        Self { lengthening, ..self }
    }

    /// Begins a run in the folder `out`, which must be new or empty.
    ///
    /// # Errors
    /// Before training: [`Error::OutOfRange`], [`Error::UnsuitableData`], [`Error::FolderNotEmpty`], [`Error::Io`].
    /// While training: [`Error::Step`] where a gradient, the loss or a weight is no longer finite, and [`Error::Io`]; the
    /// run can then be resumed from its newest checkpoint.
    pub fn run(mut self, out: &Path) -> Result<Outcome> {
        self.settle_recipe()?;
        let folder = RunFolder::create(out)?;
        Session::begin(self, folder)?.train()
    }

    /// Goes on with the run in the folder `out` from its newest checkpoint that is whole, or from the start where
    /// nothing was trained yet.
    ///
    /// The recipe must be that of the run ([`Recipe::from_run`]); only `threads` and `checkpoint_every` may differ, and
    /// `epochs` may be more (see [`Lengthening`]). Results of epochs after the checkpoint stay until the run has come as
    /// far again; files that were removed from the folder are written again as far as the checkpoint has them.
    ///
    /// # Errors
    /// [`Error::NotARun`], [`Error::OtherRecipe`], [`Error::CannotLengthen`], [`Error::OtherData`],
    /// [`Error::NoUsableCheckpoint`], [`Error::CheckpointsMissing`], with every file as it was; those of
    /// [`run`](Self::run).
    pub fn resume(mut self, out: &Path) -> Result<Outcome> {
        self.settle_recipe()?;
        let folder = RunFolder::open(out)?;
        let newest = checkpoint::newest(&folder.checkpoints())?;
        if let Some(theirs) = folder.recipe()? {
            let (path, progress) =
                (folder.file("recipe.toml"), newest.as_ref().map(|n| &n.checkpoint.progress));
            let rates = self.recipe.learning_rates();
            lengthen::check(&path, &self.recipe, &theirs, progress, &*rates, self.lengthening)?;
        }
        let session = match newest {
            Some(newest) => Session::restore(self, folder, newest)?,
            None => {
                folder.check_untrained()?;
                Session::begin(self, folder)?
            }
        };
        session.train()
    }

    /// Checks recipe and data, and writes into the recipe what the data are.
    fn settle_recipe(&mut self) -> Result<()> {
        self.recipe.validate()?;
        self.recipe.check_device(&self.device)?;
        let found = DataChoice::of(&self.data.source);
        if ![DataChoice::Auto, found].contains(&self.recipe.data) {
            return Err(Error::UnsuitableData {
                what: "the recipe's `data` is not what was given to train on",
                found: format!("{found:?}"),
                expected: format!("{:?}", self.recipe.data),
            });
        }
        self.recipe.data = found;
        for (what, split) in [("the training split", &self.data.train), ("the test split", &self.data.test)] {
            if split.is_empty() {
                let expected = "at least one image".into();
                return Err(Error::UnsuitableData { what, found: "no images".into(), expected });
            }
        }
        Ok(())
    }
}
