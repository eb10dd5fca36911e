//! Parameters that have some hyper-parameters of their own.

use candle_core::{Tensor, Var};

use crate::Result;
use crate::parameters::Parameters;
use crate::state::{Entries, check_not_negative, number};

/// What a group of an optimizer's parameters has of its own: see [`Sgd::with_group`](crate::Sgd::with_group) and
/// [`AdamW::with_group`](crate::AdamW::with_group).
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{Group, Sgd, SgdConfig};
///
/// let (weight, bias) = (Var::new(&[1f32], &Device::Cpu)?, Var::new(&[1f32], &Device::Cpu)?);
/// let parameters = vec![("weight".to_string(), weight.clone()), ("bias".to_string(), bias.clone())];
/// let config = SgdConfig::new(0.5).with_weight_decay(0.5);
/// let mut sgd = Sgd::named(parameters, config)?.with_group(&[bias.clone()], Group::new().with_weight_decay(0.0))?;
/// sgd.backward_step(&(weight.as_tensor() + bias.as_tensor())?)?;
/// assert_eq!((weight.to_vec1::<f32>()?, bias.to_vec1::<f32>()?), (vec![0.25], vec![0.5]));
/// # Ok::<(), wrn_sam_optim::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Group {
    /// Its weight decay: a finite number of at least 0; none for the optimizer's. Default none.
    pub weight_decay: Option<f64>,
    /// Its learning rate, relative to the optimizer's: a finite number of at least 0. Default 1.
    pub learning_rate_ratio: f64,
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl Group {
    /// With nothing of its own yet.
    pub fn new() -> Self {
        Self { weight_decay: None, learning_rate_ratio: 1.0 }
    }

    /// With this [`weight_decay`](Self::weight_decay).
    #[must_use]
    pub fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }

    /// With this [`learning_rate_ratio`](Self::learning_rate_ratio).
    #[must_use]
    pub fn with_learning_rate_ratio(self, learning_rate_ratio: f64) -> Self {
        Self { learning_rate_ratio, ..self }
    }

    fn validate(self) -> Result<()> {
        check_not_negative("weight_decay", self.weight_decay.unwrap_or(0.0))?;
        Ok(check_not_negative("learning_rate_ratio", self.learning_rate_ratio)?)
    }
}

/// The group of each parameter that is in one.
#[derive(Clone, Debug)]
pub(crate) struct Groups(Vec<Option<Group>>);

impl Groups {
    pub(crate) fn none(parameters: usize) -> Self {
        Self(vec![None; parameters])
    }

    pub(crate) fn put(&mut self, parameters: &Parameters, subset: &[Var], group: Group) -> Result<()> {
        group.validate()?;
        for index in parameters.indices(subset)? {
            self.0[index] = Some(group);
        }
        Ok(())
    }

    /// The learning rate and weight decay of a parameter, of an optimizer that has these.
    pub(crate) fn of(&self, index: usize, learning_rate: f64, weight_decay: f64) -> (f64, f64) {
        self.0[index].map_or((learning_rate, weight_decay), |group| {
            (learning_rate * group.learning_rate_ratio, group.weight_decay.unwrap_or(weight_decay))
        })
    }

    /// Two entries for each parameter in a group. NaN is saved for no weight decay of its own.
    pub(crate) fn state(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for ((name, _), group) in parameters.by_name()?.zip(&self.0) {
            if let Some(group) = group {
                let weight_decay = group.weight_decay.unwrap_or(f64::NAN);
                state.push(number(&format!("weight_decay.{name}"), weight_decay)?);
                state.push(number(&format!("learning_rate_ratio.{name}"), group.learning_rate_ratio)?);
            }
        }
        Ok(state)
    }

    /// The saved hyper-parameters of the parameters that are in a group here.
    pub(crate) fn load(&self, parameters: &Parameters, entries: &mut Entries<'_>) -> Result<Self> {
        let mut loaded = self.clone();
        for ((name, _), group) in parameters.by_name()?.zip(&mut loaded.0) {
            if let Some(group) = group {
                let weight_decay = entries.number(&format!("weight_decay.{name}"))?;
                group.weight_decay = (!weight_decay.is_nan()).then_some(weight_decay);
                group.learning_rate_ratio = entries.number(&format!("learning_rate_ratio.{name}"))?;
            }
        }
        Ok(loaded)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        self.0.iter().flatten().try_for_each(|group| group.validate())
    }
}
