//! The results of a run in its folder: metrics.csv, the curves, and the weights.

use std::path::{Path, PathBuf};

use candle_core::Tensor;

use crate::checkpoint::Progress;
use crate::error::Result;
use crate::metrics::EvalSplit;
use crate::provenance::Provenance;
use crate::{metrics, report};

/// The network's parameters and buffers by name.
pub(crate) type State = Vec<(String, Tensor)>;

const METRICS: &str = "metrics.csv";
const MODEL: &str = "model.safetensors";
const BEST: &str = "best.safetensors";

#[derive(Debug)]
pub(crate) struct Results {
    folder: PathBuf,
    provenance: Provenance,
    /// Epochs whose results were in the folder already. Nothing there is replaced by the results of less training.
    kept: usize,
    /// The best weights, while a file of more training is in their place.
    best: Option<(Provenance, State)>,
}

impl Results {
    /// For a run in `folder`, new or resumed.
    pub(crate) fn new(folder: &Path, provenance: Provenance) -> Self {
        let rows = metrics::read(&folder.join(METRICS)).map_or(0, |rows| rows.len());
        let weights = [MODEL, BEST].map(|name| Provenance::from_weights(&folder.join(name)));
        let epochs = weights.into_iter().filter_map(|read| Some(read.ok()??.epoch));
        let kept = epochs.fold(rows, usize::max);
        Self { folder: folder.into(), provenance, kept, best: None }
    }

    /// Writes what the epoch that has ended leaves: `progress` has its row, `state` the weights after it.
    pub(crate) fn write(&mut self, progress: &Progress, state: &State, last: bool) -> Result<()> {
        let provenance = self.provenance_after(progress);
        let epoch = progress.rows.len();
        if progress.best.is_some_and(|best| best.epoch == epoch) {
            self.best = Some((provenance.clone(), state.clone()));
        }
        if epoch < self.kept && !last {
            tracing::info!(epoch, kept = self.kept, "the folder has the results of later epochs, which stay");
            return Ok(());
        }
        if let Some((provenance, state)) = self.best.take() {
            provenance.write_weights(&self.folder.join(BEST), &state)?;
        }
        provenance.write_weights(&self.folder.join(MODEL), state)?;
        metrics::write(&self.folder.join(METRICS), self.split(), &progress.rows)?;
        self.draw(progress)
    }

    /// Writes the files that somebody has removed, as far as the checkpoint has their content. Returns the epoch of the
    /// best weights if those cannot be had again.
    pub(crate) fn write_missing(&self, progress: &Progress, state: &State) -> Result<Option<usize>> {
        let missing = |name: &str| !self.folder.join(name).exists();
        let (epoch, provenance) = (progress.rows.len(), self.provenance_after(progress));
        if epoch == 0 {
            return Ok(None);
        }
        if missing(METRICS) {
            metrics::write(&self.folder.join(METRICS), self.split(), &progress.rows)?;
        }
        if report::FILES.iter().any(|name| missing(name)) {
            self.draw(progress)?;
        }
        if progress.step == 0 && missing(MODEL) {
            provenance.write_weights(&self.folder.join(MODEL), state)?;
        }
        match progress.best {
            Some(best) if missing(BEST) && best.epoch == epoch && progress.step == 0 => {
                provenance.write_weights(&self.folder.join(BEST), state)?;
                Ok(None)
            }
            Some(best) if missing(BEST) => Ok(Some(best.epoch)),
            _ => Ok(None),
        }
    }

    /// What is said of weights that are from `epoch` and were measured on the test images only.
    pub(crate) fn provenance_of(&self, epoch: usize, test_top1: f64) -> Provenance {
        Provenance { epoch, test_top1: Some(test_top1), validation_top1: None, ..self.provenance.clone() }
    }

    /// What was trained on what, for titles.
    pub(crate) fn subject(&self) -> String {
        self.provenance.subject()
    }

    fn split(&self) -> EvalSplit {
        self.provenance.recipe.eval_split()
    }

    fn provenance_after(&self, progress: &Progress) -> Provenance {
        let top1 = progress.rows.last().map(|row| row.eval_top1);
        let mut provenance = Provenance { epoch: progress.rows.len(), ..self.provenance.clone() };
        match self.split() {
            EvalSplit::Test => provenance.test_top1 = top1,
            EvalSplit::Validation => provenance.validation_top1 = top1,
        }
        provenance
    }

    fn draw(&self, progress: &Progress) -> Result<()> {
        report::draw(&self.folder, &self.subject(), self.split(), &progress.rows)
    }
}
