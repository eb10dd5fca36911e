//! A recorded pass and its backward pass.
//!
//! Every value has a slot for its gradient. Going back, an operation takes its output's gradient out of the slot, and puts
//! its input's there. What the input's slot holds already, it gives to the backend to be added in passing: so a residual sum
//! takes no pass over memory of its own, and a buffer is dropped with its last use.
//!
//! Only what is needed is computed: the gradients of the parameters that are asked for, and of the values that they, or the
//! input where its gradient is asked for, lead to.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Storage, Tensor};
use wrn_sam_kernels::Result;
use wrn_sam_kernels::autograd::{self, Backward};
use wrn_sam_kernels::backend::Backend;
use wrn_sam_kernels::conv2d::Conv2dShape;
use wrn_sam_kernels::linear::LinearShape;
use wrn_sam_kernels::pool::PoolShape;

use crate::pass::Dims;
use crate::tape::{Features, Images};

/// The operations of a pass in their order.
pub(crate) struct Recording<B: Backend> {
    backend: B,
    steps: Vec<Step<B>>,
    /// In the order of their use.
    parameters: Vec<Tensor>,
    /// For each slot, whether its value depends on anything that tracks gradients.
    tracked: Vec<bool>,
    input: Dims,
    /// The slot of the output.
    output: usize,
    hands_over_variables: bool,
}

/// The slot of the images that a pass begins with.
pub(crate) const INPUT: usize = 0;

/// An operation in its place.
struct Step<B: Backend> {
    operation: Operation<B>,
    /// The indices of its parameters.
    parameters: Range<usize>,
    /// The slots of its inputs.
    inputs: Vec<usize>,
    /// The slot of its result.
    y: usize,
}

/// What an operation's backward pass needs. `x` and `add` are values' slots where the values are not needed.
pub(crate) enum Operation<B: Backend> {
    /// Its parameter is the weight.
    Convolve { shape: Conv2dShape, filter: Arc<B::Filter>, x: Images<B>, add: Option<usize> },
    /// Its parameters are weight and bias.
    Normalize { values: Arc<B::Images>, activated: Arc<B::Activated>, x: usize },
    /// It has no parameter.
    Average { shape: PoolShape, x: usize },
    /// Its parameters are weight and bias.
    Linear { shape: LinearShape, weight: Tensor, x: Features<B> },
}

impl<B: Backend> Recording<B> {
    /// Of a pass over images of the given shape, whose slot is [`INPUT`]. `tracked` says whether they track gradients.
    pub(crate) fn new(backend: &B, input: Dims, tracked: bool, hands_over_variables: bool) -> Self {
        let (backend, steps, parameters, tracked) = (backend.clone(), vec![], vec![], vec![tracked]);
        Self { backend, steps, parameters, tracked, input, output: INPUT, hands_over_variables }
    }

    /// Adds an operation on the values of `inputs`, with the parameters whose gradients it gives, and makes a slot for its
    /// result. Where nothing tracks gradients, nothing is kept of it.
    pub(crate) fn record(
        &mut self,
        parameters: &[&Tensor],
        inputs: Vec<usize>,
        operation: impl FnOnce() -> Operation<B>,
    ) -> usize {
        let y = self.tracked.len();
        let tracked = parameters.iter().any(|parameter| parameter.track_op())
            || inputs.iter().any(|&input| self.tracked[input]);
        self.tracked.push(tracked);
        if tracked {
            let first = self.parameters.len();
            self.parameters.extend(parameters.iter().map(|&parameter| parameter.clone()));
            let parameters = first..self.parameters.len();
            self.steps.push(Step { operation: operation(), parameters, inputs, y });
        }
        y
    }

    /// Makes the pass from `x` to `output` a node of candle's graph.
    pub(crate) fn into_node(
        self,
        output: Storage,
        shape: Vec<usize>,
        x: &Tensor,
        slot: usize,
    ) -> candle_core::Result<Tensor> {
        let parameters = self.parameters.clone();
        let inputs: Vec<&Tensor> = std::iter::once(x).chain(&parameters).collect();
        autograd::node(output, shape, &inputs, Self { output: slot, ..self })
    }
}

