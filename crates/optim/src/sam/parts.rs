//! A step over micro-batches: with an ascent for each, or with one over the whole batch.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::OutOfRange;
use wrn_sam_kernels::optimizer_step::Combination;

use super::config::{Descent, When};
use super::ranks::Total;
use super::step::Batches;
use super::{Pass, Perturbed, Sam, Step};
use crate::{Error, Result};

impl<'a, O: Optimizer> Step<'a, O> {
    /// Climbs along the gradients of one micro-batch. Its guard's [`descend`](Part::descend) takes the gradients at its own
    /// w + e, adds `share` times what the descent makes of both, and restores w; then comes the next micro-batch, and at the
    /// end [`finish`](Self::finish). That is the paper's m-sharpness: the mean, over the micro-batches, of the loss at the
    /// worst point for each. `share` is the micro-batch's part of the batch's images, so that shares add up to 1.
    ///
    /// `None`: no second pass is needed (rho is 0, or [`When`] says so), and `share` times these gradients have been added.
    ///
    /// What is added is summed along a binary tree over the index of the micro-batch, so that the result depends on their
    /// number only, not on who computed which.
    ///
    /// # Errors
    /// Those of [`climb`](Self::climb); [`Error::OutOfRange`] for a share outside (0, 1]; [`Error::MicroBatches`] after
    /// `gather`, or for a member of the family that needs the gradients of the whole batch: along a memory or the momentum,
    /// AE-SAM, LookSAM, decoupled WSAM. The step can only be dropped then.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_nn::Optimizer;
    /// use wrn_sam_optim::{Sam, SamConfig, Sgd, SgdConfig};
    ///
    /// let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
    /// let base = Sgd::new(vec![w.clone()], SgdConfig::new(0.5))?;
    /// let mut sam = Sam::new(base, SamConfig::sam(2.5))?;
    /// let loss = |part: f64| (w.sqr()?.sum_all()? * (part * 0.5))?.backward();
    ///
    /// let mut step = sam.begin()?;
    /// for part in [1.0, 3.0] {
    ///     if let Some(perturbed) = step.part(0.5, &loss(part)?)? {
    ///         perturbed.descend(&loss(part)?)?;
    ///     }
    /// }
    /// step.finish()?;
    /// assert_eq!(w.to_vec1::<f32>()?, [-1.5, -2.]); // w - 0.5 · (½ · 1 + ½ · 3) · [4.5, 6]
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn part(&mut self, share: f64, gradients: &GradStore) -> Result<Option<Part<'_, O>>> {
        check_share(share)?;
        if self.batches == Batches::Gathered {
            return Err(Error::MicroBatches(
                "a step takes either `part` or `gather` for all of its micro-batches",
            ));
        }
        self.batches = Batches::Parts;
        let sam = &mut *self.guard.0;
        sam.check_parts()?;
        sam.sums.check_whole()?;
        sam.sums.whole = false;
        let ascent = sam.ascent_along(gradients)?;
        sam.grad_norm = ascent.norm().clone();
        if sam.climbs() != Some(true) {
            sam.check_finite(Pass::First, gradients)?;
            sam.add(share, gradients)?;
            sam.sums.whole = true;
            return Ok(None);
        }
        sam.buffers.end_first_pass(&sam.found_inf)?;
        let first = if sam.needs_first() { Some(sam.kept(gradients)?) } else { None };
        sam.perturb(&ascent, gradients)?;
        Ok(Some(Part { restore: Restore(sam), first, share }))
    }

    /// Ends a step of [`part`](Self::part)s: the base optimizer steps along their sum.
    ///
    /// # Errors
    /// [`Error::MicroBatches`] without a part; the base optimizer's. Nothing has changed then.
    pub fn finish(self) -> Result<()> {
        self.guard.0.sums.check_whole()?;
        // A rank may have no micro-batch in a step.
        let several = self.guard.0.together.are_several();
        if self.batches != Batches::Parts && !(several && self.batches == Batches::None) {
            return Err(Error::MicroBatches(
                "`finish` ends a step of `part`s; after `gather` use `climb_gathered`",
            ));
        }
        let sam = &mut *self.guard.0;
        let Some(Total { gradients, node }) = sam.total_and_buffers()? else {
            return Err(Error::MicroBatches("no part of this step was finished"));
        };
        let squares = sam.memory.squares;
        sam.descend_along_first(&gradients, squares)?;
        sam.sums.give_back(node);
        Ok(())
    }

    /// Takes what the first pass of a micro-batch made of the buffers, such as running statistics, and puts them back as they
    /// were before the step. At the end of the first passes they become the mean over the micro-batches of all ranks, each
    /// weighted by its share; a buffer of an integer type, which counts passes, grows by the sum. So one step moves running
    /// statistics once, towards the mean of the micro-batches', whatever their number and whoever has which.
    ///
    /// To be called after each first pass, which moves the buffers as if it were the step's only one, and before
    /// [`part`](Self::part) or [`gather`](Self::gather).
    ///
    /// # Errors
    /// candle's.
    pub fn pool_buffers(&mut self, share: f64) -> Result<()> {
        check_share(share)?;
        self.guard.0.buffers.pool(share)
    }

    /// Adds `share` times the gradients of one micro-batch at w, to climb once along the whole batch's: after the last comes
    /// [`climb_gathered`](Self::climb_gathered), and for every micro-batch of the second pass [`Perturbed::gather`]. The
    /// step is that of the whole batch at once, but for batch statistics, which are each micro-batch's own.
    ///
    /// # Errors
    /// [`Error::Gradient`]; [`Error::NoGradient`]; [`Error::OutOfRange`] for a share outside (0, 1];
    /// [`Error::MicroBatches`] after `part`.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_nn::Optimizer;
    /// use wrn_sam_optim::{Sam, SamConfig, Sgd, SgdConfig};
    ///
    /// let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
    /// let base = Sgd::new(vec![w.clone()], SgdConfig::new(0.5))?;
    /// let mut sam = Sam::new(base, SamConfig::sam(2.5))?;
    /// let loss = |part: f64| (w.sqr()?.sum_all()? * (part * 0.5))?.backward();
    ///
    /// let mut step = sam.begin()?;
    /// for part in [1.0, 3.0] {
    ///     step.gather(0.5, &loss(part)?)?;
    /// }
    /// if let Some(mut perturbed) = step.climb_gathered()? {
    ///     assert_eq!(perturbed.grad_norm().to_scalar::<f64>()?, 10.0);
    ///     for part in [1.0, 3.0] {
    ///         perturbed.gather(0.5, &loss(part)?)?;
    ///     }
    ///     perturbed.finish()?;
    /// }
    /// assert_eq!(w.to_vec1::<f32>()?, [-1.5, -2.]);
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn gather(&mut self, share: f64, gradients: &GradStore) -> Result<()> {
        check_share(share)?;
        if self.batches == Batches::Parts {
            return Err(Error::MicroBatches(
                "a step takes either `part` or `gather` for all of its micro-batches",
            ));
        }
        self.batches = Batches::Gathered;
        self.guard.0.add(share, gradients)
    }

    /// [`climb`](Self::climb) along the gathered gradients.
    ///
    /// # Errors
    /// Those of [`climb`](Self::climb); [`Error::MicroBatches`] where nothing was gathered.
    pub fn climb_gathered(self) -> Result<Option<Perturbed<'a, O>>> {
        let sam = &mut *self.guard.0;
        // A rank may have no micro-batch in a step.
        let several = sam.together.are_several();
        if self.batches != Batches::Gathered && !(several && self.batches == Batches::None) {
            return Err(Error::MicroBatches("`climb_gathered` comes after `gather`"));
        }
        let Some(Total { gradients, node }) = sam.total_and_buffers()? else {
            return Err(Error::MicroBatches("nothing was gathered"));
        };
        self.climb_along(&gradients, node)
    }
}

