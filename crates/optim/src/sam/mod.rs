//! Sharpness-Aware Minimization around a base optimizer.

mod ascent;
mod buffers;
mod config;
mod state;
mod step;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::FoundInf;
use wrn_sam_kernels::{Cpu, OutOfRange};

pub use config::SamConfig;
pub use step::{Perturbed, Step};

use crate::parameters::Parameters;
use crate::{Error, Result, Variables};
use ascent::keep_beside;
use buffers::Buffers;

/// Which of a step's two passes a closure given to [`Sam::step`] is called for.
///
/// The running statistics of batch normalization must move in the first pass only, as the second is not at the weights
/// of the network. A layer that can freeze its statistics chooses by the pass. One that cannot, such as candle_nn's
/// `BatchNorm` in training, moves them in both; [`Sam::with_buffers`] then undoes what the second pass did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// At the weights w.
    First,
    /// At the perturbed weights w + e.
    Second,
}

/// Sharpness-Aware Minimization (Foret et al., <https://arxiv.org/abs/2010.01412>) around a base optimizer `O`:
/// [`Sgd`](crate::Sgd) or [`AdamW`](crate::AdamW), which can save their state, or any of candle's.
///
/// With the gradient g over all parameters together, a step first moves the weights to w + e,
///
/// e = rho · g / (‖g‖₂ + 1e-12), or, adaptive, e = rho · w² g / (‖|w| g‖₂ + 1e-12),
///
/// and with 1/p + 1/q = 1, for other p, e = rho · sign(u) |u|^(q-1) / ((Σ|u|^q)^(1/p) + 1e-12) with u = g, or
/// |w| times that with u = |w| g. It then takes the gradient at w + e, returns to w and lets the base optimizer step along
/// that gradient. Weight decay belongs to the base optimizer only.
///
/// Parameters without a gradient are neither perturbed nor stepped; a pass in which none has a gradient is an error.
/// `Sam` is not an `Optimizer` itself, as a `step` along one gradient cannot say two passes.
///
/// # After an error
/// Weights, buffers ([`with_buffers`](Self::with_buffers)) and the state of the optimizer are what they were before the
/// step, to the bit: whatever failed, in whichever pass, and also after a panic. A batch with NaN, for example, can be
/// skipped. (The state inside an optimizer of another crate that fails halfway through its step is the exception.)
///
/// # Memory and threads
/// The weights w are kept in a second set of variables, made at the first step and used again in every later
/// one. On the CPU, `f32` parameters take fused passes on all threads; the result does not depend on their
/// number.
///
/// # On a GPU
/// `f32` parameters on one NVIDIA GPU (feature `cuda`) take a few launches for all of them together, and nothing
/// waits: the norm stays there, and a gradient that is not finite is noted there. From that step on no weight
/// moves, neither by SAM nor by [`Sgd`](crate::Sgd) and [`AdamW`](crate::AdamW) under it (a base optimizer of another
/// crate does not know of the note), until [`check_gradients`](Sam::check_gradients), to be called now and then, reports
/// the error and puts the buffers back; [`state`](crate::OptimizerState::state) calls it too.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{Sam, SamConfig, Sgd, SgdConfig};
///
/// let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
/// let loss = || (w.sqr()?.sum_all()? * 0.5)?.backward(); // the gradient is w itself
///
/// let base = Sgd::new(vec![w.clone()], SgdConfig::new(0.5))?;
/// let mut sam = Sam::new(base, SamConfig::new(2.5))?;
///
/// let step = sam.begin()?;
/// if let Some(perturbed) = step.climb(&loss()?)? {
///     assert_eq!(perturbed.grad_norm().to_scalar::<f64>()?, 5.0);
///     assert_eq!(w.to_vec1::<f32>()?, [4.5, 6.0]); // w + 2.5 · w / ‖w‖
///     perturbed.descend(&loss()?)?;
/// }
/// assert_eq!(w.to_vec1::<f32>()?, [0.75, 1.0]); // w - 0.5 · [4.5, 6.0]
/// # Ok::<(), wrn_sam_optim::Error>(())
/// ```
#[derive(Debug)]
pub struct Sam<O> {
    parameters: Parameters,
    base: O,
    /// Whether the base is known to step these parameters, and each step of it to be all or nothing.
    base_is_known: bool,
    /// Whether it is known to move one of them.
    base_moves: bool,
    config: SamConfig,
    context: Cpu,
    /// Where a perturbation leaves w, for each parameter that was ever perturbed.
    old: Vec<Option<Var>>,
    /// The parameters that are perturbed now.
    perturbed: Vec<usize>,
    buffers: Buffers,
    grad_norm: Tensor,
    /// What a GPU has to tell.
    found_inf: FoundInf,
}

