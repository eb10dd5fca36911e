//! The average of a run's weights: taken as the run goes, measured and saved at its end.

use std::num::NonZeroU32;

use candle_nn::Optimizer;
use wrn_sam_kernels::Cpu;
use wrn_sam_models::{Mode, Parameters};
use wrn_sam_optim::{OptimizerState, Variables, WeightAverage};

use super::Session;
use crate::classifier::Classifier;
use crate::error::Result;
use crate::metrics::FinalTest;
use crate::recipe::Recipe;

/// The average that a recipe asks for, over the parameters and buffers.
pub(super) fn of(recipe: &Recipe, parameters: &Parameters, cpu: &Cpu) -> Result<Option<WeightAverage>> {
    let named = || parameters.named().into_iter().map(|(name, _, var)| (name, var)).collect();
    let average = match (recipe.ema > 0.0, recipe.swa_epochs > 0) {
        (true, _) => WeightAverage::ema(named(), recipe.ema)?,
        (_, true) => WeightAverage::swa(named())?,
        _ => return Ok(None),
    };
    Ok(Some(average.with_cpu(cpu.clone())))
}

impl<M: Classifier, O: Optimizer + OptimizerState + Variables> Session<'_, M, O> {
    /// What an average takes from a step.
    pub(super) fn average_step(&mut self) -> Result<()> {
        match &mut self.average {
            Some(average) if self.run.recipe.ema > 0.0 => Ok(average.update()?),
            _ => Ok(()),
        }
    }

    /// What an average takes from the epoch, counted from 0, whose steps are taken.
    pub(super) fn average_epoch(&mut self, epoch: usize) -> Result<()> {
        let swa = self.run.recipe.swa_epochs;
        match &mut self.average {
            Some(average) if swa > 0 && epoch + swa >= self.run.recipe.epochs => Ok(average.update()?),
            _ => Ok(()),
        }
    }

    /// Measures the average on the test images and writes its weights; `Some(None)` if asked to stop, `None` without one.
    pub(super) fn finish_average(&mut self) -> Result<Option<Option<FinalTest>>> {
        let Some(mut average) = self.average.take().filter(|average| average.updates() > 0) else {
            return Ok(None);
        };
        let tested = average.swapped(|| self.test_average());
        self.average = Some(average);
        Ok(Some(tested??))
    }

    /// With the average in place of the weights.
    fn test_average(&mut self) -> Result<Option<FinalTest>> {
        let is_ema = self.run.recipe.ema > 0.0;
        if !is_ema && !self.estimate_statistics()? {
            return Ok(None);
        }
        let name = if is_ema { "ema" } else { "swa" };
        let epoch = self.progress.rows.len();
        let Some((test, _)) = self.test(name, epoch)? else { return Ok(None) };
        let state = self.state()?;
        let provenance = self.results.provenance_of(epoch, test.top1);
        provenance.write_weights(&self.folder.file(&format!("{name}.safetensors")), &state)?;
        Ok(Some(test))
    }

    /// Makes the running statistics the mean of those of the training batches, at the weights in force; false if asked to stop.
    /// An average of the statistics along the way would be of other weights.
    fn estimate_statistics(&mut self) -> Result<bool> {
        for (batch, one_in) in self.train.epoch(self.progress.epoch).zip(1..) {
            if self.run.control.stops() {
                return Ok(false);
            }
            let one_in = NonZeroU32::new(one_in).unwrap_or(NonZeroU32::MAX);
            let batch = batch?.to_device(&self.run.device)?;
            self.model.forward(&batch.images, Mode::TrainMoving { one_in })?;
        }
        Ok(true)
    }
}
