//! How a node gets more than one input: those that track gradients are tied, three by three, into one-element *token*
//! tensors, and these again, until one token is left, which is the input of the node proper. candle then
//! walks node, tokens and inputs in that order; the node computes all gradients, and the tokens pass them
//! on. A single input that tracks gradients is the node's as it is.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Shape, Tensor};

use super::value::{Exposed, Value};

/// The gradients on their way from the node to its inputs.
pub(super) type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

/// An input of a node that tracks gradients.
pub(super) struct Edge {
    /// Which of the inputs it is.
    pub index: usize,
    /// What candle walks to: the input, or its token.
    pub to: Tensor,
    /// Where the gradient goes, where the input is a node's tensor.
    pub value: Option<Arc<Value>>,
}

impl Edge {
    /// What candle is given for the input, whose gradient this is. It asks for one of everything that it walks to but
    /// variables.
    pub fn pass_on(&self, gradient: Option<Tensor>) -> candle_core::Result<Option<Tensor>> {
        match (&self.value, gradient) {
            (Some(value), gradient) => value.deliver(gradient).map(Some),
            (None, None) if !self.to.is_variable() => self.to.zeros_like().map(Some),
            (None, gradient) => Ok(gradient),
        }
    }
}

/// The edges to inputs that candle is to walk to. Where variables are only handed over, one of them stands for all.
pub(super) fn edges(inputs: &[&Tensor], only_handed_over: bool) -> Vec<Edge> {
    let indexed = inputs.iter().copied().enumerate().filter(|(_, input)| input.track_op());
    let (variables, mut tracked): (Vec<_>, Vec<_>) =
        indexed.partition(|(_, input)| only_handed_over && input.is_variable());
    tracked.extend(variables.first());
    let edge = |(index, input): (usize, &Tensor)| match Exposed::of(input) {
        Some(exposed) => Edge { index, to: exposed.token.clone(), value: Some(exposed.value.clone()) },
        None => Edge { index, to: input.clone(), value: None },
    };
    tracked.into_iter().map(edge).collect()
}

/// Ties inputs into one token.
pub(super) fn tie_all(edges: Vec<Edge>, gradients: &Gradients) -> candle_core::Result<Tensor> {
    let (mut edges, mut tokens) = (edges.into_iter().peekable(), Vec::new());
    while edges.peek().is_some() {
        let three: Vec<_> = edges.by_ref().take(3).collect();
        let tensors: Vec<_> = three.iter().map(|edge| edge.to.clone()).collect();
        tokens.push(tie(&tensors, Some((gradients.clone(), three)))?);
    }
    while tokens.len() > 1 {
        tokens = tokens.chunks(3).map(|tokens| tie(tokens, None)).collect::<candle_core::Result<_>>()?;
    }
    tokens.pop().ok_or_else(|| candle_core::Error::Msg("a node without inputs".into()))
}

fn tie(tensors: &[Tensor], inputs: Option<(Gradients, Vec<Edge>)>) -> candle_core::Result<Tensor> {
    // What is missing of three is the first once more, which gets its gradient once.
    let at = |i: usize| tensors.get(i).unwrap_or(&tensors[0]);
    at(0).apply_op3(at(1), at(2), Tie { tied: tensors.len(), inputs })
}

/// Ties up to three inputs, or three tokens, into a token.
struct Tie {
    tied: usize,
    /// For inputs: where their gradients will be.
    inputs: Option<(Gradients, Vec<Edge>)>,
}

impl Tie {
    /// What is passed on to the `i`-th of the three: to a token the one of this tie, whose value means nothing.
    fn gradient(&self, i: usize, token: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some((gradients, edges)) = &self.inputs else {
            return Ok((i < self.tied).then(|| token.clone()));
        };
        let Some(edge) = edges.get(i) else { return Ok(None) };
        let gradient = lock(gradients).get_mut(edge.index).and_then(Option::take);
        edge.pass_on(gradient)
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
        _first: &Tensor,
        _second: &Tensor,
        _third: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((self.gradient(0, grad)?, self.gradient(1, grad)?, self.gradient(2, grad)?))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
