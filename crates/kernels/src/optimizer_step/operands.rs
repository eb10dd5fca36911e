//! That the operands of a pass fit its variable and each other.

use candle_core::{Storage, Tensor, Var};

use crate::{Error, Result};

/// Checks that `tensor` is like `w`.
pub(super) fn check(w: &Tensor, what: &'static str, tensor: &Tensor) -> Result<()> {
    let describe = |tensor: &Tensor| {
        format!("{:?} {:?} on {:?}", tensor.shape(), tensor.dtype(), tensor.device().location())
    };
    let alike =
        tensor.shape() == w.shape() && tensor.dtype() == w.dtype() && tensor.device().same_device(w.device());
    if alike { Ok(()) } else { Err(Error::Shape { what, expected: describe(w), found: describe(tensor) }) }
}

/// Checks that `state` is like `w` and not `w` itself.
pub(super) fn check_state(w: &Var, what: &'static str, state: &Var) -> Result<()> {
    check(w, what, state)?;
    if storage_of(w) == storage_of(state) {
        let expected = "a variable of its own".to_string();
        return Err(Error::Shape { what, expected, found: "the same variable twice".to_string() });
    }
    Ok(())
}

/// The gradient as the passes take it: like `w`, contiguous, and with memory of its own, which no pass writes. The states
/// are like `w`, and no two of these variables are the same one; the gradient is none of the states.
pub(super) fn operand(w: &Var, gradient: &Tensor, states: &[(&'static str, &Var)]) -> Result<Tensor> {
    states.iter().try_for_each(|&(what, state)| check_state(w, what, state))?;
    for (index, (_, one)) in states.iter().enumerate() {
        states[index + 1..].iter().try_for_each(|&(what, other)| check_state(one, what, other))?;
    }
    check(w, "gradient", gradient)?;
    if states.iter().any(|(_, state)| storage_of(state) == storage_of(gradient)) {
        let expected = "a tensor apart from the optimizer's state".to_string();
        return Err(Error::Shape {
            what: "gradient",
            expected,
            found: "one that shares its memory".to_string(),
        });
    }
    let gradient = gradient.contiguous()?;
    Ok(if storage_of(w) == storage_of(&gradient) { gradient.copy()?.detach() } else { gradient })
}

pub(super) fn sgd_operand(w: &Var, gradient: &Tensor, buffer: Option<&Var>) -> Result<Tensor> {
    operand(w, gradient, buffer.map(|buffer| ("momentum buffer", buffer)).as_slice())
}

pub(super) fn adamw_operand(w: &Var, gradient: &Tensor, m: &Var, v: &Var) -> Result<Tensor> {
    operand(w, gradient, &[("first moment", m), ("second moment", v)])
}

/// Tells storages apart; two tensors with the same one alias each other.
fn storage_of(tensor: &Tensor) -> *const Storage {
    let (storage, _) = tensor.storage_and_layout();
    std::ptr::from_ref(&*storage)
}
