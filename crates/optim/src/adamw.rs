//! Adam with decoupled weight decay, as PyTorch's.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::{self, AdamWStep};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::groups::{Group, Groups};
use crate::parameters::Parameters;
use crate::state::{Entries, buffer, check_learning_rate, check_not_negative, count, number};
use crate::{OptimizerState, Result, Variables};

/// The hyper-parameters of [`AdamW`], with PyTorch's defaults.
///
/// ```
/// use wrn_sam_optim::AdamWConfig;
///
/// let config = AdamWConfig::new(3e-4).with_weight_decay(0.05);
/// assert!(config.validate().is_ok());
/// let error = config.with_beta2(1.0).validate().unwrap_err();
/// assert_eq!(error.to_string(), "beta2 = 1: must be at least 0 and less than 1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdamWConfig {
    /// The learning rate: a finite number of at least 0. Default 0.001.
    pub learning_rate: f64,
    /// The decay of the mean of the gradients, in [0, 1). Default 0.9.
    pub beta1: f64,
    /// The decay of the mean of the squared gradients, in [0, 1). Default 0.999.
    pub beta2: f64,
    /// Added to the denominator: a finite number of at least 0. Default 1e-8.
    pub epsilon: f64,
    /// The share of the weights that a step subtracts, times the learning rate: a finite number of at least 0. Default
    /// 0.01.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self::new(1e-3)
    }
}

impl AdamWConfig {
    /// The defaults at a learning rate.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }

    /// With this [`learning_rate`](Self::learning_rate).
    #[must_use]
    pub fn with_learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate, ..self }
    }

    /// With this [`beta1`](Self::beta1).
    #[must_use]
    pub fn with_beta1(self, beta1: f64) -> Self {
        Self { beta1, ..self }
    }

    /// With this [`beta2`](Self::beta2).
    #[must_use]
    pub fn with_beta2(self, beta2: f64) -> Self {
        Self { beta2, ..self }
    }

    /// With this [`epsilon`](Self::epsilon).
    #[must_use]
    pub fn with_epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
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
        let &Self { learning_rate, beta1, beta2, epsilon, weight_decay } = self;
        check_learning_rate(learning_rate)?;
        for (name, beta) in [("beta1", beta1), ("beta2", beta2)] {
            OutOfRange::check(name, beta, (0.0..1.0).contains(&beta), "at least 0 and less than 1")?;
        }
        check_not_negative("epsilon", epsilon)?;
        Ok(check_not_negative("weight_decay", weight_decay)?)
    }
}

/// Adam with decoupled weight decay (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>), with PyTorch's
/// arithmetic. In a parameter's step number t, counted from 1:
///
/// w ← (1 - learning_rate · weight_decay) · w;  m ← m + (1 - beta1) (g - m);  v ← beta2 · v + (1 - beta2) g²;
/// w ← w - learning_rate / (1 - beta1ᵗ) · m / (√v / √(1 - beta2ᵗ) + epsilon).
///
/// As candle's own, and with a state that can be saved ([`OptimizerState`]) if it is made by [`named`](Self::named). A
/// parameter without a gradient stays as it is, and so do its moments and step count. A step in which no parameter has a
/// gradient is an error. A step is checked before it moves anything, and runs as [`Sgd`](crate::Sgd)'s does.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{AdamW, AdamWConfig};
///
/// let w = Var::new(&[1f32, -2.], &Device::Cpu)?;
/// let mut adamw = AdamW::new(vec![w.clone()], AdamWConfig::new(0.5).with_weight_decay(0.0))?;
/// adamw.backward_step(&w.sqr()?.sum_all()?)?;
/// let after = w.to_vec1::<f32>()?; // the first step goes by the gradient's signs
/// assert!((after[0] - 0.5).abs() < 1e-6 && (after[1] + 1.5).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct AdamW {
    parameters: Parameters,
    moments: Vec<Moments>,
    config: AdamWConfig,
    groups: Groups,
    context: Cpu,
}

#[derive(Debug)]
struct Moments {
    first: Var,
    second: Var,
    /// The steps taken.
    steps: u64,
}

/// A count that is saved as an i64 and never overflows.
const MOST_STEPS: u64 = i64::MAX as u64 - 1;

