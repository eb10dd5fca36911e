//! A run that is given more epochs than it had.

use std::path::Path;

use wrn_sam_kernels::OutOfRange;

use crate::checkpoint::Progress;
use crate::error::{Error, Result};
use crate::metrics::nine_digits;
use crate::observer::Warning;
use crate::recipe::Recipe;
use crate::run_source::Lengthened;
use crate::trainer::Run;

/// What [`Trainer::resume`](crate::Trainer::resume) does where the recipe has more epochs than the run had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Lengthening {
    /// Continues only if every epoch trained so far had the learning rate that the longer schedule has for it: the run
    /// then ends as one that had this length from its start.
    #[default]
    Exact,
    /// Continues in any case. Epochs trained so far, and the rest of one that has begun, keep their learning rate; later
    /// epochs have that of the longer schedule. A [`Warning`] and the run's source.toml say so.
    KeepPastRates,
}

/// What is recorded and said where a run is lengthened.
#[derive(Debug, Default)]
pub(crate) struct Lengthen {
    pub(crate) record: Option<Lengthened>,
    pub(crate) warning: Option<Warning>,
}

/// Checks the recipe of `run` against that of its folder, written at `path`: the two may differ in `threads`, in
/// `checkpoint_every`, and, if `progress` allows it, by more epochs.
///
/// # Errors
/// [`Error::OtherRecipe`]; [`Error::CannotLengthen`]; [`Error::OutOfRange`] where an average of the last epochs has begun.
pub(crate) fn check(
    path: &Path,
    run: &Run<'_>,
    theirs: &Recipe,
    progress: Option<&Progress>,
) -> Result<Lengthen> {
    let differences = run.recipe.differences(theirs)?;
    let (from, to) = (theirs.epochs, run.recipe.epochs);
    if differences.iter().any(|difference| difference.key != "epochs") || to < from {
        return Err(Error::OtherRecipe { path: path.into(), differences });
    }
    let Some(progress) = progress.filter(|_| to > from) else { return Ok(Lengthen::default()) };
    // An average of the last epochs would have earlier ones in it.
    let averaging = theirs.swa_epochs > 0 && progress.epoch + theirs.swa_epochs > from;
    OutOfRange::check("epochs", to, !averaging, "what they were: the average of `swa_epochs` has begun")?;

    let begun = (progress.step > 0).then_some(progress.learning_rate);
    let rates = progress.rows.iter().map(|row| row.learning_rate).chain(begun);
    // As rows have them.
    let rates = rates
        .enumerate()
        .map(|(epoch, rate)| (epoch, nine_digits(rate), nine_digits(run.learning_rate(epoch))));
    let other = rates.into_iter().find(|(_, found, expected)| found != expected);
    let record = Lengthened { after: progress.epoch, from, to, exact: other.is_none() };
    let warning = match (other, run.lengthening) {
        (None, _) => None,
        (Some((epoch, found, expected)), Lengthening::Exact) => {
            return Err(Error::CannotLengthen { from, to, epoch: epoch + 1, found, expected });
        }
        (Some((epoch, found, expected)), Lengthening::KeepPastRates) => {
            Some(Warning::PastRatesKept { epoch: epoch + 1, found, expected })
        }
    };
    Ok(Lengthen { record: Some(record), warning })
}
