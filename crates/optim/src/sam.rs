//! Sharpness-Aware Minimization around a base optimizer.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::{self, Ascent, FoundInf, Neighborhood};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::parameters::{check_distinct, with_gradients};
use crate::state::{Entries, number};
use crate::{Error, OptimizerState, Result};

/// The hyper-parameters of [`Sam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamConfig {
    /// The radius of the neighborhood whose largest loss is minimized, at least 0. Default 0.05; adaptive
    /// SAM wants it about ten times as large or more.
    pub rho: f64,
    /// Whether the radius is measured in units of each weight's size (ASAM, Kwon et al.,
    /// <https://arxiv.org/abs/2102.11600>). Default false.
    pub adaptive: bool,
    /// The exponent p of the norm that the radius is measured in, above 1. Default 2; with
    /// [`f64::INFINITY`] every weight moves by rho.
    pub p: f64,
}

impl Default for SamConfig {
    fn default() -> Self {
        Self { rho: 0.05, adaptive: false, p: 2.0 }
    }
}

impl SamConfig {
    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn validate(&self) -> Result<()> {
        OutOfRange::check(
            "rho",
            self.rho,
            self.rho.is_finite() && self.rho >= 0.0,
            "a number of at least 0",
        )?;
        OutOfRange::check("p", self.p, self.p > 1.0, "above 1 (2 is usual, infinity allowed)")?;
        Ok(())
    }

    fn neighborhood(&self) -> Neighborhood {
        Neighborhood { p: self.p, adaptive: self.adaptive }
    }
}

/// Which of a step's two passes a closure given to [`Sam::step`] is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// At the weights w. Running statistics of batch normalization move here.
    First,
    /// At the perturbed weights w + e. Running statistics stay.
    Second,
}

/// Sharpness-Aware Minimization (Foret et al., <https://arxiv.org/abs/2010.01412>) around a base optimizer `O`:
/// any of candle's, or [`Sgd`](crate::Sgd) or [`AdamW`](crate::AdamW), which can save their state.
///
/// With the gradient g over all parameters together, the first step moves the weights to w + e,
///
/// e = rho · g / (‖g‖₂ + 1e-12), or, adaptive, e = rho · w² g / (‖|w| g‖₂ + 1e-12),
///
/// and with 1/p + 1/q = 1, for other p, e = rho · sign(u) |u|^(q-1) / ((Σ|u|^q)^(1/p) + 1e-12) with u = g, or
/// |w| times that with u = |w| g. The second step returns to w and lets the base optimizer step along the
/// gradient taken at w + e. Weight decay belongs to the base optimizer alone.
///
/// Parameters without a gradient are neither perturbed nor stepped. A gradient that is not finite is an error
/// in either step, and leaves the weights at w. `Sam` is not itself an `Optimizer`: one `step` along one gradient
/// cannot say two passes.
///
/// The weights w are kept in a second set of buffers, made at the first step and used again in every later
/// one. On the CPU, `f32` parameters take fused passes on all threads; the result does not depend on their
/// number.
///
/// # On a GPU
/// `f32` parameters on one NVIDIA GPU (feature `cuda`) take a few launches for all of them together, and nothing
/// waits: the norm stays there, and a gradient that is not finite is noted there. From that step on no weight
/// moves any more, neither by SAM nor by [`Sgd`](crate::Sgd) and [`AdamW`](crate::AdamW) under it (a base optimizer of another crate does
/// not know of the note), until [`check_gradients`](Sam::check_gradients), to be called now and then, reports the error;
/// [`state`](OptimizerState::state) calls it too.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{Sam, SamConfig};
///
/// let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
/// let loss = || (w.sqr()?.sum_all()? * 0.5)?.backward(); // the gradient is w itself
///
/// let base = candle_nn::SGD::new(vec![w.clone()], 0.5)?;
/// let mut sam = Sam::new(vec![w.clone()], base, SamConfig { rho: 2.5, ..SamConfig::default() })?;
///
/// let perturbed = sam.first_step(&loss()?)?;
/// assert_eq!(perturbed.grad_norm().to_scalar::<f64>()?, 5.0);
/// assert_eq!(w.to_vec1::<f32>()?, [4.5, 6.0]); // w + 2.5 · w / ‖w‖
/// perturbed.second_step(&loss()?)?;
/// assert_eq!(w.to_vec1::<f32>()?, [0.75, 1.0]); // w - 0.5 · [4.5, 6.0]
/// # Ok::<(), wrn_sam_optim::Error>(())
/// ```
#[derive(Debug)]
pub struct Sam<O> {
    vars: Vec<Var>,
    base: O,
    config: SamConfig,
    context: Cpu,
    /// Where [`optimizer_step::perturb`] leaves w, for each parameter that was ever perturbed.
    old: Vec<Option<Var>>,
    /// The parameters that are perturbed now.
    perturbed: Vec<usize>,
    /// What a GPU has to tell.
    found_inf: FoundInf,
}

