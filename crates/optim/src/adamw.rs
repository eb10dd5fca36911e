//! Adam with decoupled weight decay, as PyTorch's.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::{self, AdamWStep};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::parameters::{check_distinct, with_gradients};
use crate::state::{Entries, buffer, counts, number};
use crate::{OptimizerState, Result};

/// The hyper-parameters of [`AdamW`], with PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// The learning rate, at least 0. Default 0.001.
    pub learning_rate: f64,
    /// What part of the mean of the gradients stays, in [0, 1). Default 0.9.
    pub beta1: f64,
    /// What part of the mean of the squared gradients stays, in [0, 1). Default 0.999.
    pub beta2: f64,
    /// Added to the denominator, at least 0. Default 1e-8.
    pub epsilon: f64,
    /// What part of the weights a step takes away, times the learning rate; at least 0. Default 0.01.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamWConfig {
    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange).
    pub fn validate(&self) -> Result<()> {
        let &Self { learning_rate, beta1, beta2, epsilon, weight_decay } = self;
        for (name, value) in
            [("learning_rate", learning_rate), ("epsilon", epsilon), ("weight_decay", weight_decay)]
        {
            OutOfRange::check(name, value, value.is_finite() && value >= 0.0, "a number of at least 0")?;
        }
        OutOfRange::check("beta1", beta1, (0.0..1.0).contains(&beta1), "in [0, 1)")?;
        OutOfRange::check("beta2", beta2, (0.0..1.0).contains(&beta2), "in [0, 1)")?;
        Ok(())
    }
}

/// Adam with decoupled weight decay (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>), with PyTorch's
/// arithmetic. In a parameter's step number t, counted from 1:
///
/// w ← (1 - learning_rate · weight_decay) · w;  m ← m + (1 - beta1) (g - m);  v ← beta2 · v + (1 - beta2) g²;
/// w ← w - learning_rate / (1 - beta1ᵗ) · m / (√v / √(1 - beta2ᵗ) + epsilon).
///
/// As candle's own, and with a state that can be saved ([`OptimizerState`]). A parameter without a gradient is
/// left alone, its moments and step count too. A step is checked before it moves anything, and runs as
/// [`Sgd`](crate::Sgd)'s does.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{AdamW, AdamWConfig};
///
/// let w = Var::new(&[1f32, -2.], &Device::Cpu)?;
/// let config = AdamWConfig { learning_rate: 0.5, weight_decay: 0.0, ..AdamWConfig::default() };
/// let mut adamw = AdamW::new(vec![w.clone()], config)?;
/// adamw.backward_step(&w.sqr()?.sum_all()?)?;
/// let after = w.to_vec1::<f32>()?; // the first step goes by the gradient's signs
/// assert!((after[0] - 0.5).abs() < 1e-6 && (after[1] + 1.5).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct AdamW {
    vars: Vec<Var>,
    /// Made at a parameter's first step.
    moments: Vec<Option<Moments>>,
    config: AdamWConfig,
    context: Cpu,
}

#[derive(Debug)]
struct Moments {
    first: Var,
    second: Var,
    /// The steps taken.
    steps: u64,
}

impl AdamW {
    /// Runs on the threads of `context` rather than on all of the machine's.
    #[must_use]
    pub fn with_cpu(self, context: Cpu) -> Self {
        Self { context, ..self }
    }

    /// The hyper-parameters in force.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    fn try_step(&mut self, gradients: &GradStore) -> Result<()> {
        let AdamWConfig { learning_rate, beta1, beta2, epsilon, weight_decay } = self.config;
        let parameters = with_gradients(&self.vars, gradients)?;
        for &(index, var, _) in &parameters {
            if self.moments[index].is_none() {
                let zeros = || Var::zeros(var.shape(), var.dtype(), var.device());
                self.moments[index] = Some(Moments { first: zeros()?, second: zeros()?, steps: 0 });
            }
        }
        // Parameters that have taken as many steps go together.
        let mut by_step = BTreeMap::<u64, Vec<_>>::new();
        for &(index, var, gradient) in &parameters {
            if let Some(Moments { first, second, steps }) = &self.moments[index] {
                by_step.entry(steps + 1).or_default().push((var, gradient, first, second));
            }
        }
        for (step, group) in by_step {
            let constants = AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, step };
            optimizer_step::adamw_all(&self.context, &group, &constants)?;
        }
        for &(index, ..) in &parameters {
            if let Some(moments) = &mut self.moments[index] {
                moments.steps += 1;
            }
        }
        Ok(())
    }
}

impl Optimizer for AdamW {
    type Config = AdamWConfig;

    fn new(vars: Vec<Var>, config: AdamWConfig) -> candle_core::Result<Self> {
        config.validate()?;
        check_distinct(&vars)?;
        let moments = vars.iter().map(|_| None).collect();
        Ok(Self { vars, moments, config, context: Cpu::shared().clone() })
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

/// The five hyper-parameters, `step` (per parameter, the steps taken), `exp_avg.{index}` and
/// `exp_avg_sq.{index}`.
impl OptimizerState for AdamW {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let steps = self.moments.iter().map(|moments| moments.as_ref().map_or(0, |moments| moments.steps));
        let mut state = vec![
            number("learning_rate", self.config.learning_rate)?,
            number("beta1", self.config.beta1)?,
            number("beta2", self.config.beta2)?,
            number("epsilon", self.config.epsilon)?,
            number("weight_decay", self.config.weight_decay)?,
            counts("step", steps)?,
        ];
        for (index, moments) in self.moments.iter().enumerate() {
            if let Some(Moments { first, second, steps: 1.. }) = moments {
                state.push(buffer("exp_avg", index, first)?);
                state.push(buffer("exp_avg_sq", index, second)?);
            }
        }
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
        let mut loaded = Vec::with_capacity(self.vars.len());
        for (index, steps) in entries.counts("step", self.vars.len())?.into_iter().enumerate() {
            let moments = if steps > 0 {
                let first = entries.buffer("exp_avg", index, &self.vars[index])?;
                let second = entries.buffer("exp_avg_sq", index, &self.vars[index])?;
                first.zip(second).map(|(first, second)| Moments { first, second, steps })
            } else {
                None
            };
            loaded.push(moments);
        }
        entries.finish()?;
        config.validate()?;
        (self.config, self.moments) = (config, loaded);
        Ok(())
    }
}
