//! Stochastic gradient descent with momentum, as PyTorch's.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::{self, SgdStep};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::parameters::{check_distinct, with_gradients};
use crate::state::{Entries, buffer, counts, number};
use crate::{Error, OptimizerState, Result};

/// The hyper-parameters of [`Sgd`], under PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// The learning rate, at least 0. Default 0.1.
    pub learning_rate: f64,
    /// What part of the momentum stays, at least 0; 0 for none. Default 0.
    pub momentum: f64,
    /// What part of a gradient does not enter the momentum, after the first. Default 0.
    pub dampening: f64,
    /// Nesterov's momentum; needs momentum above 0 and dampening 0. Default false.
    pub nesterov: bool,
    /// What part of the weights is added to their gradient, at least 0. Default 0.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { learning_rate: 0.1, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

impl SgdConfig {
    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Nesterov`].
    pub fn validate(&self) -> Result<()> {
        let &Self { learning_rate, momentum, dampening, nesterov, weight_decay } = self;
        for (name, value) in
            [("learning_rate", learning_rate), ("momentum", momentum), ("weight_decay", weight_decay)]
        {
            OutOfRange::check(name, value, value.is_finite() && value >= 0.0, "a number of at least 0")?;
        }
        OutOfRange::check("dampening", dampening, dampening.is_finite(), "a number")?;
        if nesterov && (momentum <= 0.0 || dampening != 0.0) {
            return Err(Error::Nesterov { momentum, dampening });
        }
        Ok(())
    }
}

/// Stochastic gradient descent with momentum, dampening, Nesterov's momentum and weight decay, with
/// PyTorch's arithmetic:
///
/// d = g + weight_decay · w;  b = d the first time, then momentum · b + (1 - dampening) · d;
/// w ← w - learning_rate · (d without momentum; d + momentum · b with Nesterov; else b).
///
/// A parameter without a gradient is left alone, its momentum too. A step is checked before it moves anything:
/// a gradient of another shape, element type or device than its parameter's is an error. On the CPU, `f32`
/// parameters take fused passes on all threads; the result does not depend on their number. On an NVIDIA GPU they
/// take a launch or two for all of them together.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{Sgd, SgdConfig};
///
/// let w = Var::new(&[1f32, -2.], &Device::Cpu)?;
/// let config = SgdConfig { learning_rate: 0.25, momentum: 0.5, ..SgdConfig::default() };
/// let mut sgd = Sgd::new(vec![w.clone()], config)?;
/// sgd.backward_step(&w.sqr()?.sum_all()?)?; // the gradient is 2w
/// assert_eq!(w.to_vec1::<f32>()?, [0.5, -1.0]);
/// sgd.backward_step(&w.sqr()?.sum_all()?)?; // b = 0.5 · [2, -4] + [1, -2]
/// assert_eq!(w.to_vec1::<f32>()?, [0.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Sgd {
    vars: Vec<Var>,
    /// Made at a parameter's first step, so that its presence tells the first step from the later ones.
    momentum_buffers: Vec<Option<Var>>,
    config: SgdConfig,
    context: Cpu,
}

impl Sgd {
    /// Runs on the threads of `context` rather than on all of the machine's.
    #[must_use]
    pub fn with_cpu(self, context: Cpu) -> Self {
        Self { context, ..self }
    }

    /// The hyper-parameters in force.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }

    fn try_step(&mut self, gradients: &GradStore) -> Result<()> {
        let SgdConfig { learning_rate, momentum, dampening, nesterov, weight_decay } = self.config;
        let step = SgdStep { learning_rate, momentum, dampening, nesterov, weight_decay };
        let parameters = with_gradients(&self.vars, gradients)?;
        if momentum == 0.0 {
            let parameters: Vec<_> =
                parameters.iter().map(|&(_, var, gradient)| (var, gradient, None)).collect();
            return Ok(optimizer_step::sgd_all(&self.context, &parameters, &step)?);
        }
        // The first step of a parameter is b = d: a buffer of zeros and no dampening.
        let mut fresh = Vec::new();
        for &(index, var, _) in &parameters {
            if self.momentum_buffers[index].is_none() {
                fresh.push((index, Var::zeros(var.shape(), var.dtype(), var.device())?));
            }
        }
        let new = |index: usize| fresh.iter().find(|(fresh, _)| *fresh == index).map(|(_, buffer)| buffer);
        let (first, later): (Vec<_>, Vec<_>) = parameters
            .iter()
            .map(|&(index, var, gradient)| match &self.momentum_buffers[index] {
                Some(buffer) => (var, gradient, Some(buffer), false),
                None => (var, gradient, new(index), true),
            })
            .partition(|(.., first)| *first);
        for (group, step) in [(first, SgdStep { dampening: 0.0, ..step }), (later, step)] {
            let group: Vec<_> =
                group.into_iter().map(|(var, gradient, buffer, _)| (var, gradient, buffer)).collect();
            optimizer_step::sgd_all(&self.context, &group, &step)?;
        }
        for (index, buffer) in fresh {
            self.momentum_buffers[index] = Some(buffer);
        }
        Ok(())
    }
}

impl Optimizer for Sgd {
    type Config = SgdConfig;

    fn new(vars: Vec<Var>, config: SgdConfig) -> candle_core::Result<Self> {
        config.validate()?;
        check_distinct(&vars)?;
        let momentum_buffers = vec![None; vars.len()];
        Ok(Self { vars, momentum_buffers, config, context: Cpu::shared().clone() })
    }

    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        Ok(self.try_step(gradients)?)
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }
}

/// The five hyper-parameters, `started` (per parameter, 1 once it has momentum) and `momentum_buffer.{index}`.
impl OptimizerState for Sgd {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let started = self.momentum_buffers.iter().map(|buffer| u64::from(buffer.is_some()));
        let mut state = vec![
            number("learning_rate", self.config.learning_rate)?,
            number("momentum", self.config.momentum)?,
            number("dampening", self.config.dampening)?,
            number("nesterov", self.config.nesterov.into())?,
            number("weight_decay", self.config.weight_decay)?,
            counts("started", started)?,
        ];
        for (index, var) in self.momentum_buffers.iter().enumerate() {
            if let Some(var) = var {
                state.push(buffer("momentum_buffer", index, var)?);
            }
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut entries = Entries::of(state);
        let config = SgdConfig {
            learning_rate: entries.number("learning_rate")?,
            momentum: entries.number("momentum")?,
            dampening: entries.number("dampening")?,
            nesterov: entries.number("nesterov")? != 0.0,
            weight_decay: entries.number("weight_decay")?,
        };
        let mut momentum_buffers = vec![None; self.vars.len()];
        for (index, started) in entries.counts("started", self.vars.len())?.into_iter().enumerate() {
            if started > 0 {
                momentum_buffers[index] = entries.buffer("momentum_buffer", index, &self.vars[index])?;
            }
        }
        entries.finish()?;
        config.validate()?;
        (self.config, self.momentum_buffers) = (config, momentum_buffers);
        Ok(())
    }
}