impl<O> Sam<O> {
    /// SAM over `vars`, around a `base` optimizer made with the same variables.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or [`Error::DuplicateParameter`] for a variable listed twice.
    pub fn new(vars: Vec<Var>, base: O, config: SamConfig) -> Result<Self> {
        config.validate()?;
        check_distinct(&vars)?;
        let old = vars.iter().map(|_| None).collect();
        let (context, perturbed) = (Cpu::shared().clone(), Vec::new());
        Ok(Self { vars, base, config, context, old, perturbed, found_inf: FoundInf::default() })
    }

    /// Runs on the threads of `context` rather than on all of the machine's. The base optimizer has a context
    /// of its own.
    #[must_use]
    pub fn with_cpu(self, context: Cpu) -> Self {
        Self { context, ..self }
    }

    /// The hyper-parameters in force.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// The parameters, in the order that states name them by.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// The base optimizer.
    pub fn base(&self) -> &O {
        &self.base
    }

    /// The base optimizer, to change its settings.
    pub fn base_mut(&mut self) -> &mut O {
        &mut self.base
    }

    /// The base optimizer, without SAM.
    pub fn into_base(self) -> O {
        self.base
    }

    /// Climbs from w to w + e along `gradients`, those of the loss at w.
    ///
    /// The guard it returns takes the second step. Dropped instead, it restores w, to the bit.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`] (on a GPU later, from [`check_gradients`](Self::check_gradients)), or
    /// [`Error::Gradient`] for one that is not like its parameter; the weights are then at w.
    pub fn first_step(&mut self, gradients: &GradStore) -> Result<Perturbed<'_, O>> {
        // A guard that was leaked rather than dropped has left the weights perturbed.
        self.restore()?;
        let ball = self.config.neighborhood();
        let ascent = self.ascent(&ball, self.config.rho, gradients)?;

        // From here on the guard restores whatever was perturbed, also on the way out of an error.
        let guard = Perturbed { sam: self, ascent };
        let Sam { vars, old, perturbed, context, .. } = &mut *guard.sam;
        let parameters = with_gradients(vars, gradients)?;
        for (index, var, _) in &parameters {
            if old[*index].is_none() {
                old[*index] = Some(Var::zeros(var.shape(), var.dtype(), var.device())?);
            }
        }
        let moved: Vec<_> = parameters
            .iter()
            .filter_map(|&(index, var, gradient)| Some((var, old[index].as_ref()?, gradient)))
            .collect();
        optimizer_step::perturb_all(context, &guard.ascent, &moved)?;
        perturbed.extend(parameters.iter().map(|(index, ..)| index));
        Ok(guard)
    }

    /// How far to climb. Where the sum over all parameters is known here, it is checked to be finite.
    fn ascent(&self, ball: &Neighborhood, rho: f64, gradients: &GradStore) -> Result<Ascent> {
        let parameters = with_gradients(&self.vars, gradients)?;
        let pairs: Vec<_> = parameters.iter().map(|&(_, var, gradient)| (var, gradient)).collect();
        if let Some(ascent) = optimizer_step::ascent(ball, rho, &pairs, &self.found_inf)? {
            return Ok(ascent);
        }
        let sums = optimizer_step::power_sums(&self.context, ball, &pairs)?;
        let mut total = 0.0;
        for (&(parameter, var, _), sum) in parameters.iter().zip(sums) {
            total += sum;
            if !f64::is_finite(total) {
                let shape = var.shape().clone();
                return Err(Error::NonFiniteGradient { parameter, shape, norm: total });
            }
        }
        Ok(Ascent::new(ball, rho, total)?)
    }

    /// Whether all gradients since the last call were finite. On the CPU they were: the steps themselves report it. On a
    /// GPU this waits for the steps taken so far.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradientOnGpu`]; the weights are those before the step of that gradient.
    pub fn check_gradients(&self) -> Result<()> {
        match self.found_inf.take()? {
            None => Ok(()),
            Some(norm) => Err(Error::NonFiniteGradientOnGpu { norm }),
        }
    }

    fn restore(&mut self) -> Result<()> {
        while let Some(&index) = self.perturbed.last() {
            if let Some(old) = &self.old[index] {
                optimizer_step::restore(&self.vars[index], old)?;
            }
            self.perturbed.pop();
        }
        Ok(())
    }
}

