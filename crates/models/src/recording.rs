//! A recorded pass and its backward pass.
//!
//! Every value has a slot for its gradient. Going back, an operation takes its output's gradient out of the slot, and puts
//! its input's there. What the input's slot holds already, it gives to the backend to be added in passing: so a residual sum
//! takes no pass over memory of its own, and a buffer is dropped with its last use.

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
    /// Each with the index of its first parameter.
    operations: Vec<(Operation<B>, usize)>,
    /// In the order of their use.
    parameters: Vec<Tensor>,
    slots: usize,
    input: Dims,
    /// The slot of the output.
    output: usize,
    hands_over_variables: bool,
}

/// The slot of the images that a pass begins with.
const INPUT: usize = 0;

/// What an operation's backward pass needs. `x`, `add` and `y` are values' slots where the values are not needed.
pub(crate) enum Operation<B: Backend> {
    /// Its parameter is the weight.
    Convolve { shape: Conv2dShape, filter: Arc<B::Filter>, x: Images<B>, add: Option<usize>, y: usize },
    /// Its parameters are weight and bias.
    Normalize { values: Arc<B::Images>, activated: Arc<B::Activated>, x: usize, y: usize },
    /// It has no parameter.
    Average { shape: PoolShape, x: usize, y: usize },
    /// Its parameters are weight and bias.
    Linear { shape: LinearShape, weight: Tensor, x: Features<B>, y: usize },
}

impl<B: Backend> Recording<B> {
    /// Of a pass over images of the given shape.
    pub(crate) fn new(backend: &B, input: Dims, hands_over_variables: bool) -> Self {
        let (backend, operations, parameters) = (backend.clone(), Vec::new(), Vec::new());
        Self { backend, operations, parameters, slots: INPUT, input, output: INPUT, hands_over_variables }
    }

    /// A slot for a new value.
    pub(crate) fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// Adds an operation, with the parameters whose gradients it gives.
    pub(crate) fn push(&mut self, parameters: &[&Tensor], operation: Operation<B>) {
        self.operations.push((operation, self.parameters.len()));
        self.parameters.extend(parameters.iter().map(|&parameter| parameter.clone()));
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

impl<B: Backend> Backward for Recording<B> {
    fn name(&self) -> &'static str {
        "recorded-pass"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let backend = &self.backend;
        let mut gradients = Gradients::new(backend, self.slots, needed[0]);
        match dy.rank() {
            4 => gradients.images[self.output] = Some(backend.images(&dy.permute((0, 3, 1, 2))?)?),
            _ => gradients.features[self.output] = Some(backend.features(dy)?),
        }
        for (operation, parameter) in self.operations.iter().rev() {
            gradients.through(operation, *parameter)?;
        }
        let Gradients { mut images, parameters, .. } = gradients;
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
    /// With the parameters' indices.
    parameters: Vec<(usize, B::Gradient)>,
    needs_input: bool,
}

impl<'a, B: Backend> Gradients<'a, B> {
    fn new(backend: &'a B, slots: usize, needs_input: bool) -> Self {
        let (mut images, mut features) = (Vec::new(), Vec::new());
        images.resize_with(slots, || None);
        features.resize_with(slots, || None);
        Self { backend, images, features, parameters: Vec::new(), needs_input }
    }

    fn needs(&self, slot: usize) -> bool {
        slot != INPUT || self.needs_input
    }

    /// Gives a value's gradient, or its part from one of the value's readers.
    fn give(&mut self, slot: usize, gradient: B::Images) -> Result<()> {
        if !self.needs(slot) {
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
    fn through(&mut self, operation: &Operation<B>, parameter: usize) -> Result<()> {
        let backend = self.backend;
        match operation {
            Operation::Convolve { shape, filter, x, add, y } => {
                let Some(dy) = self.images[*y].take() else { return Ok(()) };
                self.parameters.push((parameter, backend.backward_weight(shape, x.input(), &dy)?));
                if self.needs(x.slot) {
                    let sum = self.images[x.slot].take();
                    let dx = backend.backward_input(shape, &dy, filter, sum.as_ref())?;
                    self.images[x.slot] = Some(dx);
                }
                match add {
                    Some(add) => self.give(*add, dy),
                    None => Ok(()),
                }
            }
            Operation::Normalize { values, activated, x, y } => {
                let Some(mut gradient) = self.images[*y].take() else { return Ok(()) };
                let sum = self.images[*x].take();
                let [weight, bias] =
                    backend.backward_normalize(values, activated, &mut gradient, sum.as_ref())?;
                self.parameters.extend([(parameter, weight), (parameter + 1, bias)]);
                self.give(*x, gradient)
            }
            Operation::Average { shape, x, y } => {
                let Some(dy) = self.features[*y].take() else { return Ok(()) };
                self.give(*x, backend.backward_pool(shape, &dy)?)
            }
            Operation::Linear { shape, weight, x, y } => {
                let Some(dy) = self.features[*y].take() else { return Ok(()) };
                let (dx, [dw, db]) = backend.backward_linear(shape, &x.values, weight, &dy)?;
                self.parameters.extend([(parameter, dw), (parameter + 1, db)]);
                self.features[x.slot] = Some(dx);
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