impl<O: Variables> Sam<O> {
    /// SAM over the variables of `base`, under the names that it has for them.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; those of the base's list, such as [`Error::NoParameters`].
    pub fn new(base: O, config: SamConfig) -> Result<Self> {
        let parameters = Parameters::new(base.vars().to_vec(), base.names().map(<[String]>::to_vec))?;
        Self::made(parameters, base, true, config)
    }
}

impl<O> Sam<O> {
    /// SAM over `vars` around a base optimizer that cannot list its variables, such as one of candle's: it must have been
    /// made with the same ones.
    ///
    /// Each step takes a copy of the weights, to put them back where the base optimizer fails, and until a weight has
    /// moved checks whether one does: see [`Error::NothingMoved`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::NoParameters`] for an empty list; [`Error::DuplicateParameter`] for a variable
    /// listed twice.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_nn::{Optimizer, SGD};
    /// use wrn_sam_optim::{Sam, SamConfig};
    ///
    /// let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
    /// let mut sam = Sam::over(vec![w.clone()], SGD::new(vec![w.clone()], 0.1)?, SamConfig::default())?;
    /// sam.step(|_| w.sqr()?.sum_all())?;
    ///
    /// let other = SGD::new(vec![Var::new(1f32, &Device::Cpu)?], 0.1)?;
    /// let mut sam = Sam::over(vec![w.clone()], other, SamConfig::default())?;
    /// let error = sam.step(|_| w.sqr()?.sum_all()).unwrap_err().to_string();
    /// assert!(error.contains("make it with the same variables"));
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn over(vars: Vec<Var>, base: O, config: SamConfig) -> Result<Self> {
        Self::made(Parameters::new(vars, None)?, base, false, config)
    }

    fn made(parameters: Parameters, base: O, base_is_known: bool, config: SamConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            old: vec![None; parameters.vars().len()],
            parameters,
            base,
            base_is_known,
            base_moves: base_is_known,
            config,
            context: Cpu::shared().clone(),
            perturbed: Vec::new(),
            buffers: Buffers::default(),
            grad_norm: Tensor::new(0f64, &Device::Cpu)?,
            found_inf: FoundInf::default(),
        })
    }

    /// Runs on the threads of `context` rather than on all of the machine's. The base optimizer has a context
    /// of its own.
    #[must_use]
    pub fn with_cpu(self, context: Cpu) -> Self {
        Self { context, ..self }
    }

    /// With buffers that the forward passes move, such as the running statistics and batch counts of batch
    /// normalization. A variable may be given twice, and may be a parameter too.
    ///
    /// A step keeps what the first pass makes of them, undoes what the second pass does to them, and after an error puts
    /// back what they were before the step. Without this, a batch with NaN leaves running statistics of NaN.
    ///
    /// # Errors
    /// candle's where there is no memory for copies.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{ModuleT, VarBuilder, VarMap, batch_norm};
    /// use wrn_sam_optim::{Sam, SamConfig, Sgd, SgdConfig, named_vars};
    ///
    /// let variables = VarMap::new();
    /// let norm = batch_norm(2, 1e-5, VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    /// let is_buffer = |(name, _): &(String, _)| name.contains("running_");
    /// let (buffers, parameters): (Vec<_>, Vec<_>) = named_vars(&variables).into_iter().partition(is_buffer);
    ///
    /// let base = Sgd::named(parameters, SgdConfig::new(0.1))?;
    /// let mut sam = Sam::new(base, SamConfig::default())?.with_buffers(buffers.into_iter().map(|(_, var)| var))?;
    /// let x = Tensor::new(&[[1f32, 0.], [3., 0.]], &Device::Cpu)?;
    /// sam.step(|_| norm.forward_t(&x, true)?.sqr()?.sum_all())?;
    /// let mean: Vec<f32> = norm.running_mean().to_vec1()?;
    /// assert!((mean[0] - 0.2).abs() < 1e-6); // moved once by a tenth of the way from 0 to 2
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn with_buffers(mut self, buffers: impl IntoIterator<Item = Var>) -> Result<Self> {
        self.add_buffers(buffers)?;
        Ok(self)
    }

    /// As [`with_buffers`](Self::with_buffers), of a `Sam` in use. Those that it has already stay.
    ///
    /// # Errors
    /// As [`with_buffers`](Self::with_buffers).
    pub fn add_buffers(&mut self, buffers: impl IntoIterator<Item = Var>) -> Result<()> {
        self.buffers.add(buffers)
    }

    /// The hyper-parameters in force.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// Replaces the hyper-parameters, from the next step on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; the old ones then stay in force.
    pub fn set_config(&mut self, config: SamConfig) -> Result<()> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// Sets the radius, from the next step on; 0 turns SAM off.
    ///
    /// # Errors
    /// As [`set_config`](Self::set_config).
    pub fn set_rho(&mut self, rho: f64) -> Result<()> {
        self.set_config(self.config.with_rho(rho))
    }

    /// The parameters, in the order that they were given in.
    pub fn vars(&self) -> &[Var] {
        self.parameters.vars()
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

    /// The norm of the last step's gradient at w over all parameters: ‖g‖₂, or ‖|w| g‖₂ where adaptive (for another p, the
    /// dual norm, with exponent q); 0 before the first step. A scalar in `f64`, on the device that computed it: only
    /// looking at it waits for a GPU.
    pub fn grad_norm(&self) -> &Tensor {
        &self.grad_norm
    }

    /// Whether all gradients since the last call were finite. On the CPU they were: the steps themselves report it. On a
    /// GPU this waits for the steps taken so far.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradientOnGpu`]; weights and buffers are those before the step of that gradient. (Buffers of a
    /// type other than `f32`, `f64`, `u32` and `i64` are those before the last step.)
    pub fn check_gradients(&self) -> Result<()> {
        let Some(norm) = self.found_inf.take()? else { return Ok(()) };
        self.buffers.restore()?;
        Err(Error::NonFiniteGradientOnGpu { norm })
    }
}