impl<B: Backend> Recording<B> {
    /// By slot, whether a value's gradient is needed: where the value depends on what needs one, which `needed` says of the
    /// input and of each parameter.
    fn needed_values(&self, needed: &[bool]) -> Vec<bool> {
        let mut values = vec![false; self.tracked.len()];
        values[INPUT] = needed[0];
        for Step { parameters, inputs, y, .. } in &self.steps {
            values[*y] =
                needed[1..][parameters.clone()].contains(&true) || inputs.iter().any(|&input| values[input]);
        }
        values
    }
}

impl<B: Backend> Backward for Recording<B> {
    fn name(&self) -> &'static str {
        "recorded-pass"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let backend = &self.backend;
        let mut gradients = Gradients::new(backend, self.needed_values(needed), &needed[1..]);
        match dy.rank() {
            4 => gradients.images[self.output] = Some(backend.images(&dy.permute((0, 3, 1, 2))?)?),
            _ => gradients.features[self.output] = Some(backend.features(dy)?),
        }
        for step in self.steps.iter().rev() {
            if gradients.needed[step.y] {
                gradients.through(step)?;
            }
        }
        let Gradients { mut images, given: parameters, .. } = gradients;
        let mut results = vec![None; 1 + self.parameters.len()];
        let (indices, parameters): (Vec<_>, Vec<_>) = parameters.into_iter().unzip();
        for (index, gradient) in indices.into_iter().zip(backend.gradients(parameters)?) {
            results[1 + index] = Some(gradient);
        }
        if let Some(dx) = images[INPUT].take() {
            let dx = autograd::constant(backend.store_images(&dx, self.input)?, self.input.to_vec())?;
            results[0] = Some(dx.permute((0, 3, 1, 2))?);
        }
        Ok(results)
    }

    fn hands_over_variables(&self) -> bool {
        self.hands_over_variables
    }
}

/// The gradients that are there at some moment of a backward pass.
struct Gradients<'a, B: Backend> {
    backend: &'a B,
    /// By slot.
    images: Vec<Option<B::Images>>,
    /// By slot.
    features: Vec<Option<B::Features>>,
    /// Of the parameters, with their indices.
    given: Vec<(usize, B::Gradient)>,
    /// By slot, whether the value's gradient is needed.
    needed: Vec<bool>,
    /// By index, whether the parameter's gradient is needed.
    needed_parameters: &'a [bool],
}

impl<'a, B: Backend> Gradients<'a, B> {
    fn new(backend: &'a B, needed: Vec<bool>, needed_parameters: &'a [bool]) -> Self {
        let images = needed.iter().map(|_| None).collect();
        let features = needed.iter().map(|_| None).collect();
        Self { backend, images, features, given: Vec::new(), needed, needed_parameters }
    }

    /// Keeps the gradients of an operation's parameters, of which `first` is the first, where they are needed.
    fn keep<const N: usize>(&mut self, first: usize, gradients: [B::Gradient; N]) {
        let needed = self.needed_parameters;
        self.given.extend((first..).zip(gradients).filter(|(index, _)| needed[*index]));
    }

    /// Gives a value's gradient, or its part from one of the value's readers.
    fn give(&mut self, slot: usize, gradient: B::Images) -> Result<()> {
        if !self.needed[slot] {
            return Ok(());
        }
        match &mut self.images[slot] {
            Some(sum) => self.backend.accumulate(sum, &gradient),
            empty => {
                *empty = Some(gradient);
                Ok(())
            }
        }
    }