impl<O: Optimizer> Perturbed<'_, O> {
    /// Adds `share` times the gradients of one micro-batch at w + e; after the last comes [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`Error::Gradient`]; [`Error::NoGradient`]; [`Error::OutOfRange`] for a share outside (0, 1].
    pub fn gather(&mut self, share: f64, gradients: &GradStore) -> Result<()> {
        check_share(share)?;
        self.guard.0.add(share, gradients)
    }

    /// [`descend`](Self::descend) along the gathered gradients.
    ///
    /// # Errors
    /// Those of [`descend`](Self::descend); [`Error::MicroBatches`] where nothing was gathered.
    pub fn finish(self) -> Result<()> {
        let sam = &mut *self.guard.0;
        let Some(Total { gradients, node }) = sam.total()? else {
            return Err(Error::MicroBatches("nothing was gathered"));
        };
        self.descend_along(&gradients, node)
    }
}

/// The second pass of one micro-batch: the weights are at its w + e. Dropping it restores w; the step can then only be
/// dropped too.
#[derive(Debug)]
#[must_use = "`descend` adds the micro-batch's gradients; dropping this leaves them out"]
pub struct Part<'a, O> {
    restore: Restore<'a, O>,
    first: Option<GradStore>,
    share: f64,
}

/// Restores w when it is dropped.
#[derive(Debug)]
struct Restore<'a, O>(&'a mut Sam<O>);

