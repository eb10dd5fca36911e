//! What every optimizer checks about its parameters and their gradients.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use crate::{Error, Result};

/// Checks that no variable is listed twice.
pub(crate) fn check_distinct(vars: &[Var]) -> Result<()> {
    let mut seen = HashMap::new();
    for (second, var) in vars.iter().enumerate() {
        if let Some(first) = seen.insert(var.id(), second) {
            return Err(Error::DuplicateParameter { first, second });
        }
    }
    Ok(())
}

/// The parameters that have a gradient, each with its index and the gradient, every one checked: what
/// follows can then step them one by one without stopping halfway.
pub(crate) fn with_gradients<'a>(
    vars: &'a [Var],
    gradients: &'a GradStore,
) -> Result<Vec<(usize, &'a Var, &'a Tensor)>> {
    let describe = |tensor: &Tensor| {
        format!("{:?} {:?} on {:?}", tensor.shape(), tensor.dtype(), tensor.device().location())
    };
    let found = vars.iter().enumerate().filter_map(|(i, var)| Some((i, var, gradients.get(var)?)));
    let checked = found.map(|(parameter, var, gradient)| {
        let alike = gradient.shape() == var.shape()
            && gradient.dtype() == var.dtype()
            && gradient.device().same_device(var.device());
        if alike {
            Ok((parameter, var, gradient))
        } else {
            Err(Error::Gradient { parameter, expected: describe(var), found: describe(gradient) })
        }
    });
    checked.collect()
}
