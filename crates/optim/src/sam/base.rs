//! The base optimizer's step.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use candle_nn::Optimizer;

use super::Sam;
use super::ascent::keep_beside;
use crate::{Error, Result};

impl<O: Optimizer> Sam<O> {
    /// The base optimizer's step from w, with which the whole step is taken.
    pub(super) fn step_base(&mut self, gradients: &GradStore) -> Result<()> {
        if self.base_is_known {
            self.found_inf.guard(|| self.base.step(gradients))?;
        } else {
            self.step_unknown_base(gradients)?;
        }
        Ok(())
    }

    /// The step of a base that may fail halfway, or step other variables.
    fn step_unknown_base(&mut self, gradients: &GradStore) -> Result<()> {
        let parameters = self.parameters.with_gradients(gradients)?;
        for &(index, var, _) in &parameters {
            keep_beside(&mut self.old[index], var)?.set(var)?;
        }
        let stepped = self.found_inf.guard(|| self.base.step(gradients));
        let mut gradients_are_zero = true;
        for &(index, var, gradient) in &parameters {
            let Some(old) = &self.old[index] else { continue };
            if stepped.is_err() {
                var.set(old)?;
            } else if !self.base_moves {
                self.base_moves = !equal(var, old)?;
                gradients_are_zero &= equal(gradient, &gradient.zeros_like()?)?;
            }
        }
        stepped?;
        if self.base_moves || gradients_are_zero || self.base.learning_rate() == 0.0 {
            return Ok(());
        }
        Err(Error::NothingMoved)
    }
}

fn equal(one: &Tensor, other: &Tensor) -> Result<bool> {
    Ok(one.ne(other)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? == 0)
}
