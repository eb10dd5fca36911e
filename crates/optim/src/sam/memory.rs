//! What a member of the family remembers between steps.

use candle_core::Var;

use super::SamConfig;
use super::ascent::keep_beside;
use super::config::When;
use crate::Result;

/// The count of steps, a vector over all parameters (F-SAM's and VaSSO's average m, LookSAM's v) and AE-SAM's statistics.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Steps taken.
    pub(super) step: u64,
    /// The vector's part for each parameter that has one.
    pub(super) vars: Vec<Option<Var>>,
    /// The step in which each parameter's part got its first value.
    pub(super) since: Vec<Option<u64>>,
    /// Of the squared norms of the gradients.
    pub(super) squares: Squares,
    /// Those before the last step.
    pub(super) squares_before: Squares,
}

/// Mean and variance of ‖g1‖², as AE-SAM's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Squares {
    pub(super) mean: f64,
    pub(super) variance: f64,
}

impl Squares {
    /// What they become with a new squared norm, and whether it is large enough for a second pass in step `t`.
    pub(super) fn with(self, when: When, t: u64, square: f64) -> (Self, bool) {
        let When::Adaptive { delta, lambda1, lambda2, steps } = when else { return (self, true) };
        let mean = delta * self.mean + (1.0 - delta) * square;
        let variance = delta * self.variance + (1.0 - delta) * (square - mean).powi(2);
        let done = ((t + 1) as f64 / steps as f64).min(1.0);
        let bound = mean + (lambda1 * done + lambda2 * (1.0 - done)) * variance.sqrt();
        (Self { mean, variance }, square >= bound)
    }
}

impl Memory {
    pub(super) fn of(parameters: usize) -> Self {
        Self { vars: vec![None; parameters], since: vec![None; parameters], ..Self::default() }
    }

    /// Whether a configuration needs the vector.
    pub(super) fn is_kept(config: &SamConfig) -> bool {
        config.climb.along.remembers() || matches!(config.when, When::Look { .. })
    }

    /// A parameter's part, if it has a value yet.
    pub(super) fn get(&self, index: usize) -> Option<&Var> {
        self.since[index].and(self.vars[index].as_ref())
    }

    /// A parameter's part, made if need be.
    pub(super) fn place(&mut self, index: usize, var: &Var) -> Result<&Var> {
        keep_beside(&mut self.vars[index], var)
    }

    /// The vector is forgotten, as by a configuration that keeps another one.
    pub(super) fn forget(&mut self) {
        *self = Self { step: self.step, ..Self::of(self.vars.len()) };
    }

    /// A step is taken.
    pub(super) fn count(&mut self, squares: Squares) {
        self.squares_before = std::mem::replace(&mut self.squares, squares);
        self.step += 1;
    }

    /// Goes back to the beginning of a step: what came after it changed no tensor, because a GPU had noted a gradient that
    /// was not finite.
    pub(super) fn rewind(&mut self, step: u64) {
        if step >= self.step {
            return;
        }
        self.step = step;
        self.squares = self.squares_before;
        for since in &mut self.since {
            *since = since.filter(|since| *since < step);
        }
    }
}