impl<O: Optimizer> Sam<O> {
    /// Begins a step; the weights are at w. What it returns continues the step, or when it is dropped puts everything
    /// back.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a learning rate that is not finite; candle's where it cannot copy the buffers.
    pub fn begin(&mut self) -> Result<Step<'_, O>> {
        // A guard that was leaked rather than dropped has put nothing back.
        self.undo()?;
        let rate = self.base.learning_rate();
        OutOfRange::check("learning_rate", rate, rate.is_finite(), "a finite number")?;
        self.buffers.begin(&self.found_inf)?;
        Ok(Step::new(self))
    }

    /// Both passes of one step: `loss(Pass::First)` at w, then `loss(Pass::Second)` at w + e, each
    /// differentiated here, then the base step. Where rho is 0 the first pass is the only one. Returns the first loss,
    /// detached.
    ///
    /// The closure's error type is candle's. The errors of this crate and of wrn-sam's losses, models and kernels convert
    /// into it by `?`; wrap others with `candle_core::Error::wrap`, or use [`begin`](Self::begin).
    ///
    /// # Errors
    /// Whatever the closure reports, [`Error::LossShape`] for a loss that is not a single number, and the errors
    /// of [`begin`](Self::begin), [`Step::climb`] and [`Perturbed::descend`]. Nothing has changed then.
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
        let first = loss(Pass::First)?;
        let gradients = gradients_of(&first)?;
        // What a pass keeps for its backward pass is freed before the next one needs memory.
        let value = first.detach();
        drop(first);
        let perturbed = step.climb(&gradients)?;
        drop(gradients);
        if let Some(perturbed) = perturbed {
            let second = loss(Pass::Second)?;
            let gradients = gradients_of(&second)?;
            drop(second);
            perturbed.descend(&gradients)?;
        }
        Ok(value)
    }

    /// The base optimizer's learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.base.learning_rate()
    }

    /// Sets the base optimizer's learning rate. The next step checks it.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.base.set_learning_rate(learning_rate);
    }

    /// The base optimizer's step from w, with which the whole step is taken.
    fn step_base(&mut self, gradients: &GradStore) -> Result<()> {
        if self.base_is_known {
            self.found_inf.guard(|| self.base.step(gradients))?;
        } else {
            self.step_unknown_base(gradients)?;
        }
        self.buffers.end();
        Ok(())
    }

    /// The step of a base that may fail halfway, or step other variables.
    fn step_unknown_base(&mut self, gradients: &GradStore) -> Result<()> {
        let parameters = self.parameters.with_gradients(gradients)?;
        for &(index, var, _) in &parameters {
            keep_beside(&mut self.old[index], var)?.set(var)?;
        }
        let stepped = self.found_inf.guard(|| self.base.step(gradients));
        let mut gradients_are_zero = true;
        for &(index, var, gradient) in &parameters {
            let Some(old) = &self.old[index] else { continue };
            if stepped.is_err() {
                var.set(old)?;
            } else if !self.base_moves {
                self.base_moves = !equal(var, old)?;
                gradients_are_zero &= equal(gradient, &gradient.zeros_like()?)?;
            }
        }
        stepped?;
        if self.base_moves || gradients_are_zero || self.base.learning_rate() == 0.0 {
            return Ok(());
        }
        Err(Error::NothingMoved)
    }
}

fn equal(one: &Tensor, other: &Tensor) -> Result<bool> {
    Ok(one.ne(other)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? == 0)
}

fn gradients_of(loss: &Tensor) -> Result<GradStore> {
    if loss.elem_count() != 1 {
        return Err(Error::LossShape(loss.shape().clone()));
    }
    Ok(wrn_sam_kernels::backward(loss)?)
}
