//! A step in one call.

use std::sync::atomic::Ordering;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::{OutOfRange, backward, backward_to};

use super::ascent::keep_beside;
use super::config::{Along, When};
use super::{Pass, Sam, Step};
use crate::{Error, Result};

/// Over which images an ascent is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AscentOver {
    /// All of a batch's: micro-batches only save memory.
    Batch,
    /// Those of each micro-batch by itself, as in the paper's m-sharpness.
    MicroBatch,
}

impl<O: Optimizer> Sam<O> {
    /// Begins a step; the weights are at w, or with [`Along::Momentum`] ahead of it. What it returns continues the step, or when it is dropped puts everything
    /// back.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a learning rate that is not finite; [`Error::NoMomentum`]; candle's where it cannot copy the
    /// buffers.
    pub fn begin(&mut self) -> Result<Step<'_, O>> {
        // A guard that was leaked rather than dropped has put nothing back.
        self.undo()?;
        self.memory.rewind(self.rewind_to.swap(u64::MAX, Ordering::Relaxed));
        let rate = self.base.learning_rate();
        OutOfRange::check("learning_rate", rate, rate.is_finite(), "a finite number")?;
        self.found_inf.begin(self.memory.step);
        self.buffers.begin(&self.found_inf)?;
        if self.goes_ahead() {
            self.go_ahead()?;
        }
        Ok(Step::new(self))
    }

    /// All passes of one step: `loss(Pass::First)` at w, then, if the step needs it, `loss(Pass::Second)` at w + e, each
    /// differentiated here, then the base step. Returns the first loss, detached.
    ///
    /// The closure's error type is candle's. The errors of this crate and of wrn-sam's losses, models and kernels convert
    /// into it by `?`; wrap others with `candle_core::Error::wrap`, or use [`begin`](Self::begin).
    ///
    /// # Errors
    /// Whatever the closure reports, [`Error::LossShape`] for a loss that is not a single number, and the errors
    /// of [`begin`](Self::begin), [`Step::climb`] and [`Perturbed::descend`](super::Perturbed::descend). Nothing has changed then.
    ///
    /// ```
    /// # use candle_core::{Device, Var};
    /// # use candle_nn::Optimizer;
    /// # use wrn_sam_optim::{Pass, Sam, SamConfig, Sgd, SgdConfig};
    /// # let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
    /// # let mut sam = Sam::new(Sgd::new(vec![w.clone()], SgdConfig::new(0.1))?, SamConfig::default())?;
    /// let loss = sam.step(|pass| {
    ///     // A model chooses its mode by `pass`: running statistics move in the first only.
    ///     assert!(matches!(pass, Pass::First | Pass::Second));
    ///     let losses = w.sqr()?;
    ///     losses.sum_all()
    /// })?;
    /// assert_eq!(loss.to_scalar::<f32>()?, 25.0);
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn step(&mut self, mut loss: impl FnMut(Pass) -> candle_core::Result<Tensor>) -> Result<Tensor> {
        let step = self.begin()?;
        let read = step.reads_only();
        let first = loss(Pass::First)?;
        let gradients = gradients_of(&first, read.as_deref())?;
        // What a pass keeps for its backward pass is freed before the next one needs memory.
        let value = first.detach();
        drop(first);
        let perturbed = step.climb(&gradients)?;
        drop(gradients);
        if let Some(perturbed) = perturbed {
            let second = loss(Pass::Second)?;
            let gradients = gradients_of(&second, None)?;
            drop(second);
            perturbed.descend(&gradients)?;
        }
        Ok(value)
    }

    /// As [`step`](Self::step) over micro-batches, one for each of `shares`, which add up to 1: `loss(part, pass)` is the
    /// mean loss of that micro-batch. Returns the mean of the first losses, detached.
    ///
    /// # Errors
    /// Those of [`step`](Self::step), [`Step::part`] and [`Step::gather`]; [`Error::MicroBatches`] without shares. Nothing
    /// has changed then.
    ///
    /// ```
    /// use candle_core::{Device, Tensor, Var};
    /// use candle_nn::Optimizer;
    /// use wrn_sam_optim::{AscentOver, Sam, SamConfig, Sgd, SgdConfig};
    ///
    /// let w = Var::new(1f32, &Device::Cpu)?;
    /// let mut sam = Sam::new(Sgd::new(vec![w.clone()], SgdConfig::new(0.1))?, SamConfig::default())?;
    /// let targets = [Tensor::new(2f32, &Device::Cpu)?, Tensor::new(4f32, &Device::Cpu)?];
    /// let loss = sam.step_parts(&[0.5, 0.5], AscentOver::MicroBatch, |part, _pass| (w.as_tensor() - &targets[part])?.sqr())?;
    /// assert_eq!(loss.to_scalar::<f32>()?, 5.0); // (1 + 9) / 2
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn step_parts(
        &mut self,
        shares: &[f64],
        over: AscentOver,
        mut loss: impl FnMut(usize, Pass) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor> {
        let mut step = self.begin()?;
        let read = step.reads_only();
        let mut mean: Option<Tensor> = None;
        let mut pass = |part: usize, pass: Pass| {
            let loss = loss(part, pass)?;
            let read = read.as_deref().filter(|_| pass == Pass::First);
            Ok::<_, Error>((gradients_of(&loss, read)?, loss.detach()))
        };
        for (part, &share) in shares.iter().enumerate() {
            let (gradients, value) = pass(part, Pass::First)?;
            let value = (value * share)?;
            mean = Some(match mean {
                Some(mean) => (mean + value)?,
                None => value,
            });
            match over {
                AscentOver::Batch => step.gather(share, &gradients)?,
                AscentOver::MicroBatch => {
                    if let Some(perturbed) = step.part(share, &gradients)? {
                        drop(gradients);
                        perturbed.descend(&pass(part, Pass::Second)?.0)?;
                    }
                }
            }
        }
        let Some(mean) = mean else { return Err(Error::MicroBatches("there are no shares")) };
        match over {
            AscentOver::MicroBatch => step.finish()?,
            AscentOver::Batch => {
                if let Some(mut perturbed) = step.climb_gathered()? {
                    for (part, &share) in shares.iter().enumerate() {
                        perturbed.gather(share, &pass(part, Pass::Second)?.0)?;
                    }
                    perturbed.finish()?;
                }
            }
        }
        Ok(mean)
    }

    /// Whether the step about to be taken has its pass ahead along the momentum.
    fn goes_ahead(&self) -> bool {
        let begun = match self.config.when {
            When::From { step } => self.memory.step >= step,
            _ => true,
        };
        self.config.climb.along == Along::Momentum && self.config.climb.rho > 0.0 && begun
    }

    /// Moves the weights ahead along the base's momentum.
    fn go_ahead(&mut self) -> Result<()> {
        let momentum = self.momentum.map(|momentum| momentum(&self.base)).unwrap_or_default();
        if momentum.len() != self.places.len() {
            return Err(Error::NoMomentum);
        }
        let vars = self.parameters.vars().iter().enumerate().zip(momentum);
        let perturbed = vars.filter(|((index, _), _)| self.places[*index].perturbed);
        let rows: Vec<_> =
            perturbed.map(|((index, var), v)| (index, var.clone(), v.as_detached_tensor())).collect();
        for (index, var, _) in &rows {
            keep_beside(&mut self.old[*index], var)?;
        }
        let rows: Vec<_> = rows.iter().map(|(index, var, v)| (*index, var, v)).collect();
        let ascent = self.ascent_along_momentum(&rows)?;
        self.grad_norm = ascent.norm().clone();
        let moved = self.move_weights(&ascent, &rows)?;
        self.perturbed.extend(moved);
        Ok(())
    }
}

/// The gradients of all variables, or of those that are read.
fn gradients_of(loss: &Tensor, read: Option<&[Var]>) -> Result<GradStore> {
    if loss.elem_count() != 1 {
        return Err(Error::LossShape(loss.shape().clone()));
    }
    match read {
        Some(vars) => Ok(backward_to(loss, vars)?),
        None => Ok(backward(loss)?),
    }
}