impl<O: Optimizer> Sam<O> {
    /// Both passes of one step: `loss(Pass::First)` at w, then `loss(Pass::Second)` at w + e, each
    /// differentiated here, then the base step. Returns the first loss, detached.
    ///
    /// # Errors
    /// Whatever the closure reports, [`Error::LossShape`] for a loss that is not a single number, and the errors
    /// of [`Sam::first_step`] and [`Perturbed::second_step`]; the weights are then at w.
    ///
    /// ```
    /// # use candle_core::{Device, Var};
    /// # use candle_nn::Optimizer;
    /// # use wrn_sam_optim::{Pass, Sam, SamConfig};
    /// # let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
    /// # let mut sam = Sam::new(vec![w.clone()], candle_nn::SGD::new(vec![w.clone()], 0.1)?, SamConfig::default())?;
    /// let loss = sam.step(|pass| {
    ///     // A model would choose its mode by `pass`: running statistics move in the first alone.
    ///     assert!(matches!(pass, Pass::First | Pass::Second));
    ///     w.sqr()?.sum_all()
    /// })?;
    /// assert_eq!(loss.to_scalar::<f32>()?, 25.0);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn step<E: From<Error>>(
        &mut self,
        mut loss: impl FnMut(Pass) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Tensor, E> {
        // What a pass keeps for its backward pass is given back before the next one needs memory.
        let first = loss(Pass::First)?;
        let gradients = gradients_of(&first)?;
        let value = first.detach();
        drop(first);
        let perturbed = self.first_step(&gradients)?;
        drop(gradients);

        let second = loss(Pass::Second)?;
        let gradients = gradients_of(&second)?;
        drop(second);
        perturbed.second_step(&gradients)?;
        Ok(value)
    }

    /// The base optimizer's learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.base.learning_rate()
    }

    /// Sets the base optimizer's learning rate.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.base.set_learning_rate(learning_rate);
    }
}

fn gradients_of(loss: &Tensor) -> Result<GradStore> {
    if loss.elem_count() != 1 {
        return Err(Error::LossShape(loss.shape().clone()));
    }
    Ok(wrn_sam_kernels::backward(loss)?)
}

/// The weights at w + e, between the two steps of [`Sam`]. Dropping it restores w.
///
/// ```
/// # use candle_core::{Device, Var};
/// # use candle_nn::Optimizer;
/// # use wrn_sam_optim::{Sam, SamConfig};
/// # let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
/// # let mut sam = Sam::new(vec![w.clone()], candle_nn::SGD::new(vec![w.clone()], 0.1)?, SamConfig::default())?;
/// let perturbed = sam.first_step(&w.sqr()?.sum_all()?.backward()?)?;
/// assert_ne!(w.to_vec1::<f32>()?, [3., 4.]);
/// drop(perturbed);
/// assert_eq!(w.to_vec1::<f32>()?, [3., 4.]);
/// # Ok::<(), wrn_sam_optim::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the weights are perturbed until `second_step`; dropping this restores them without a step"]
pub struct Perturbed<'a, O> {
    sam: &'a mut Sam<O>,
    ascent: Ascent,
}

impl<O> Perturbed<'_, O> {
    /// The norm of the gradient at w over all parameters: ‖g‖₂, or ‖|w| g‖₂ where adaptive (for another p, the
    /// dual norm, with exponent q). A scalar in `f64`, on the device that computed it: only looking at it waits for
    /// a GPU.
    pub fn grad_norm(&self) -> &Tensor {
        self.ascent.norm()
    }
}

impl<O: Optimizer> Perturbed<'_, O> {
    /// Restores w and lets the base optimizer step along `gradients`, those of the loss at w + e.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`] (on a GPU later, from [`Sam::check_gradients`]), [`Error::Gradient`], or the base
    /// optimizer's error; the weights are then at w.
    pub fn second_step(self, gradients: &GradStore) -> Result<()> {
        // Not for its norm: for what is not finite.
        self.sam.ascent(&Neighborhood { p: 2.0, adaptive: false }, 0.0, gradients)?;
        self.sam.restore()?;
        let Sam { base, found_inf, .. } = &mut *self.sam;
        Ok(found_inf.guard(|| base.step(gradients))?)
    }
}

impl<O> Drop for Perturbed<'_, O> {
    fn drop(&mut self) {
        // Can only fail where a device does, and then the weights are beyond reach.
        let _ = self.sam.restore();
    }
}

/// The base optimizer's entries, and `sam.rho`, `sam.adaptive` and `sam.p`. Between steps SAM itself has no
/// other state.
impl<O: OptimizerState> OptimizerState for Sam<O> {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.check_gradients()?;
        let mut state = self.base.state()?;
        state.extend([
            number("sam.rho", self.config.rho)?,
            number("sam.adaptive", self.config.adaptive.into())?,
            number("sam.p", self.config.p)?,
        ]);
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let entry = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.clone());
        let (own, base): (HashMap<_, _>, HashMap<_, _>) =
            state.iter().map(entry).partition(|(name, _)| name.starts_with("sam."));
        let mut entries = Entries::of(&own);
        let config = SamConfig {
            rho: entries.number("sam.rho")?,
            adaptive: entries.number("sam.adaptive")? != 0.0,
            p: entries.number("sam.p")?,
        };
        entries.finish()?;
        config.validate()?;
        self.base.load_state(&base)?;
        self.config = config;
        Ok(())
    }
}
