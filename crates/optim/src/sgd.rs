//! Stochastic gradient descent with momentum, as PyTorch's.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::{self, SgdStep};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::groups::{Group, Groups};
use crate::parameters::Parameters;
use crate::state::{Entries, buffer, check_learning_rate, check_not_negative, count, number};
use crate::{OptimizerState, Result, Variables};

/// The hyper-parameters of [`Sgd`], under PyTorch's names.
///
/// ```
/// use wrn_sam_optim::SgdConfig;
///
/// let config = SgdConfig::new(0.1).with_momentum(0.9).with_nesterov(true);
/// assert!(config.validate().is_ok());
/// let error = config.with_dampening(0.1).validate().unwrap_err();
/// assert_eq!(error.to_string(), "nesterov = true: must be false unless momentum is above 0 and dampening is 0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SgdConfig {
    /// The learning rate: a finite number of at least 0. Default 0.1.
    pub learning_rate: f64,
    /// The factor of the momentum buffer in each step: a finite number of at least 0; 0 for no momentum. Default 0.
    pub momentum: f64,
    /// The share of a gradient that does not enter the momentum buffer, except in a parameter's first step: a finite
    /// number. Default 0.
    pub dampening: f64,
    /// Nesterov's momentum; needs a momentum above 0 and no dampening. Default false.
    pub nesterov: bool,
    /// The factor of the weights that is added to their gradient: a finite number of at least 0. Default 0.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self::new(0.1)
    }
}

impl SgdConfig {
    /// Plain gradient descent at a learning rate.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }

    /// With this [`learning_rate`](Self::learning_rate).
    #[must_use]
    pub fn with_learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate, ..self }
    }

    /// With this [`momentum`](Self::momentum).
    #[must_use]
    pub fn with_momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// With this [`dampening`](Self::dampening).
    #[must_use]
    pub fn with_dampening(self, dampening: f64) -> Self {
        Self { dampening, ..self }
    }

    /// With or without [`nesterov`](Self::nesterov).
    #[must_use]
    pub fn with_nesterov(self, nesterov: bool) -> Self {
        Self { nesterov, ..self }
    }

    /// With this [`weight_decay`](Self::weight_decay).
    #[must_use]
    pub fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let &Self { learning_rate, momentum, dampening, nesterov, weight_decay } = self;
        check_learning_rate(learning_rate)?;
        check_not_negative("momentum", momentum)?;
        OutOfRange::check("dampening", dampening, dampening.is_finite(), "a finite number")?;
        check_not_negative("weight_decay", weight_decay)?;
        let defined = !nesterov || (momentum > 0.0 && dampening == 0.0);
        let expected = "false unless momentum is above 0 and dampening is 0";
        Ok(OutOfRange::check("nesterov", nesterov, defined, expected)?)
    }
}

/// Stochastic gradient descent with momentum, dampening, Nesterov's momentum and weight decay, with
/// PyTorch's arithmetic:
///
/// d = g + weight_decay · w;  b = d the first time, then momentum · b + (1 - dampening) · d;
/// w ← w - learning_rate · (d without momentum; d + momentum · b with Nesterov; else b).
///
/// A parameter without a gradient stays as it is, and so does its momentum. A step in which no parameter has a gradient
/// is an error. A step is checked before it moves anything: after an error, weights and state are as before it.
/// On the CPU, `f32` parameters take fused passes on all threads; the result does not depend on their number. On an
/// NVIDIA GPU they take a launch or two for all of them together.
///
/// Its state can be saved if it is made by [`named`](Self::named).
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{Sgd, SgdConfig};
///
/// let w = Var::new(&[1f32, -2.], &Device::Cpu)?;
/// let mut sgd = Sgd::new(vec![w.clone()], SgdConfig::new(0.25).with_momentum(0.5))?;
/// sgd.backward_step(&w.sqr()?.sum_all()?)?; // the gradient is 2w
/// assert_eq!(w.to_vec1::<f32>()?, [0.5, -1.0]);
/// sgd.backward_step(&w.sqr()?.sum_all()?)?; // b = 0.5 · [2, -4] + [1, -2]
/// assert_eq!(w.to_vec1::<f32>()?, [0.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Sgd {
    parameters: Parameters,
    /// One for each parameter, or none at all without momentum.
    momentum_buffers: Vec<Var>,
    /// Whether each parameter has taken its first step with momentum.
    started: Vec<bool>,
    config: SgdConfig,
    groups: Groups,
    context: Cpu,
}

