//! The way from w to w + e, and back.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use wrn_sam_kernels::optimizer_step::{self, Ascent, Neighborhood, Size, Slope};

use super::config::{Along, Climb, Scale};
use super::{Pass, Sam};
use crate::{Error, Result};

impl<O> Sam<O> {
    /// How far to climb along the gradients of the first pass.
    pub(super) fn ascent_along(&self, gradients: &GradStore) -> Result<Ascent> {
        let rows = self.perturbed_rows(gradients)?;
        let slopes = self.slopes(&rows)?;
        self.ascent(Pass::First, &self.neighborhood(), self.config.climb.rho, &rows, &slopes)
    }

    /// How far to climb along the base optimizer's momentum.
    pub(super) fn ascent_along_momentum(&self, rows: &[(usize, &Var, &Tensor)]) -> Result<Ascent> {
        let slopes = self.slopes(rows)?;
        self.ascent(Pass::First, &self.neighborhood(), -self.config.climb.rho, rows, &slopes)
    }

    /// Checks that the gradients are finite: that the sum of their squares is.
    pub(super) fn check_finite(&self, pass: Pass, gradients: &GradStore) -> Result<()> {
        let rows = self.parameters.with_gradients(gradients)?;
        let slopes: Vec<_> = rows.iter().map(|&(_, var, gradient)| Slope::new(var, gradient)).collect();
        self.ascent(pass, &Neighborhood::new(2.0), 0.0, &rows, &slopes).map(drop)
    }

    /// The ascent for these slopes. Where the sum over all parameters is known here, it is checked to be finite.
    fn ascent(
        &self,
        pass: Pass,
        ball: &Neighborhood,
        rho: f64,
        rows: &[(usize, &Var, &Tensor)],
        slopes: &[Slope<'_>],
    ) -> Result<Ascent> {
        if optimizer_step::supports_ascent(slopes)? {
            return Ok(optimizer_step::ascent(ball, rho, slopes, &self.found_inf)?);
        }
        let sums = optimizer_step::power_sums(&self.context, ball, slopes)?;
        let total = self.finite_sum(pass, rows.iter().map(|(index, ..)| *index).zip(sums))?;
        Ok(Ascent::new(ball, rho, total)?)
    }

    /// The sum of a number for each parameter, or an error that names the first with which it is not finite.
    pub(super) fn finite_sum(&self, pass: Pass, sums: impl Iterator<Item = (usize, f64)>) -> Result<f64> {
        let mut total = 0.0;
        for (index, sum) in sums {
            total += sum;
            if !f64::is_finite(total) {
                let (parameter, shape) =
                    (self.parameters.label(index), self.parameters.vars()[index].shape().clone());
                return Err(Error::NonFiniteGradient { parameter, shape, norm: total, pass });
            }
        }
        Ok(total)
    }

    /// The parameters that are perturbed and have a gradient.
    fn perturbed_rows<'a>(&'a self, gradients: &'a GradStore) -> Result<Vec<(usize, &'a Var, &'a Tensor)>> {
        let mut rows = self.parameters.with_gradients(gradients)?;
        rows.retain(|(index, ..)| self.places[*index].perturbed);
        if rows.is_empty() {
            return Err(Error::NoGradient { parameters: self.places.iter().filter(|p| p.perturbed).count() });
        }
        Ok(rows)
    }

    fn neighborhood(&self) -> Neighborhood {
        let Climb { p, normalize, along, .. } = self.config.climb;
        let ball = Neighborhood { normalize, ..Neighborhood::new(p) };
        match along {
            Along::Gradient | Along::Momentum => ball,
            Along::Friendly { sigma, .. } => Neighborhood { gradient: 1.0, memory: -sigma, ..ball },
            Along::Averaged { theta } => Neighborhood { gradient: theta, memory: 1.0 - theta, ..ball },
        }
    }

    /// Each parameter's direction, unit and share of the radius.
    fn slopes<'a>(&'a self, rows: &[(usize, &'a Var, &'a Tensor)]) -> Result<Vec<Slope<'a>>> {
        let remembers = self.config.climb.along.remembers();
        let norms = match self.config.climb.scale {
            Scale::Tensor => self.norms(rows)?,
            Scale::Plain | Scale::Adaptive { .. } => Vec::new(),
        };
        let slope = |(at, &(index, w, gradient)): (usize, &(usize, &'a Var, &'a Tensor))| {
            let place = &self.places[index];
            let size = match self.config.climb.scale {
                Scale::Plain => Size::Constant(1.0),
                Scale::Adaptive { biases: false, .. } if place.is_bias => Size::Constant(1.0),
                Scale::Adaptive { eta, .. } => Size::Weights { eta },
                Scale::Tensor => Size::Constant(norms[at]),
            };
            let memory = if remembers { self.memory.get(index) } else { None };
            Slope { w, gradient, memory, size, factor: place.rho_ratio }
        };
        Ok(rows.iter().enumerate().map(slope).collect())
    }

    /// ‖w‖₂ of each parameter.
    fn norms(&self, rows: &[(usize, &Var, &Tensor)]) -> Result<Vec<f64>> {
        let weights: Vec<_> = rows.iter().map(|(_, var, _)| var.as_detached_tensor()).collect();
        let slopes: Vec<_> = rows.iter().zip(&weights).map(|((_, var, _), w)| Slope::new(var, w)).collect();
        let sums = optimizer_step::power_sums(&self.context, &Neighborhood::new(2.0), &slopes)?;
        Ok(sums.into_iter().map(f64::sqrt).collect())
    }

    /// Moves the weights along the gradients of the first pass.
    pub(super) fn perturb(&mut self, ascent: &Ascent, gradients: &GradStore) -> Result<()> {
        let rows = self.parameters.with_gradients(gradients)?;
        for &(index, var, _) in &rows {
            keep_beside(&mut self.old[index], var)?;
        }
        let rows = self.perturbed_rows(gradients)?;
        let moved = self.move_weights(ascent, &rows)?;
        self.perturbed.extend(moved);
        Ok(())
    }

    /// Moves the weights of these rows, whose places in `old` are made, and says which.
    pub(super) fn move_weights(
        &self,
        ascent: &Ascent,
        rows: &[(usize, &Var, &Tensor)],
    ) -> Result<Vec<usize>> {
        let mut moved = Vec::new();
        for (slope, (index, ..)) in self.slopes(rows)?.into_iter().zip(rows) {
            moved.extend(self.old[*index].as_ref().map(|old| (slope, old)));
        }
        optimizer_step::perturb_all(&self.context, ascent, &moved)?;
        Ok(rows.iter().map(|(index, ..)| *index).collect())
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
        self.sums.clear();
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
