//! A step of SAM under way: guards that put everything back unless the step is taken.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::Rule;

use super::config::Along;
#[cfg(doc)]
use super::config::{Descent, When};
use super::memory::Squares;
use super::sums::Node;
use super::{Pass, Sam};
use crate::{Error, Result};

/// Undoes the step when it is dropped, unless the step was taken.
#[derive(Debug)]
pub(super) struct Guard<'a, O>(pub(super) &'a mut Sam<O>);

impl<O> Drop for Guard<'_, O> {
    fn drop(&mut self) {
        // It can only fail where a device does, and then the weights are out of reach.
        let _ = self.0.undo();
    }
}

/// The first pass of a step: the weights are at w, or with [`Along::Momentum`] ahead of it. Dropping it puts weights and
/// buffers back as they were.
///
/// [`Sam::begin`] makes it, and [`climb`](Self::climb) takes it to the second pass.
#[derive(Debug)]
#[must_use = "`climb` continues the step; dropping this ends it without moving a weight"]
pub struct Step<'a, O> {
    pub(super) guard: Guard<'a, O>,
    pub(super) batches: Batches,
}

/// What a step has been given of its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batches {
    None,
    Parts,
    Gathered,
}

impl<'a, O: Optimizer> Step<'a, O> {
    pub(super) fn new(sam: &'a mut Sam<O>) -> Self {
        Self { guard: Guard(sam), batches: Batches::None }
    }

    /// The parameters whose first gradients this step reads, where it can do without the others: those that are perturbed,
    /// in a step that is sure to have a second pass and to follow only that pass. `None`: it reads all.
    ///
    /// A network that can leave out the other gradients saves their price: with [`Sam::perturbing`] the normalization layers
    /// only (SAM-ON), all gradients of convolutions' weights.
    pub fn reads_only(&self) -> Option<Vec<Var>> {
        let sam = &self.guard.0;
        let places = || sam.places.iter().zip(sam.parameters.vars());
        let partly =
            places().any(|(place, _)| !place.perturbed) && !sam.needs_first() && sam.climbs() == Some(true);
        partly.then(|| places().filter(|(place, _)| place.perturbed).map(|(_, var)| var.clone()).collect())
    }

    /// Climbs from w to w + e along `gradients`, those of the loss at w.
    ///
    /// `None`: the step needs no second pass and has been taken. That is so where rho is 0, where [`When`] says so, and with
    /// [`Along::Momentum`], whose only gradients are those ahead of w.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`](crate::Error::NonFiniteGradient) (on a GPU later, from [`Sam::check_gradients`]);
    /// [`Error::NoGradient`](crate::Error::NoGradient); [`Error::Gradient`](crate::Error::Gradient) for one that is not
    /// like its parameter; [`Error::MicroBatches`] after `part` or `gather`; without a second pass the base optimizer's.
    /// Nothing has changed then.
    pub fn climb(self, gradients: &GradStore) -> Result<Option<Perturbed<'a, O>>> {
        if self.batches != Batches::None {
            return Err(Error::MicroBatches(
                "after `gather` use `climb_gathered`, after `part` use `finish`",
            ));
        }
        self.climb_along(gradients, None)
    }

    /// `sum` is where the gradients lie, if they are a sum of micro-batches'.
    pub(super) fn climb_along(
        self,
        gradients: &GradStore,
        sum: Option<Node>,
    ) -> Result<Option<Perturbed<'a, O>>> {
        let Self { guard, .. } = self;
        let sam = &mut *guard.0;
        if sam.perturbed.is_empty() {
            let ascent = sam.ascent_along(gradients)?;
            sam.grad_norm = ascent.norm().clone();
            let (squares, climbs) = match sam.climbs() {
                Some(climbs) => (sam.memory.squares, climbs),
                None => {
                    let square = sam.squared_norm(gradients)?;
                    // A GPU was waited for; so what it has noted of the step before is known in time.
                    sam.check_gradients()?;
                    sam.memory.squares.with(sam.config.when, sam.memory.step, square)
                }
            };
            if climbs {
                // Before the weights move, so that a parameter given as a buffer too does no harm.
                sam.buffers.end_first_pass(&sam.found_inf)?;
                let first = if sam.needs_first() { Some(sam.kept(gradients)?) } else { None };
                sam.perturb(&ascent, gradients)?;
                return Ok(Some(Perturbed { guard, first, squares, sum }));
            }
            sam.descend_along_first(gradients, squares)?;
        } else {
            // Ahead along the momentum.
            let squares = sam.memory.squares;
            sam.descend_along_first(gradients, squares)?;
        }
        sam.sums.give_back(sum);
        Ok(None)
    }
}

