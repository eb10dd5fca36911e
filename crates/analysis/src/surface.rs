//! The loss as a function of the parameters, which may be moved for a while.

use std::fmt;

use candle_core::{DType, Tensor, Var};
use wrn_sam_kernels::OutOfRange;

use crate::direction::{Direction, Space, normal, sign};
use crate::error::{Error, Result, finite};

/// How far a measure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being measured.
    pub measure: &'static str,
    /// Passes over one batch that are done.
    pub done: usize,
    /// How many there are at most.
    pub total: usize,
}

/// The loss of a network on some batches as a function L of its parameters w, together one vector of n numbers.
///
/// L is the mean over all images of all batches. The network's other values, such as running statistics, are constants of
/// L, so the loss should be that of a pass that moves none of them: usually one in evaluation mode.
///
/// Every measure moves the parameters and puts them back, to the bit, whether it succeeds, fails or panics.
///
/// ```
/// use candle_core::{Device, Var};
/// use wrn_sam_analysis::Surface;
///
/// let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
/// // One batch, whose images have the losses w1² and w2².
/// let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, |_| w.sqr())?;
/// assert_eq!(surface.loss()?, 12.5);
/// let (loss, gradient) = surface.gradient()?;
/// assert_eq!((loss, gradient.norm()?), (12.5, 5.0));
/// # Ok::<(), wrn_sam_analysis::Error>(())
/// ```
pub struct Surface<'a> {
    space: Space,
    batches: usize,
    loss: Box<dyn FnMut(usize) -> candle_core::Result<Tensor> + 'a>,
    progress: Progress,
    observer: Box<dyn FnMut(Progress) + 'a>,
}

impl fmt::Debug for Surface<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Surface {{ parameters: {}, batches: {} }}", self.space.len(), self.batches)
    }
}

impl<'a> Surface<'a> {
    /// The surface over `parameters` of the loss on `batches` batches, at least one. `loss(k)` gives the losses of the
    /// images of batch k, counted from 0, in a tensor of any shape that is differentiable with respect to the parameters.
    /// It is called again and again, always with other parameters, so it should have the batches at hand.
    ///
    /// The closure's error type is candle's. The errors of wrn-sam's crates convert into it by `?`; wrap others with
    /// `candle_core::Error::wrap`. Its error ends a measure, so it is also the way to stop one.
    ///
    /// # Errors
    /// [`Error::NoParameters`]; [`Error::Mixed`] for parameters of several types or devices; [`Error::OutOfRange`] for no
    /// batches.
    pub fn new(
        parameters: Vec<(String, Var)>,
        batches: usize,
        loss: impl FnMut(usize) -> candle_core::Result<Tensor> + 'a,
    ) -> Result<Self> {
        OutOfRange::check("batches", batches, batches > 0, "at least 1")?;
        let progress = Progress { measure: "", done: 0, total: 0 };
        let (space, loss) = (Space::new(parameters)?, Box::new(loss));
        Ok(Self { space, batches, loss, progress, observer: Box::new(|_| ()) })
    }

    /// Tells `observer` after each pass over a batch how far a measure is.
    #[must_use]
    pub fn with_progress(self, observer: impl FnMut(Progress) + 'a) -> Self {
        Self { observer: Box::new(observer), ..self }
    }

    /// How many numbers the parameters are.
    pub fn parameters(&self) -> usize {
        self.space.len()
    }

    /// How many batches there are.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// L(w): infinite or NaN where the network's is.
    ///
    /// # Errors
    /// The loss's.
    pub fn loss(&mut self) -> Result<f64> {
        let (mut sum, mut images) = (0.0, 0);
        for batch in 0..self.batches {
            let losses = self.losses(batch)?;
            sum += total(&losses)?;
            images += losses.elem_count();
        }
        Ok(sum / images as f64)
    }

    /// L(w) and its gradient. A parameter that the loss does not depend on has a gradient of 0.
    ///
    /// # Errors
    /// The loss's; [`Error::NoGradient`]; [`Error::NotFinite`].
    pub fn gradient(&mut self) -> Result<(f64, Direction)> {
        let (mut loss, mut images, mut sum) = (0.0, 0, None::<Direction>);
        for batch in 0..self.batches {
            let (part, count, gradient) = self.gradient_sum(batch)?;
            loss += part;
            images += count;
            sum = Some(match sum {
                Some(sum) => sum.plus(1.0, &gradient)?,
                None => gradient,
            });
        }
        let gradient = sum.ok_or(Error::NoGradient)?.scaled(1.0 / images as f64)?;
        Ok((loss / images as f64, gradient))
    }

    /// The mean loss of one batch, its images and its gradient.
    pub(crate) fn gradient_of(&mut self, batch: usize) -> Result<(f64, usize, Direction)> {
        let (loss, images, gradient) = self.gradient_sum(batch)?;
        Ok((loss / images as f64, images, gradient.scaled(1.0 / images as f64)?))
    }

    /// The mean loss of one batch.
    pub(crate) fn loss_of(&mut self, batch: usize) -> Result<f64> {
        let losses = self.losses(batch)?;
        Ok(total(&losses)? / losses.elem_count() as f64)
    }

