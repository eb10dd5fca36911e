//! The way from w to w + e, and back.

use candle_core::Var;
use candle_core::backprop::GradStore;
use wrn_sam_kernels::optimizer_step::{self, Ascent, Neighborhood};

use super::{Pass, Sam};
use crate::{Error, Result};

impl<O> Sam<O> {
    /// How far to climb. Where the sum over all parameters is known here, it is checked to be finite.
    pub(super) fn ascent(
        &self,
        pass: Pass,
        ball: &Neighborhood,
        rho: f64,
        gradients: &GradStore,
    ) -> Result<Ascent> {
        let parameters = self.parameters.with_gradients(gradients)?;
        let pairs: Vec<_> = parameters.iter().map(|&(_, var, gradient)| (var, gradient)).collect();
        if optimizer_step::supports_ascent(&pairs)? {
            return Ok(optimizer_step::ascent(ball, rho, &pairs, &self.found_inf)?);
        }
        let sums = optimizer_step::power_sums(&self.context, ball, &pairs)?;
        let mut total = 0.0;
        for (&(index, var, _), sum) in parameters.iter().zip(sums) {
            total += sum;
            if !f64::is_finite(total) {
                let (parameter, shape) = (self.parameters.label(index), var.shape().clone());
                return Err(Error::NonFiniteGradient { parameter, shape, norm: total, pass });
            }
        }
        Ok(Ascent::new(ball, rho, total)?)
    }

    pub(super) fn perturb(&mut self, ascent: &Ascent, gradients: &GradStore) -> Result<()> {
        let parameters = self.parameters.with_gradients(gradients)?;
        let mut moved = Vec::new();
        for &(index, var, _) in &parameters {
            keep_beside(&mut self.old[index], var)?;
        }
        for &(index, var, gradient) in &parameters {
            moved.extend(self.old[index].as_ref().map(|old| (var, old, gradient)));
        }
        optimizer_step::perturb_all(&self.context, ascent, &moved)?;
        self.perturbed.extend(parameters.iter().map(|(index, ..)| index));
        Ok(())
    }

    pub(super) fn restore_weights(&mut self) -> Result<()> {
        while let Some(&index) = self.perturbed.last() {
            if let Some(old) = &self.old[index] {
                optimizer_step::restore(&self.parameters.vars()[index], old)?;
            }
            self.perturbed.pop();
        }
        Ok(())
    }

    /// Puts weights and buffers back as they were before a step that was not taken.
    pub(super) fn undo(&mut self) -> Result<()> {
        self.restore_weights()?;
        self.buffers.undo()
    }
}

/// A variable like `var` in `old`, if there is none yet.
pub(super) fn keep_beside<'a>(old: &'a mut Option<Var>, var: &Var) -> Result<&'a Var> {
    match old {
        Some(old) => Ok(old),
        None => Ok(old.insert(Var::zeros(var.shape(), var.dtype(), var.device())?)),
    }
}