impl Sgd {
    /// Over variables with their names, which its state is saved by: those of a `VarMap` from
    /// [`named_vars`](crate::named_vars).
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), [`Error::NoParameters`](crate::Error::NoParameters),
    /// [`Error::DuplicateParameter`](crate::Error::DuplicateParameter),
    /// [`Error::DuplicateName`](crate::Error::DuplicateName).
    pub fn named(parameters: Vec<(String, Var)>, config: SgdConfig) -> Result<Self> {
        Self::over(Parameters::named(parameters)?, config)
    }

    fn over(parameters: Parameters, config: SgdConfig) -> Result<Self> {
        config.validate()?;
        let mut sgd = Self {
            started: vec![false; parameters.vars().len()],
            groups: Groups::none(parameters.vars().len()),
            momentum_buffers: Vec::new(),
            parameters,
            config,
            context: Cpu::shared().clone(),
        };
        sgd.set_config(config)?;
        Ok(sgd)
    }

    /// Runs on the threads of `context` rather than on all of the machine's.
    #[must_use]
    pub fn with_cpu(self, context: Cpu) -> Self {
        Self { context, ..self }
    }

    /// Gives these of the parameters a weight decay or learning rate of their own. A parameter is in the group that it was
    /// given last. [`set_learning_rate`](Optimizer::set_learning_rate) keeps the ratios. The group is saved with the state, so an
    /// optimizer that loads it must have been given the same parameters.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange); [`Error::NoParameters`](crate::Error::NoParameters) for an empty list;
    /// [`Error::UnknownParameter`](crate::Error::UnknownParameter).
    pub fn with_group(mut self, subset: &[Var], group: Group) -> Result<Self> {
        self.groups.put(&self.parameters, subset, group)?;
        Ok(self)
    }

    /// The hyper-parameters in force.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }

    /// Replaces the hyper-parameters. The momentum buffers stay; at a momentum of 0 they are dropped.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange); the old ones then stay in force.
    pub fn set_config(&mut self, config: SgdConfig) -> Result<()> {
        config.validate()?;
        let vars = self.parameters.vars();
        if config.momentum == 0.0 {
            (self.momentum_buffers, self.started) = (Vec::new(), vec![false; vars.len()]);
        } else if self.momentum_buffers.is_empty() {
            let zeros = vars.iter().map(|var| Var::zeros(var.shape(), var.dtype(), var.device()));
            self.momentum_buffers = zeros.collect::<candle_core::Result<_>>()?;
        }
        self.config = config;
        Ok(())
    }

    fn try_step(&mut self, gradients: &GradStore) -> Result<()> {
        self.config.validate()?;
        let SgdConfig { learning_rate, momentum, dampening, nesterov, weight_decay } = self.config;
        let parameters = self.parameters.with_gradients(gradients)?;
        // Parameters of the same constants go together.
        let mut by_constants = BTreeMap::<_, Vec<_>>::new();
        for &(index, var, gradient) in &parameters {
            let (rate, decay) = self.groups.of(index, learning_rate, weight_decay);
            let alike =
                by_constants.entry((self.started[index], rate.to_bits(), decay.to_bits())).or_default();
            alike.push((var, gradient, self.momentum_buffers.get(index)));
        }
        for ((started, rate, decay), alike) in by_constants {
            let (learning_rate, weight_decay) = (f64::from_bits(rate), f64::from_bits(decay));
            // A first step is b = d: from a buffer of zeros, without dampening.
            let dampening = if started { dampening } else { 0.0 };
            let step = SgdStep { learning_rate, momentum, dampening, nesterov, weight_decay };
            optimizer_step::sgd_all(&self.context, &alike, &step)?;
        }
        for (index, ..) in parameters {
            self.started[index] = momentum > 0.0;
        }
        Ok(())
    }
}

impl Variables for Sgd {
    fn vars(&self) -> &[Var] {
        self.parameters.vars()
    }

    fn names(&self) -> Option<&[String]> {
        self.parameters.names()
    }

    fn momentum(&self) -> Vec<&Var> {
        self.momentum_buffers.iter().collect()
    }
}

impl Optimizer for Sgd {
    type Config = SgdConfig;

    /// Over variables without names: the state cannot be saved.
    fn new(vars: Vec<Var>, config: SgdConfig) -> candle_core::Result<Self> {
        Ok(Self::over(Parameters::new(vars, None)?, config)?)
    }

    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        Ok(self.try_step(gradients)?)
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    /// The next step checks it.
    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }
}

/// The five hyper-parameters; with momentum, for each parameter also `started.{name}`, 1 after its first step, and
/// `momentum_buffer.{name}`; for each in a [`Group`] `weight_decay.{name}` and `learning_rate_ratio.{name}`.
impl OptimizerState for Sgd {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = vec![
            number("learning_rate", self.config.learning_rate)?,
            number("momentum", self.config.momentum)?,
            number("dampening", self.config.dampening)?,
            number("nesterov", self.config.nesterov.into())?,
            number("weight_decay", self.config.weight_decay)?,
        ];
        let buffers = self.momentum_buffers.iter().zip(&self.started);
        for ((name, _), (var, &started)) in self.parameters.by_name()?.zip(buffers) {
            state.push(count("started", name, started.into())?);
            state.push(buffer("momentum_buffer", name, var)?);
        }
        state.extend(self.groups.state(&self.parameters)?);
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut entries = Entries::of(state);
        let config = SgdConfig {
            learning_rate: entries.number("learning_rate")?,
            momentum: entries.number("momentum")?,
            dampening: entries.number("dampening")?,
            nesterov: entries.switch("nesterov")?,
            weight_decay: entries.number("weight_decay")?,
        };
        let (mut momentum_buffers, mut started) = (Vec::new(), Vec::new());
        for (name, var) in self.parameters.by_name()? {
            if config.momentum == 0.0 {
                started.push(false);
            } else {
                started.push(entries.count("started", name, 1)? == 1);
                momentum_buffers.push(entries.buffer("momentum_buffer", name, var)?);
            }
        }
        let groups = self.groups.load(&self.parameters, &mut entries)?;
        entries.finish()?;
        config.validate()?;
        groups.validate()?;
        (self.config, self.groups) = (config, groups);
        (self.momentum_buffers, self.started) = (momentum_buffers, started);
        Ok(())
    }
}
