//! Sharpness-Aware Minimization around a base optimizer.

mod ascent;
mod base;
mod buffers;
mod config;
mod descent;
mod memory;
mod parts;
mod places;
mod pool;
mod ranks;
mod run;
mod state;
mod step;
mod sums;

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::Cpu;
use wrn_sam_kernels::optimizer_step::FoundInf;

pub use config::{Along, Climb, Descent, SamConfig, Scale, When};
pub use parts::Part;
pub use run::AscentOver;
pub use step::{Perturbed, Step};

use crate::parameters::Parameters;
use crate::{Error, Result, Variables};
use buffers::Buffers;
use memory::Memory;
use places::Place;
use ranks::Together;
use sums::Sums;

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

/// Sharpness-Aware Minimization (Foret et al., <https://arxiv.org/abs/2010.01412>) and its family around a base optimizer `O`:
/// [`Sgd`](crate::Sgd) or [`AdamW`](crate::AdamW), which can save their state, or any of candle's.
///
/// With the gradient g over all parameters together, a step of SAM first moves the weights to w + e,
///
/// e = rho · g / (‖g‖₂ + 1e-12).
///
/// It then takes the gradient at w + e, returns to w and lets the base optimizer step along that gradient. Weight decay
/// belongs to the base optimizer only, and acts at w. [`SamConfig`] chooses another member of the family: which steps have
/// a second pass, where to climb ([`Climb`]), what the base optimizer sees ([`Descent`]).
/// [`perturbing`](Self::perturbing) and [`with_rho_of`](Self::with_rho_of) choose parameters.
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
/// let mut sam = Sam::new(base, SamConfig::sam(2.5))?;
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
    places: Vec<Place>,
    memory: Memory,
    /// The step that a GPU's note says to go back to; `u64::MAX` for none.
    rewind_to: AtomicU64,
    sums: Sums,
    together: Together,
    /// Where what the base sees is made, where it is no gradient as it came.
    scratch: Vec<Option<Var>>,
    /// The base's momentum, if it shows one.
    momentum: Option<fn(&O) -> Vec<&Var>>,
    buffers: Buffers,
    grad_norm: Tensor,
    descent_norm: Option<Tensor>,
    cosine: Option<Tensor>,
    /// What a GPU has to tell.
    found_inf: FoundInf,
}

impl<O: Variables> Sam<O> {
    /// SAM over the variables of `base`, under the names that it has for them.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Choices`]; [`Error::NoMomentum`] for a step along the momentum of a base that has none;
    /// [`Error::Unnamed`] where biases are to be told apart and have no names; those of the base's list, such as
    /// [`Error::NoParameters`].
    pub fn new(base: O, config: SamConfig) -> Result<Self> {
        let parameters = Parameters::new(base.vars().to_vec(), base.names().map(<[String]>::to_vec))?;
        Self::made(parameters, base, true, Some(O::momentum), config)
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
        Self::made(Parameters::new(vars, None)?, base, false, None, config)
    }

    fn made(
        parameters: Parameters,
        base: O,
        base_is_known: bool,
        momentum: Option<fn(&O) -> Vec<&Var>>,
        config: SamConfig,
    ) -> Result<Self> {
        let count = parameters.vars().len();
        let sam = Self {
            old: vec![None; count],
            places: places::of(&parameters),
            memory: Memory::of(count),
            rewind_to: AtomicU64::new(u64::MAX),
            sums: Sums::default(),
            together: Together::default(),
            scratch: vec![None; count],
            momentum,
            descent_norm: None,
            cosine: None,
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
        };
        sam.check_config(&config)?;
        Ok(sam)
    }

    fn check_config(&self, config: &SamConfig) -> Result<()> {
        config.validate()?;
        self.check_names(config)?;
        let has_momentum = self.momentum.is_some_and(|momentum| !momentum(&self.base).is_empty());
        if config.climb.along == Along::Momentum && !has_momentum {
            return Err(Error::NoMomentum);
        }
        Ok(())
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

    /// Replaces the hyper-parameters, from the next step on. What an average of gradients or LookSAM remembers stays where
    /// `along` and `when` stay what they are but for numbers, and else is forgotten.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); the old ones then stay in force.
    pub fn set_config(&mut self, config: SamConfig) -> Result<()> {
        self.check_config(&config)?;
        let remembered = |config: &SamConfig| {
            (std::mem::discriminant(&config.climb.along), std::mem::discriminant(&config.when))
        };
        if remembered(&self.config) != remembered(&config) {
            self.memory.forget();
        }
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

    /// The norm of what the base optimizer saw in the last step, before it was clipped: ‖d‖₂, where it is known without a
    /// pass of its own, which is with a clip and for GSAM, WSAM and LookSAM. A scalar as [`grad_norm`](Self::grad_norm).
    pub fn descent_norm(&self) -> Option<&Tensor> {
        self.descent_norm.as_ref()
    }

    /// The cosine of the angle between the two gradients of the last step that had two, where the member of the family takes
    /// their dot product. A scalar as [`grad_norm`](Self::grad_norm).
    pub fn cosine(&self) -> Option<&Tensor> {
        self.cosine.as_ref()
    }

    /// How many steps were taken: what [`When`] counts by.
    pub fn steps(&self) -> u64 {
        self.settled_memory().step
    }

    /// The memory without the steps that a GPU's note undid.
    fn settled_memory(&self) -> Memory {
        let mut memory = self.memory.clone();
        memory.rewind(self.rewind_to.load(Ordering::Relaxed));
        memory
    }

    /// Whether all gradients since the last call were finite. On the CPU they were: the steps themselves report it. On a
    /// GPU this waits for the steps taken so far.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradientOnGpu`]; weights and buffers are those before the step of that gradient. (Buffers of a
    /// type other than `f32`, `f64`, `u32` and `i64` are those before the last step.)
    pub fn check_gradients(&self) -> Result<()> {
        let Some((norm, step)) = self.found_inf.take()? else { return Ok(()) };
        self.buffers.restore()?;
        self.rewind_to.store(step, Ordering::Relaxed);
        Err(Error::NonFiniteGradientOnGpu { norm })
    }
}

impl<O: Optimizer> Sam<O> {
    /// The base optimizer's learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.base.learning_rate()
    }

    /// Sets the base optimizer's learning rate. The next step checks it.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.base.set_learning_rate(learning_rate);
    }
}