    /// Goes back through one operation. Where nothing that was computed from its output has a gradient, neither has it.
    fn through(&mut self, Step { operation, parameters, y, .. }: &Step<B>) -> Result<()> {
        let (backend, first) = (self.backend, parameters.start);
        match operation {
            Operation::Convolve { shape, filter, x, add } => {
                let Some(dy) = self.images[*y].take() else { return Ok(()) };
                if self.needed_parameters[first] {
                    self.given.push((first, backend.backward_weight(shape, x.input(), &dy)?));
                }
                if self.needed[x.slot] {
                    let sum = self.images[x.slot].take();
                    let dx = backend.backward_input(shape, &dy, filter, sum.as_ref())?;
                    self.images[x.slot] = Some(dx);
                }
                match add {
                    Some(add) => self.give(*add, dy),
                    None => Ok(()),
                }
            }
            Operation::Normalize { values, activated, x } => {
                let Some(mut gradient) = self.images[*y].take() else { return Ok(()) };
                let sum = self.images[*x].take();
                let parameters =
                    backend.backward_normalize(values, activated, &mut gradient, sum.as_ref())?;
                self.keep(first, parameters);
                self.give(*x, gradient)
            }
            Operation::Average { shape, x } => {
                let Some(dy) = self.features[*y].take() else { return Ok(()) };
                self.give(*x, backend.backward_pool(shape, &dy)?)
            }
            Operation::Linear { shape, weight, x } => {
                let Some(dy) = self.features[*y].take() else { return Ok(()) };
                let (dx, parameters) = backend.backward_linear(shape, &x.values, weight, &dy)?;
                self.keep(first, parameters);
                self.features[x.slot] = self.needed[x.slot].then_some(dx);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use candle_nn::VarBuilder;

    use super::*;
    use crate::batch_norm::BatchNorm;
    use crate::conv2d::Conv2d;
    use crate::error::Result;
    use crate::mode::Mode;
    use crate::parameters::Parameters;
    use crate::pass::{Layer, Output, OutputOf, Pass};
    use crate::runner::Runner;

    /// Values with several readers, activated ones as residuals, a weight used twice, and a branch that leads nowhere.
    struct Tangle {
        norm: BatchNorm,
        first: Conv2d,
        second: Conv2d,
    }

    impl Tangle {
        fn new(vb: VarBuilder<'_>) -> Result<Self> {
            Ok(Self {
                norm: BatchNorm::new(5, vb.pp("norm"))?,
                first: Conv2d::new(5, 5, 3, 1, vb.pp("first"))?,
                second: Conv2d::new(5, 5, 1, 1, vb.pp("second"))?,
            })
        }
    }

    impl Layer for Tangle {
        fn parameter(&self) -> &Tensor {
            &self.norm.weight
        }

        fn check_input(&self, x: &Tensor) -> Result<()> {
            self.norm.check_input(x)
        }

        fn apply<'a, P: Pass<'a>>(&'a self, pass: &mut P, x: P::Images) -> Result<OutputOf<'a, P>> {
            let activated = pass.normalize(&self.norm, None, &x)?;
            let a = pass.convolve(&self.first, &activated, Some(&activated))?;
            let b = pass.convolve(&self.second, &a, Some(&x))?;
            pass.convolve(&self.first, &b, None)?;
            let c = pass.convolve(&self.first, &b, Some(&a))?;
            let d = pass.convolve(&self.second, &x, Some(&a))?;
            let e = pass.convolve(&self.second, &c, Some(&d))?;
            Ok(Output::Images(pass.normalize(&self.norm, None, &e)?))
        }
    }

    #[test]
    fn any_graph_of_operations_has_the_gradients_of_candles() {
        let wave = |dims: &[usize], phase: f32| {
            let len: usize = dims.iter().product();
            let values = (0..len).map(|i| (phase + 0.7 * i as f32).sin()).collect();
            Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
        };
        let pass = |plain: bool| {
            let parameters = Parameters::new(3, DType::F32, &Device::Cpu);
            let tangle = Tangle::new(parameters.var_builder()).unwrap();
            let x = Var::from_tensor(&wave(&[2, 5, 6, 7], 0.3)).unwrap();
            let runner = Runner::default();
            let y = match plain {
                true => runner.forward_plain(&tangle, &x, Mode::Train),
                false => runner.forward(&tangle, &x, Mode::Train),
            };
            let y = y.unwrap();
            let loss = (&y * wave(y.dims(), 1.1)).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let vars = parameters.trainable().into_iter().chain([x]);
            let mut tensors: Vec<_> = vars.map(|var| gradients.get(&var).unwrap().clone()).collect();
            tensors.push(y);
            tensors
        };
        for (found, expected) in pass(false).iter().zip(&pass(true)) {
            let max = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let error = max((found - expected).unwrap()) / max(expected.clone());
            assert!(error < 1e-4, "{error} in {:?}", expected.dims());
        }
    }
}
