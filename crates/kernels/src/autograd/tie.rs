//! How a node gets more than one input: those that track gradients are tied, three by three, into one-element *token*
//! tensors, and these again, until one token is left, which is the input of the node proper. candle then
//! walks node, tokens and inputs in that order; the node computes all gradients, and the tokens pass them
//! on. A single input that tracks gradients is the node's as it is.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Shape, Tensor};

/// The gradients on their way from the node to its inputs.
pub(super) type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

/// The inputs that candle is to walk to, with their indices. Where variables are only handed over, one of them stands for
/// all.
pub(super) fn tracked<'a>(inputs: &[&'a Tensor], only_handed_over: bool) -> Vec<(usize, &'a Tensor)> {
    let indexed = inputs.iter().copied().enumerate().filter(|(_, input)| input.track_op());
    let (variables, mut tracked): (Vec<_>, Vec<_>) =
        indexed.partition(|(_, input)| only_handed_over && input.is_variable());
    tracked.extend(variables.first());
    tracked
}

/// Ties inputs into one token.
pub(super) fn tie_all(inputs: Vec<(usize, &Tensor)>, gradients: &Gradients) -> candle_core::Result<Tensor> {
    let ties = inputs.chunks(3).map(|inputs| {
        let indices = inputs.iter().map(|(index, _)| *index).collect();
        let inputs: Vec<_> = inputs.iter().map(|(_, input)| *input).collect();
        tie(&inputs, Some((gradients.clone(), indices)))
    });
    let mut tokens = ties.collect::<candle_core::Result<Vec<_>>>()?;
    while tokens.len() > 1 {
        let ties = tokens.chunks(3).map(|tokens| tie(&tokens.iter().collect::<Vec<_>>(), None));
        tokens = ties.collect::<candle_core::Result<Vec<_>>>()?;
    }
    tokens.pop().ok_or_else(|| candle_core::Error::Msg("a node without inputs".into()))
}

fn tie(tensors: &[&Tensor], inputs: Option<(Gradients, Vec<usize>)>) -> candle_core::Result<Tensor> {
    // What is missing of three is the first once more, which gets its gradient once.
    let at = |i: usize| tensors.get(i).copied().unwrap_or(tensors[0]);
    at(0).apply_op3(at(1), at(2), Tie { tied: tensors.len(), inputs })
}

/// Ties up to three inputs, or three tokens, into a token.
struct Tie {
    tied: usize,
    /// For inputs: where their gradients will be, and their indices there.
    inputs: Option<(Gradients, Vec<usize>)>,
}

impl Tie {
    /// What is passed on to the `i`-th of the three: to a token the one of this tie, whose value means nothing.
    fn gradient(&self, i: usize, tensor: &Tensor, token: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some((gradients, indices)) = &self.inputs else {
            return Ok((i < self.tied).then(|| token.clone()));
        };
        let Some(&index) = indices.get(i) else { return Ok(None) };
        passed_on(lock(gradients).get_mut(index).and_then(Option::take), tensor)
    }
}

/// A gradient as candle wants it, which asks for one of everything that it walks to but variables.
pub(super) fn passed_on(gradient: Option<Tensor>, to: &Tensor) -> candle_core::Result<Option<Tensor>> {
    match gradient {
        None if !to.is_variable() => to.zeros_like().map(Some),
        gradient => Ok(gradient),
    }
}

impl CustomOp3 for Tie {
    fn name(&self) -> &'static str {
        "tie"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
    }

    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let shape = Shape::from(1);
        Ok((input.device().zeros_impl(&shape, DType::F32)?, shape))
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        third: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((self.gradient(0, first, grad)?, self.gradient(1, second, grad)?, self.gradient(2, third, grad)?))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