impl AdamW {
    /// Over variables with their names, which its state is saved by: those of a `VarMap` from
    /// [`named_vars`](crate::named_vars).
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), [`Error::NoParameters`](crate::Error::NoParameters),
    /// [`Error::DuplicateParameter`](crate::Error::DuplicateParameter),
    /// [`Error::DuplicateName`](crate::Error::DuplicateName).
    pub fn named(parameters: Vec<(String, Var)>, config: AdamWConfig) -> Result<Self> {
        Self::over(Parameters::named(parameters)?, config)
    }

    fn over(parameters: Parameters, config: AdamWConfig) -> Result<Self> {
        config.validate()?;
        let moments = parameters.vars().iter().map(|var| {
            let zeros = || Var::zeros(var.shape(), var.dtype(), var.device());
            Ok(Moments { first: zeros()?, second: zeros()?, steps: 0 })
        });
        let moments = moments.collect::<Result<_>>()?;
        let groups = Groups::none(parameters.vars().len());
        Ok(Self { parameters, moments, config, groups, context: Cpu::shared().clone() })
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
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// Replaces the hyper-parameters. Moments and step counts stay.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange); the old ones then stay in force.
    pub fn set_config(&mut self, config: AdamWConfig) -> Result<()> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    fn try_step(&mut self, gradients: &GradStore) -> Result<()> {
        self.config.validate()?;
        let AdamWConfig { learning_rate, beta1, beta2, epsilon, weight_decay } = self.config;
        let parameters = self.parameters.with_gradients(gradients)?;
        // Parameters of the same constants go together.
        let mut by_constants = BTreeMap::<_, Vec<_>>::new();
        for &(index, var, gradient) in &parameters {
            let Moments { first, second, steps } = &self.moments[index];
            let (rate, decay) = self.groups.of(index, learning_rate, weight_decay);
            let alike = by_constants.entry((steps + 1, rate.to_bits(), decay.to_bits())).or_default();
            alike.push((var, gradient, first, second));
        }
        for ((step, rate, decay), group) in by_constants {
            let (learning_rate, weight_decay) = (f64::from_bits(rate), f64::from_bits(decay));
            let constants = AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, step };
            optimizer_step::adamw_all(&self.context, &group, &constants)?;
        }
        for (index, ..) in parameters {
            self.moments[index].steps += 1;
        }
        Ok(())
    }
}

impl Variables for AdamW {
    fn vars(&self) -> &[Var] {
        self.parameters.vars()
    }

    fn names(&self) -> Option<&[String]> {
        self.parameters.names()
    }

    /// The first moments.
    fn momentum(&self) -> Vec<&Var> {
        self.moments.iter().map(|moments| &moments.first).collect()
    }
}

impl Optimizer for AdamW {
    type Config = AdamWConfig;

    /// Over variables without names: the state cannot be saved.
    fn new(vars: Vec<Var>, config: AdamWConfig) -> candle_core::Result<Self> {
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

/// The five hyper-parameters, and for each parameter `step.{name}` (the steps taken), `exp_avg.{name}` and
/// `exp_avg_sq.{name}`; for each in a [`Group`] `weight_decay.{name}` and `learning_rate_ratio.{name}`.
impl OptimizerState for AdamW {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = vec![
            number("learning_rate", self.config.learning_rate)?,
            number("beta1", self.config.beta1)?,
            number("beta2", self.config.beta2)?,
            number("epsilon", self.config.epsilon)?,
            number("weight_decay", self.config.weight_decay)?,
        ];
        for ((name, _), Moments { first, second, steps }) in self.parameters.by_name()?.zip(&self.moments) {
            state.push(count("step", name, *steps)?);
            state.push(buffer("exp_avg", name, first)?);
            state.push(buffer("exp_avg_sq", name, second)?);
        }
        state.extend(self.groups.state(&self.parameters)?);
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut entries = Entries::of(state);
        let config = AdamWConfig {
            learning_rate: entries.number("learning_rate")?,
            beta1: entries.number("beta1")?,
            beta2: entries.number("beta2")?,
            epsilon: entries.number("epsilon")?,
            weight_decay: entries.number("weight_decay")?,
        };
        let mut moments = Vec::new();
        for (name, var) in self.parameters.by_name()? {
            let steps = entries.count("step", name, MOST_STEPS)?;
            let first = entries.buffer("exp_avg", name, var)?;
            let second = entries.squares("exp_avg_sq", name, var)?;
            moments.push(Moments { first, second, steps });
        }
        let groups = self.groups.load(&self.parameters, &mut entries)?;
        entries.finish()?;
        config.validate()?;
        groups.validate()?;
        (self.config, self.moments, self.groups) = (config, moments, groups);
        Ok(())
    }
}
