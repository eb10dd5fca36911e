//! Variables that a forward pass moves, such as running statistics, and what they held earlier in a step.

use std::collections::HashSet;

use candle_core::Var;
use wrn_sam_kernels::optimizer_step::{FoundInf, copy_all};

use super::pool::Pool;
use crate::Result;

/// The buffers, and their copies in memory that every step uses again.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) vars: Vec<Var>,
    /// What they held before the step.
    pub(super) before: Vec<Var>,
    /// What they held after the step's first pass.
    after_first: Vec<Var>,
    /// Whether a step is under way, so that `before` is to be put back if it fails.
    stepping: bool,
    /// What the micro-batches of the step have made of them.
    pub(super) pool: Pool,
}

impl Buffers {
    /// Adds those that are not yet among them.
    pub(super) fn add(&mut self, vars: impl IntoIterator<Item = Var>) -> Result<()> {
        let mut known: HashSet<_> = self.vars.iter().map(|var| var.id()).collect();
        for var in vars {
            if known.insert(var.id()) {
                let like = || Var::zeros(var.shape(), var.dtype(), var.device());
                let (before, after_first) = (like()?, like()?);
                self.vars.push(var);
                self.before.push(before);
                self.after_first.push(after_first);
            }
        }
        Ok(())
    }

    /// Remembers them at the beginning of a step. On a GPU nothing is copied once a gradient was not finite, so that the
    /// copies stay those from before that step.
    pub(super) fn begin(&mut self, found_inf: &FoundInf) -> Result<()> {
        self.pool.clear();
        copy_all(&pairs(&self.vars, &self.before), found_inf)?;
        self.stepping = true;
        Ok(())
    }

    /// Remembers them between the passes.
    pub(super) fn end_first_pass(&self, found_inf: &FoundInf) -> Result<()> {
        Ok(copy_all(&pairs(&self.vars, &self.after_first), found_inf)?)
    }

    /// Undoes what the second pass did to them.
    pub(super) fn end_second_pass(&self, found_inf: &FoundInf) -> Result<()> {
        Ok(copy_all(&pairs(&self.after_first, &self.vars), found_inf)?)
    }

    /// The step is taken: they stay as they are.
    pub(super) fn end(&mut self) {
        self.stepping = false;
    }

    /// Puts back what they held before a step that did not end.
    pub(super) fn undo(&mut self) -> Result<()> {
        if self.stepping {
            self.restore()?;
            self.stepping = false;
        }
        Ok(())
    }

    /// Puts back what they held before the last step, or on a GPU before the first step whose gradient was not finite.
    pub(super) fn restore(&self) -> Result<()> {
        for (var, before) in self.vars.iter().zip(&self.before) {
            var.set(before)?;
        }
        Ok(())
    }
}

fn pairs<'a>(from: &'a [Var], to: &'a [Var]) -> Vec<(&'a Var, &'a Var)> {
    from.iter().zip(to).collect()
}
