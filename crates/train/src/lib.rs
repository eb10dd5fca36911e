#![forbid(unsafe_code)]
#![deny(missing_docs)]
//! Training Wide ResNets with Sharpness-Aware Minimization: the loop around the parts.
//!
//! [`step`] is the method itself, in one function. [`evaluate`] measures a network. A [`Recipe`] holds every
//! hyper-parameter, and a [`Trainer`] turns a recipe and images into a folder of results:
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path().join("run");
//! use wrn_sam_data::Dataset;
//! use wrn_sam_train::{Recipe, Trainer, metrics};
//!
//! let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1\nepochs = 1\nbatch_size = 32")?;
//! let data = Dataset::synthetic(recipe.seed, 64, 32);
//! let _ = Trainer::new(recipe, data).run(&out)?;
//! let rows = metrics::read(&out.join("metrics.csv"))?;
//! assert!(rows[0].train_loss.is_finite());
//! # Ok::<(), wrn_sam_train::Error>(())
//! ```
//!
//! The way of a run: [`Recipe`] → [`Trainer`] → (for each epoch: [`step`] after [`step`], then an evaluation) → a row
//! of [`EpochMetrics`], the curves of [`report`], weights, and now and then a [`checkpoint`] from which the run can be
//! resumed to the same end. An [`Observer`] is told of each.

mod answers;
mod card;
pub mod checkpoint;
mod classifier;
mod confusion;
mod control;
mod error;
mod evaluate;
mod fingerprint;
mod lengthen;
mod logs;
pub mod metrics;
mod micro_batches;
mod observer;
mod page;
mod provenance;
mod recipe;
pub mod report;
mod results;
mod run_folder;
mod run_source;
mod session;
mod step;
mod tally;
mod together;
mod trainer;

pub use classifier::Classifier;
pub use confusion::Confusion;
pub use control::Control;
pub use error::{Error, Result};
pub use evaluate::evaluate;
pub use lengthen::Lengthening;
pub use metrics::{EpochMetrics, EvalSplit, FinalTest};
pub use micro_batches::{MicroBatch, step_micro_batches};
pub use observer::{EvaluateProgress, Observer, Resumed, Start, StepProgress, Warning};
pub use provenance::Provenance;
pub use recipe::{
    Ascent, Augment, DataChoice, Difference, Exchange, Method, Perturb, Recipe, RhoSchedule, ScheduleKind,
};
pub use run_folder::check_new_folder;
pub use run_source::{InitialWeights, Lengthened, RunSource, SourceFile};
pub use step::{StepOutcome, step};
pub use tally::{Meter, Tally};
pub use trainer::{Outcome, Setup, Trainer};
