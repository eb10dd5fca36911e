//! The events of a run, and who is told of them.

use std::fmt;
use std::path::Path;

use wrn_sam_data::{Loader, Source};

use crate::error::Error;
use crate::metrics::{EpochMetrics, EvalSplit, FinalTest};
use crate::recipe::Recipe;

/// Is told how a run goes, on the thread that trains; every method does nothing unless written.
///
/// ```
/// use wrn_sam_train::{EpochMetrics, Observer};
///
/// struct Lines;
///
/// impl Observer for Lines {
///     fn on_epoch(&mut self, row: &EpochMetrics) {
///         println!("epoch {}: top-1 {:.4}", row.epoch, row.eval_top1);
///     }
/// }
/// ```
pub trait Observer {
    /// Training begins, or a run is resumed.
    fn on_start(&mut self, _start: &Start<'_>) {}
    /// A step was taken. A GPU is not waited for after every step: there it is every 50th, and the last of an epoch.
    fn on_step(&mut self, _step: &StepProgress) {}
    /// A batch was measured, of the validation or the test images.
    fn on_evaluate(&mut self, _progress: &EvaluateProgress) {}
    /// An epoch has ended and its row is in metrics.csv.
    fn on_epoch(&mut self, _metrics: &EpochMetrics) {}
    /// All epochs have ended, and weights were measured on the test images.
    fn on_test(&mut self, _test: &FinalTest) {}
    /// A checkpoint was written.
    fn on_checkpoint(&mut self, _path: &Path) {}
    /// Something is not as it should be, but the run continues.
    fn on_warning(&mut self, _warning: &Warning) {}
}

/// Ignores every event.
impl Observer for () {}

impl<T: Observer + ?Sized> Observer for &mut T {
    fn on_start(&mut self, start: &Start<'_>) {
        (**self).on_start(start);
    }
    fn on_step(&mut self, step: &StepProgress) {
        (**self).on_step(step);
    }
    fn on_evaluate(&mut self, progress: &EvaluateProgress) {
        (**self).on_evaluate(progress);
    }
    fn on_epoch(&mut self, metrics: &EpochMetrics) {
        (**self).on_epoch(metrics);
    }
    fn on_test(&mut self, test: &FinalTest) {
        (**self).on_test(test);
    }
    fn on_checkpoint(&mut self, path: &Path) {
        (**self).on_checkpoint(path);
    }
    fn on_warning(&mut self, warning: &Warning) {
        (**self).on_warning(warning);
    }
}

/// A run as it begins or is resumed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Start<'a> {
    /// Every value in force.
    pub recipe: &'a Recipe,
    /// Where the images come from.
    pub source: &'a Source,
    /// What makes the batches of the training images; it says where.
    pub loader: &'a Loader,
    /// The run's folder.
    pub folder: &'a Path,
    /// Trainable values of the network.
    pub parameters: usize,
    /// Training images.
    pub train_images: usize,
    /// Images held out of the training images.
    pub validation_images: usize,
    /// Test images.
    pub test_images: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// The checkpoint, if the run is resumed from one.
    pub resumed: Option<Resumed<'a>>,
}

/// Where a run is resumed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumed<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Path,
    /// Epochs that had ended.
    pub epoch: usize,
    /// Steps taken of the next one.
    pub step: usize,
    /// Newer checkpoints that could not be read, newest first.
    pub skipped: &'a [Error],
}

/// A run after a step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepProgress {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// The step within the epoch, from 1.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// The learning rate of the epoch.
    pub learning_rate: f64,
    /// Mean loss of the images since the observer was last told of a step.
    pub step_loss: f64,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Top-1 accuracy of the epoch so far, in [0, 1].
    pub top1: f64,
    /// The norm of the step's first gradient.
    pub grad_norm: f64,
    /// Training images per second, over the epoch so far.
    pub images_per_second: f64,
}

/// An evaluation after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvaluateProgress {
    /// The epoch it follows, from 1.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Which images are measured.
    pub split: EvalSplit,
    /// Images measured.
    pub images: usize,
    /// Images in all.
    pub total: usize,
}

/// Something that a user should know of. `Display` puts it in words.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// The images have the form of a published data set, but are not the published ones.
    UnknownImages {
        /// Where they come from, in words.
        source: String,
    },
    /// The longer schedule would have had other learning rates in epochs that were trained already.
    PastRatesKept {
        /// The first such epoch, from 1.
        epoch: usize,
        /// The rate it was trained with.
        found: f64,
        /// The rate that the longer schedule has.
        expected: f64,
    },
    /// best.safetensors was removed, and no checkpoint has those weights.
    BestWeightsLost {
        /// The epoch that they were from, from 1.
        epoch: usize,
    },
    /// The last epoch's loss is far above that of a network that knows nothing: training has diverged, although its
    /// weights are finite.
    LossAboveGuess {
        /// The mean loss of the training images.
        loss: f64,
        /// The cross entropy of a network that finds all classes equally likely.
        guess: f64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownImages { source } => {
                write!(f, "these are not the published images and labels, or were changed: {source}")
            }
            Self::PastRatesKept { epoch, found, expected } => write!(
                f,
                "epoch {epoch} was trained with the learning rate {found}, where the longer schedule has {expected}: \
                 the result is not that of a run which had this length from its start"
            ),
            Self::BestWeightsLost { epoch } => {
                write!(f, "best.safetensors is gone, and no checkpoint has the weights after epoch {epoch}")
            }
            Self::LossAboveGuess { loss, guess } => write!(
                f,
                "training has diverged: its loss is {loss:.3e}, where a network that guesses has {guess:.2}"
            ),
        }
    }
}
