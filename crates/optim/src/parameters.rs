//! The variables that an optimizer steps, and what it checks about them and their gradients.

use std::collections::HashMap;
use std::sync::PoisonError;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::VarMap;

use crate::{Error, Result};

/// An optimizer that lists the variables it steps, as [`Sam::new`](crate::Sam::new) needs it.
///
/// The contract: its step is all or nothing. After an error its variables and its state are as before.
pub trait Variables {
    /// The variables, in a fixed order.
    fn vars(&self) -> &[Var];

    /// The variables' names in the same order, or `None` if they have none.
    fn names(&self) -> Option<&[String]>;

    /// The momentum of each variable, in the same order, which [`Along::Momentum`](crate::Along::Momentum) steps ahead along;
    /// empty for an optimizer that has none.
    fn momentum(&self) -> Vec<&Var> {
        Vec::new()
    }
}

/// The variables of a [`VarMap`] with their names, sorted by name.
///
/// `VarMap::all_vars` returns them in another order in every process. With this list, sums over all parameters, such
/// as the norm of a gradient, have the same bits in every process, and a saved state finds its parameters again.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Module, VarBuilder, VarMap, linear};
/// use wrn_sam_optim::{AdamW, AdamWConfig, OptimizerState, Sam, SamConfig, named_vars};
///
/// let variables = VarMap::new();
/// let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let layers = [linear(4, 4, builder.pp("first"))?, linear(4, 1, builder.pp("second"))?];
/// let parameters = named_vars(&variables);
/// assert_eq!(parameters[0].0, "first.bias");
///
/// let base = AdamW::named(parameters, AdamWConfig::default())?;
/// let mut sam = Sam::new(base, SamConfig::default())?;
/// let images = Tensor::ones((2, 4), DType::F32, &Device::Cpu)?;
/// sam.step(|_| layers[1].forward(&layers[0].forward(&images)?.relu()?)?.sqr()?.mean_all())?;
/// assert!(sam.state()?.iter().any(|(name, _)| name == "exp_avg.second.weight"));
/// # Ok::<(), wrn_sam_optim::Error>(())
/// ```
pub fn named_vars(variables: &VarMap) -> Vec<(String, Var)> {
    let variables = variables.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut named: Vec<_> = variables.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    named
}

/// Distinct variables, with or without names.
#[derive(Clone, Debug)]
pub(crate) struct Parameters {
    vars: Vec<Var>,
    names: Option<Vec<String>>,
}

impl Parameters {
    pub(crate) fn new(vars: Vec<Var>, names: Option<Vec<String>>) -> Result<Self> {
        if vars.is_empty() {
            return Err(Error::NoParameters);
        }
        let parameters = Self { vars, names };
        let mut seen = HashMap::new();
        for (second, var) in parameters.vars.iter().enumerate() {
            if let Some(first) = seen.insert(var.id(), second) {
                let (first, second) = (parameters.label(first), parameters.label(second));
                return Err(Error::DuplicateParameter { first, second });
            }
        }
        let mut names: Vec<_> = parameters.names.iter().flatten().collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::DuplicateName(twice[0].clone()));
        }
        Ok(parameters)
    }

    pub(crate) fn named(named: Vec<(String, Var)>) -> Result<Self> {
        let (names, vars) = named.into_iter().unzip();
        Self::new(vars, Some(names))
    }

    pub(crate) fn vars(&self) -> &[Var] {
        &self.vars
    }

    pub(crate) fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// The indices of some of the variables.
    pub(crate) fn indices(&self, subset: &[Var]) -> Result<Vec<usize>> {
        if subset.is_empty() {
            return Err(Error::NoParameters);
        }
        let index_of = |(at, var): (usize, &Var)| {
            let index = self.vars.iter().position(|own| own.id() == var.id());
            index.ok_or(Error::UnknownParameter(at))
        };
        subset.iter().enumerate().map(index_of).collect()
    }

    /// The names and variables, which a saved state is keyed by.
    pub(crate) fn by_name(&self) -> Result<impl Iterator<Item = (&str, &Var)>> {
        let names = self.names.as_ref().ok_or(Error::Unnamed)?;
        Ok(names.iter().map(String::as_str).zip(&self.vars))
    }

    /// What an error calls a parameter: its name, or else its index.
    pub(crate) fn label(&self, index: usize) -> String {
        self.names.as_ref().map_or_else(|| index.to_string(), |names| names[index].clone())
    }

    /// The parameters that have a gradient, at least one, each with its index and the gradient. Every one is checked, so
    /// that a step over them does not stop halfway.
    pub(crate) fn with_gradients<'a>(
        &'a self,
        gradients: &'a GradStore,
    ) -> Result<Vec<(usize, &'a Var, &'a Tensor)>> {
        let describe = |tensor: &Tensor| {
            format!("{:?} {:?} on {:?}", tensor.shape(), tensor.dtype(), tensor.device().location())
        };
        let mut found = Vec::new();
        for (index, var) in self.vars.iter().enumerate() {
            let Some(gradient) = gradients.get(var) else { continue };
            let alike = gradient.shape() == var.shape()
                && gradient.dtype() == var.dtype()
                && gradient.device().same_device(var.device());
            if !alike {
                let (expected, found) = (describe(var), describe(gradient));
                return Err(Error::Gradient { parameter: self.label(index), expected, found });
            }
            found.push((index, var, gradient));
        }
        if found.is_empty() { Err(Error::NoGradient { parameters: self.vars.len() }) } else { Ok(found) }
    }
}