    /// The sum of a batch's losses, their number, and the sum's gradient.
    fn gradient_sum(&mut self, batch: usize) -> Result<(f64, usize, Direction)> {
        let losses = self.losses(batch)?;
        // Of a tensor, that is the gradient of its sum.
        let mut gradients = wrn_sam_kernels::backward(&losses)?;
        let mut found = false;
        let parts = self.space.vars().map(|var| match gradients.remove(var) {
            Some(gradient) => {
                found = true;
                Ok(gradient)
            }
            None => var.zeros_like(),
        });
        let gradient = self.space.join(&parts.collect::<candle_core::Result<Vec<_>>>()?)?;
        if !found {
            return Err(Error::NoGradient);
        }
        let loss = finite("the loss", total(&losses)?)?;
        finite("the gradient", gradient.norm()?)?;
        Ok((loss, losses.elem_count(), gradient))
    }

    fn losses(&mut self, batch: usize) -> Result<Tensor> {
        let losses = (self.loss)(batch)?;
        if losses.elem_count() == 0 {
            let (expected, found) = ("a number for each image".into(), format!("{:?}", losses.dims()));
            return Err(Error::Shape { what: "the loss of a batch", expected, found });
        }
        self.progress.done += 1;
        if self.progress.done <= self.progress.total {
            (self.observer)(self.progress);
        }
        Ok(losses)
    }

    /// Runs a measure that takes at most so many passes over all batches.
    pub(crate) fn measure<T>(
        &mut self,
        measure: &'static str,
        passes: usize,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.progress = Progress { measure, done: 0, total: passes * self.batches };
        let result = work(self);
        if result.is_ok() {
            self.done(passes);
        }
        self.progress.total = 0;
        result
    }

    /// So many passes over all batches are done, whoever made them.
    pub(crate) fn done(&mut self, passes: usize) {
        let done = passes * self.batches;
        if self.progress.done != done {
            self.progress.done = done;
            (self.observer)(self.progress);
        }
    }

    /// The parameters w as they are.
    ///
    /// # Errors
    /// candle's, where there is no memory for a copy.
    pub fn weights(&self) -> Result<Direction> {
        let parts: Vec<_> = self.space.vars().map(|var| var.as_detached_tensor()).collect();
        self.space.join(&parts)
    }

    /// The direction with these parts, one tensor of its shape for each parameter, in their order.
    ///
    /// # Errors
    /// [`Error::Shape`] where one has another shape.
    pub fn direction(&self, parts: &[Tensor]) -> Result<Direction> {
        self.space.join(parts)
    }

    /// The parts of a direction, in the parameters' order and shapes.
    ///
    /// # Errors
    /// [`Error::Shape`] for a direction of another surface.
    pub fn parts(&self, direction: &Direction) -> Result<Vec<Tensor>> {
        self.space.split(direction)
    }

    /// Independent normal numbers with mean 0 and deviation 1. Equal `seed` and `draw` give equal numbers.
    ///
    /// # Errors
    /// candle's, where there is no memory.
    pub fn gaussian(&self, seed: u64, draw: u64) -> Result<Direction> {
        self.space.draw(seed, *b"gaussian", draw, normal)
    }

    /// Independent numbers 1 and -1, with equal odds. Equal `seed` and `draw` give equal numbers.
    ///
    /// # Errors
    /// candle's, where there is no memory.
    pub fn signs(&self, seed: u64, draw: u64) -> Result<Direction> {
        self.space.draw(seed, *b"signs...", draw, sign)
    }

    /// Leaves w for a while.
    pub(crate) fn excursion(&mut self) -> Result<Excursion<'_, 'a>> {
        let home = self.space.vars().map(|var| var.as_detached_tensor().copy());
        let home = home.collect::<candle_core::Result<_>>()?;
        Ok(Excursion { surface: self, home })
    }
}

/// The sum of a batch's losses.
fn total(losses: &Tensor) -> Result<f64> {
    Ok(losses.detach().to_dtype(DType::F64)?.sum_all()?.to_scalar()?)
}

/// The parameters are elsewhere. Dropping this puts them back.
pub(crate) struct Excursion<'s, 'a> {
    pub surface: &'s mut Surface<'a>,
    home: Vec<Tensor>,
}

impl Excursion<'_, '_> {
    /// Moves the parameters to w + Σ a d of `moves`, each (a, d).
    pub fn to(&mut self, moves: &[(f64, &Direction)]) -> Result<()> {
        let mut targets = self.home.clone();
        for &(factor, direction) in moves {
            for (target, part) in targets.iter_mut().zip(self.surface.space.split(direction)?) {
                *target = (&*target + (part * factor)?)?;
            }
        }
        for (var, target) in self.surface.space.vars().zip(&targets) {
            var.set(target)?;
        }
        Ok(())
    }

    /// Moves the parameters back to w.
    pub fn home(&mut self) -> Result<()> {
        self.to(&[])
    }
}

impl Drop for Excursion<'_, '_> {
    fn drop(&mut self) {
        // It can only fail where a device does, and then the parameters are out of reach.
        let _ = self.home();
    }
}
