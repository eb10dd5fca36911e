//! A step of SAM under way: guards that put everything back unless the step is taken.

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::Neighborhood;

use super::{Pass, Sam};
use crate::Result;

/// Undoes the step when it is dropped, unless the step was taken.
#[derive(Debug)]
struct Guard<'a, O>(&'a mut Sam<O>);

impl<O> Drop for Guard<'_, O> {
    fn drop(&mut self) {
        // It can only fail where a device does, and then the weights are out of reach.
        let _ = self.0.undo();
    }
}

/// The first pass of a step: the weights are at w. Dropping it puts the buffers back as they were.
///
/// [`Sam::begin`] makes it, and [`climb`](Self::climb) takes it to the second pass.
#[derive(Debug)]
#[must_use = "`climb` continues the step; dropping this ends it without moving a weight"]
pub struct Step<'a, O>(Guard<'a, O>);

impl<'a, O: Optimizer> Step<'a, O> {
    pub(super) fn new(sam: &'a mut Sam<O>) -> Self {
        Self(Guard(sam))
    }

    /// Climbs from w to w + e along `gradients`, those of the loss at w.
    ///
    /// `None`: the step needs no second pass and has been taken. That is so where rho is 0; the base optimizer has then
    /// stepped along `gradients`.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`](crate::Error::NonFiniteGradient) (on a GPU later, from [`Sam::check_gradients`]);
    /// [`Error::NoGradient`](crate::Error::NoGradient); [`Error::Gradient`](crate::Error::Gradient) for one that is not
    /// like its parameter; with a rho of 0 the base optimizer's. Nothing has changed then.
    pub fn climb(self, gradients: &GradStore) -> Result<Option<Perturbed<'a, O>>> {
        let Self(guard) = self;
        let sam = &mut *guard.0;
        let ascent = sam.ascent(Pass::First, &sam.config.neighborhood(), sam.config.rho, gradients)?;
        sam.grad_norm = ascent.norm().clone();
        if sam.config.rho == 0.0 {
            sam.step_base(gradients)?;
            return Ok(None);
        }
        // Before the weights move, so that a parameter given as a buffer too does no harm.
        sam.buffers.end_first_pass(&sam.found_inf)?;
        sam.perturb(&ascent, gradients)?;
        Ok(Some(Perturbed(guard)))
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
pub struct Perturbed<'a, O>(Guard<'a, O>);

impl<O: Optimizer> Perturbed<'_, O> {
    /// The norm of the gradient at w: see [`Sam::grad_norm`].
    pub fn grad_norm(&self) -> &Tensor {
        self.0.0.grad_norm()
    }

    /// Restores w and lets the base optimizer step along `gradients`, those of the loss at w + e.
    ///
    /// # Errors
    /// Those of [`Step::climb`], and the base optimizer's. Nothing has changed then.
    pub fn descend(self, gradients: &GradStore) -> Result<()> {
        let Self(guard) = self;
        let sam = &mut *guard.0;
        // Not for its norm, but for what is not finite.
        sam.ascent(Pass::Second, &Neighborhood { p: 2.0, adaptive: false }, 0.0, gradients)?;
        sam.restore_weights()?;
        sam.buffers.end_second_pass(&sam.found_inf)?;
        sam.step_base(gradients)
    }
}
