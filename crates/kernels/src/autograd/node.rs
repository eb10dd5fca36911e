//! The node proper.

use std::sync::{Arc, Mutex};

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Shape, Storage, Tensor};

use super::tie::{Edge, Gradients, edges, lock, tie_all};
use super::value::{Value, expose};
use super::{Backward, CALL, needs};

/// Makes one node of candle's graph out of the `output` of a computation, the `inputs` it was computed from and its
/// `backward` pass. If no input tracks gradients, the result does not either, and `backward` is dropped. Output and
/// inputs lie on one device.
///
/// # Errors
/// If `shape` and the output's length differ (where that can be known, on the CPU), or an input lies elsewhere.
///
/// ```
/// use candle_core::{CpuStorage, Device, Result, Storage, Tensor, Var};
/// use wrn_sam_kernels::autograd::{Backward, node};
///
/// /// The sum of any number of vectors.
/// struct Sum(usize);
/// impl Backward for Sum {
///     fn name(&self) -> &'static str { "sum" }
///     fn backward(&self, grad: &Tensor, _needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
///         Ok(vec![Some(grad.clone()); self.0])
///     }
/// }
///
/// let w = (0..5).map(|i| Var::new(&[i as f32, 1.], &Device::Cpu)).collect::<Result<Vec<_>>>()?;
/// let inputs: Vec<&Tensor> = w.iter().map(|w| w.as_tensor()).collect();
/// let sum = node(Storage::Cpu(CpuStorage::F32(vec![10., 5.])), 2, &inputs, Sum(5))?;
/// let gradients = sum.sqr()?.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&w[4]).unwrap().to_vec1::<f32>()?, [20., 10.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn node(
    output: Storage,
    shape: impl Into<Shape>,
    inputs: &[&Tensor],
    backward: impl Backward,
) -> candle_core::Result<Tensor> {
    graph(output, shape.into(), inputs, backward, false)
}

/// As [`node`], for images: `output` is `[N, H, W, C]`, which are `dims`, and so is the gradient that `backward` is given.
/// The tensor is `[N, C, H, W]`, with its channels last in memory.
///
/// # Errors
/// As [`node`].
pub(crate) fn images(
    output: Vec<f32>,
    dims: [usize; 4],
    inputs: &[&Tensor],
    backward: impl Backward,
) -> candle_core::Result<Tensor> {
    let output = Storage::Cpu(CpuStorage::F32(output));
    graph(output, Shape::from(&dims), inputs, backward, true)
}

fn graph(
    output: Storage,
    shape: Shape,
    inputs: &[&Tensor],
    backward: impl Backward,
    channels_last: bool,
) -> candle_core::Result<Tensor> {
    check_output(&output, &shape)?;
    if !inputs.iter().any(|input| input.track_op()) {
        let tensor = constant(output, shape)?;
        return if channels_last { tensor.permute((0, 3, 1, 2)) } else { Ok(tensor) };
    }
    let gradients = Gradients::default();
    let mut edges = edges(inputs, backward.hands_over_variables());
    let (input, only) = match edges.len() {
        1 => (edges[0].to.clone(), edges.pop()),
        _ => (tie_all(edges, &gradients)?, None),
    };
    let node = |output, value| Node {
        name: backward.name(),
        only,
        inputs: inputs.iter().map(|&input| input.clone()).collect(),
        output: Mutex::new(Some(output)),
        value,
        backward: Box::new(backward),
        gradients,
    };
    match output {
        Storage::Cpu(output) => {
            let value = Value::new(channels_last);
            let token = (Storage::Cpu(CpuStorage::F32(vec![0.0])), Shape::from(1));
            let token = input.apply_op1(node(token, Some((value.clone(), shape.clone(), output.dtype()))))?;
            expose(token, value, output, shape)
        }
        output => input.apply_op1(node((output, shape), None)),
    }
}

/// A tensor of a storage, outside of any graph.
///
/// # Errors
/// If `shape` and the storage's length differ (where that can be known, on the CPU).
pub fn constant(storage: Storage, shape: impl Into<Shape>) -> candle_core::Result<Tensor> {
    let shape = shape.into();
    check_output(&storage, &shape)?;
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

fn check_output(output: &Storage, shape: &Shape) -> candle_core::Result<()> {
    let found = match output {
        Storage::Cpu(CpuStorage::F32(values)) => values.len(),
        Storage::Cpu(CpuStorage::F64(values)) => values.len(),
        Storage::Cpu(other) => candle_core::bail!("a node's output is f32 or f64, not {:?}", other.dtype()),
        // A device's allocation may be longer than what is in it.
        _ => return Ok(()),
    };
    if found != shape.elem_count() {
        candle_core::bail!("a node of shape {shape:?} has {found} elements");
    }
    Ok(())
}

/// The node proper: its output was computed beforehand.
struct Node {
    name: &'static str,
    /// The edge to the only input that tracks gradients; without it the node's input is a tie's token.
    only: Option<Edge>,
    inputs: Vec<Tensor>,
    /// The result, or the token where the node has a value.
    output: Mutex<Option<(Storage, Shape)>>,
    /// Where the gradients arrive, and what they are of.
    value: Option<(Arc<Value>, Shape, DType)>,
    backward: Box<dyn Backward>,
    gradients: Gradients,
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        match lock(&self.output).take() {
            Some((Storage::Cpu(output), shape)) => Ok((output, shape)),
            _ => candle_core::bail!("{}: a node is applied once", self.name),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        match lock(&self.output).take() {
            Some((Storage::Cuda(output), shape)) => Ok((output, shape)),
            _ => candle_core::bail!("{}: a node is applied once", self.name),
        }
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, grad_output: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let backward = &self.backward;
        if backward.hands_over_variables() && CALL.with_borrow(Option::is_none) {
            candle_core::bail!(
                "{}: only wrn_sam_kernels::backward(&loss) gives the gradients of this network's parameters; call it \
                 instead of loss.backward()",
                self.name
            );
        }
        let sum = match &self.value {
            None => grad_output.clone(),
            Some((value, shape, dtype)) => match value.take(grad_output)? {
                Some(sum) => sum,
                None => Tensor::zeros(shape, *dtype, grad_output.device())?,
            },
        };
        let needed: Vec<bool> = self.inputs.iter().map(needs).collect();
        let mut gradients = backward.backward(&sum, &needed)?;
        if gradients.len() != self.inputs.len() {
            candle_core::bail!(
                "{}: {} gradients for {} inputs",
                self.name,
                gradients.len(),
                self.inputs.len()
            );
        }
        CALL.with_borrow_mut(|call| -> candle_core::Result<()> {
            let Some(super::Call { gradients: store, .. }) = call else { return Ok(()) };
            for (input, gradient) in self.inputs.iter().zip(&mut gradients) {
                if let Some(gradient) = gradient.take_if(|_| input.is_variable()) {
                    let sum = match store.remove(input) {
                        Some(other) => other.add(&gradient)?,
                        None => gradient,
                    };
                    store.insert(input, sum);
                }
            }
            Ok(())
        })?;
        if let Some(only) = &self.only {
            return only.pass_on(gradients[only.index].take());
        }
        *lock(&self.gradients) = gradients;
        Ok(Some(input.detach()))
    }
}