impl<O> Sam<O> {
    /// Whether the step about to be taken has a second pass; none where its first gradient decides.
    pub(super) fn climbs(&self) -> Option<bool> {
        if self.config.climb.rho == 0.0 || self.config.climb.along == Along::Momentum {
            return Some(false);
        }
        self.config.when.climbs_at(self.memory.step)
    }

    /// ‖g1‖₂² over all parameters.
    fn squared_norm(&self, gradients: &GradStore) -> Result<f64> {
        let pairs = self.pairs(gradients, gradients)?;
        let dots = self.dots(Pass::First, &pairs)?;
        let mix = dots.mix(Rule::Fixed(0.0, 1.0), None)?;
        // On a GPU this is the wait that the decision costs.
        Ok(mix.norm().to_scalar::<f64>()?.powi(2))
    }
}

/// The second pass of a step: the weights are at w + e. Dropping it restores w and the buffers.
///
/// ```
/// # use candle_core::{Device, Var};
/// # use candle_nn::Optimizer;
/// # use wrn_sam_optim::{Sam, SamConfig, Sgd, SgdConfig};
/// # let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
/// # let mut sam = Sam::new(Sgd::new(vec![w.clone()], SgdConfig::new(0.1))?, SamConfig::default())?;
/// let perturbed = sam.begin()?.climb(&w.sqr()?.sum_all()?.backward()?)?;
/// assert_ne!(w.to_vec1::<f32>()?, [3., 4.]);
/// drop(perturbed);
/// assert_eq!(w.to_vec1::<f32>()?, [3., 4.]);
/// # Ok::<(), wrn_sam_optim::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "`descend` takes the step; dropping this restores the weights without a step"]
pub struct Perturbed<'a, O> {
    pub(super) guard: Guard<'a, O>,
    /// g1, where it is still read.
    first: Option<GradStore>,
    squares: Squares,
    /// Where g1 lies, if it is a sum of micro-batches'.
    sum: Option<Node>,
}

impl<O: Optimizer> Perturbed<'_, O> {
    /// The norm of the gradient at w: see [`Sam::grad_norm`].
    pub fn grad_norm(&self) -> &Tensor {
        self.guard.0.grad_norm()
    }

    /// Restores w and lets the base optimizer step along what [`Descent`] makes of the first gradients and `gradients`, those
    /// of the loss at w + e.
    ///
    /// # Errors
    /// Those of [`Step::climb`], and the base optimizer's; [`Error::MicroBatches`] after
    /// [`gather`](Self::gather). Nothing has changed then.
    pub fn descend(self, gradients: &GradStore) -> Result<()> {
        if !self.guard.0.sums.is_empty() {
            return Err(Error::MicroBatches("after `gather` use `finish`"));
        }
        self.descend_along(gradients, None)
    }

    /// As [`Step::climb_along`].
    pub(super) fn descend_along(self, gradients: &GradStore, sum: Option<Node>) -> Result<()> {
        let Self { guard, first, squares, sum: first_sum } = self;
        let sam = &mut *guard.0;
        sam.descend_along_second(first.as_ref(), gradients, squares)?;
        sam.sums.give_back(first_sum);
        sam.sums.give_back(sum);
        Ok(())
    }
}
