//! Requests to a run under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests to a run from another thread, such as one that receives signals. Clones share the requests.
///
/// The run looks for requests between two steps, and between two batches of an evaluation.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let out = folder.path().join("run");
/// use wrn_sam_data::Dataset;
/// use wrn_sam_train::{Control, Outcome, Recipe, Trainer};
///
/// let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1\nepochs = 1\nbatch_size = 32")?;
/// let data = Dataset::synthetic(recipe.seed, 64, 32);
/// let control = Control::default();
/// control.stop(); // before the first step
/// let outcome = Trainer::new(recipe, data).with_control(control).run(&out)?;
/// assert!(matches!(outcome, Outcome::Interrupted { checkpoint } if checkpoint.is_file()));
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Control {
    requests: Arc<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    stop: AtomicBool,
    checkpoint: AtomicBool,
}

impl Control {
    /// Asks the run to write a checkpoint and return [`Outcome::Interrupted`](crate::Outcome::Interrupted). This
    /// request stays.
    pub fn stop(&self) {
        self.requests.stop.store(true, Ordering::Relaxed);
    }

    /// Asks the run to write a checkpoint and continue. Requests that the run has not seen yet count as one.
    pub fn request_checkpoint(&self) {
        self.requests.checkpoint.store(true, Ordering::Relaxed);
    }

    /// Whether the run was asked to stop.
    pub(crate) fn stops(&self) -> bool {
        self.requests.stop.load(Ordering::Relaxed)
    }

    /// Whether a checkpoint was asked for since the last call.
    pub(crate) fn take_checkpoint(&self) -> bool {
        self.requests.checkpoint.swap(false, Ordering::Relaxed)
    }
}