impl<O> Drop for Restore<'_, O> {
    fn drop(&mut self) {
        // As in `Guard`.
        let _ = self.0.restore_weights();
    }
}

impl<O: Optimizer> Part<'_, O> {
    /// The norm of the micro-batch's gradient at w: see [`Sam::grad_norm`].
    pub fn grad_norm(&self) -> &Tensor {
        self.restore.0.grad_norm()
    }

    /// Adds what the descent makes of the first gradients and `gradients`, those of the micro-batch's loss at its w + e,
    /// and restores w.
    ///
    /// # Errors
    /// Those of [`Perturbed::descend`], but the base optimizer's.
    pub fn descend(self, gradients: &GradStore) -> Result<()> {
        let Self { restore, first, share } = self;
        let sam = &mut *restore.0;
        match (first, sam.rule()) {
            (Some(first), Some(rule)) => {
                let pairs = sam.pairs(&first, gradients)?;
                let mix = sam.dots(Pass::Second, &pairs)?.mix(rule, None)?;
                let rows: Vec<_> =
                    pairs.iter().map(|pair| (pair.index, &pair.var, &pair.x, &pair.y)).collect();
                let (combination, count) = (Combination::Mixed(&mix, share), sam.places.len());
                sam.sums.add(&sam.context, count, combination, &rows, &sam.found_inf)?;
            }
            _ => {
                sam.check_finite(Pass::Second, gradients)?;
                sam.add(share, gradients)?;
            }
        }
        sam.restore_weights()?;
        sam.buffers.end_second_pass(&sam.found_inf)?;
        sam.sums.whole = true;
        Ok(())
    }
}

impl<O> Sam<O> {
    /// Adds `share` times these gradients to the sum of the micro-batches.
    fn add(&mut self, share: f64, gradients: &GradStore) -> Result<()> {
        let rows: Vec<(usize, &Var, &Tensor, &Tensor)> = self
            .parameters
            .with_gradients(gradients)?
            .into_iter()
            .map(|(index, var, gradient)| (index, var, gradient, gradient))
            .collect();
        self.sums.add(&self.context, self.places.len(), Combination::Scaled(share), &rows, &self.found_inf)
    }

    /// Whether each micro-batch can climb by itself.
    fn check_parts(&self) -> Result<()> {
        let config = &self.config;
        let whole = config.climb.along != super::Along::Gradient
            || matches!(config.when, When::Adaptive { .. } | When::Look { .. })
            || matches!(config.descent, Descent::Weighted { decoupled: true, .. });
        if whole {
            let why = "this member of the family needs the gradients of the whole batch; use `gather`";
            return Err(Error::MicroBatches(why));
        }
        Ok(())
    }
}

fn check_share(share: f64) -> Result<()> {
    Ok(OutOfRange::check("share", share, share > 0.0 && share <= 1.0, "above 0 and at most 1")?)
}
