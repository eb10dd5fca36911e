//! Joining a hand-written backward pass to candle's graph.
//!
//! candle's custom operations have at most three differentiable inputs, and its `backward` zero-fills a
//! tensor for every gradient before adding to it. A residual unit has a dozen parameters, and a network's
//! gradients are hundreds of megabytes. So:
//!
//! - [`node`] makes one graph node with any number of inputs out of an output and a [`Backward`];
//! - [`backward`] is `loss.backward()`, except that nodes made by [`node`] hand the gradients of variables
//!   over as they are. Plain `loss.backward()` gives the same gradients, more slowly.
//!
//! How a node gets more than one input: those that track gradients are tied, three by three, into one-element *token*
//! tensors, and these again, until one token is left, which is the input of the node proper. candle then
//! walks node, tokens and inputs in that order; the node computes all gradients, and the tokens pass them
//! on. A single input that tracks gradients is the node's as it is.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::backprop::GradStore;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp3, DType, Layout, Shape, Storage, Tensor};

/// The backward pass of a [`node`].
pub trait Backward: Send + Sync + 'static {
    /// The operation's name, for candle's messages.
    fn name(&self) -> &'static str;

    /// The gradients of the node's inputs, one for each and in their order, given the gradient of its
    /// output; `None` for an input that needs none. `needed[i]` says whether input `i` tracks gradients.
    ///
    /// It may be called more than once, as `loss.backward()` may.
    ///
    /// # Errors
    /// Whatever the computation reports.
    fn backward(&self, grad_output: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>>;

    /// Whether the gradients of variables are to be had from [`backward`] alone. Plain `loss.backward()` is then an error,
    /// and a pass is spared a few kernels on one-element tensors for every variable, which a GPU takes as long for as for
    /// larger ones. Default false.
    fn hands_over_variables(&self) -> bool {
        false
    }
}

thread_local! {
    /// Gradients of variables handed over during a call of [`backward`] on this thread.
    static HANDED_OVER: RefCell<Option<GradStore>> = const { RefCell::new(None) };
}

/// The gradients of `loss` (a scalar, or anything candle's own `backward` takes) with respect to every
/// variable it depends on: the same as [`Tensor::backward`], without candle's zero-fill-and-add for the
/// variables that enter through a [`node`].
///
/// # Errors
/// Whatever a backward pass reports.
///
/// ```
/// use candle_core::{Device, Var};
/// let w = Var::new(&[1f32, 2.], &Device::Cpu)?;
/// let loss = w.sqr()?.sum_all()?;
/// let gradients = wrn_sam_kernels::backward(&loss)?;
/// assert_eq!(gradients.get(&w).unwrap().to_vec1::<f32>()?, [2., 4.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn backward(loss: &Tensor) -> candle_core::Result<GradStore> {
    /// Restores what an outer call had collected, also on the way out of an error.
    struct Collect(Option<GradStore>);
    impl Drop for Collect {
        fn drop(&mut self) {
            HANDED_OVER.set(self.0.take());
        }
    }
    let collect = Collect(HANDED_OVER.replace(Some(GradStore::default())));
    let mut gradients = loss.backward()?;
    let handed_over = HANDED_OVER.take();
    drop(collect);
    if let Some(handed_over) = handed_over {
        gradients.extend(handed_over)?;
    }
    Ok(gradients)
}

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
    let shape = shape.into();
    check_output(&output, &shape)?;
    if !inputs.iter().any(|input| input.track_op()) {
        return constant(output, shape);
    }
    let gradients = Gradients::default();
    let tracked = tracked(inputs, backward.hands_over_variables());
    let (input, only) = match tracked[..] {
        [(index, input)] => (input.clone(), Some(index)),
        _ => (tie_all(tracked, &gradients)?, None),
    };
    input.apply_op1(Node {
        name: backward.name(),
        only,
        inputs: inputs.iter().map(|&input| input.clone()).collect(),
        output: Mutex::new(Some((output, shape))),
        backward: Box::new(backward),
        gradients,
    })
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

/// The gradients on their way from the node to its inputs.
type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

/// The inputs that candle is to walk to, with their indices. Where variables are only handed over, one of them stands for
/// all.
fn tracked<'a>(inputs: &[&'a Tensor], only_handed_over: bool) -> Vec<(usize, &'a Tensor)> {
    let indexed = inputs.iter().copied().enumerate().filter(|(_, input)| input.track_op());
    let (variables, mut tracked): (Vec<_>, Vec<_>) =
        indexed.partition(|(_, input)| only_handed_over && input.is_variable());
    tracked.extend(variables.first());
    tracked
}

/// Ties inputs into one token.
fn tie_all(inputs: Vec<(usize, &Tensor)>, gradients: &Gradients) -> candle_core::Result<Tensor> {
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
fn passed_on(gradient: Option<Tensor>, to: &Tensor) -> candle_core::Result<Option<Tensor>> {
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

/// The node proper: its output was computed beforehand.
struct Node {
    name: &'static str,
    /// The index of the only input that tracks gradients; without it the node's input is a token.
    only: Option<usize>,
    inputs: Vec<Tensor>,
    output: Mutex<Option<(Storage, Shape)>>,
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
        if backward.hands_over_variables() && HANDED_OVER.with_borrow(Option::is_none) {
            candle_core::bail!(
                "{}: this network hands its parameters' gradients over to wrn_sam_kernels::backward(&loss) alone; call \
                 that in the place of loss.backward()",
                self.name
            );
        }
        let needed: Vec<bool> = self.inputs.iter().map(Tensor::track_op).collect();
        let mut gradients = backward.backward(grad_output, &needed)?;
        if gradients.len() != self.inputs.len() {
            candle_core::bail!(
                "{}: {} gradients for {} inputs",
                self.name,
                gradients.len(),
                self.inputs.len()
            );
        }
        HANDED_OVER.with_borrow_mut(|store| -> candle_core::Result<()> {
            let Some(store) = store else { return Ok(()) };
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
        if let Some(only) = self.only {
            return passed_on(gradients[only].take(), input);
        }
        *lock(&self.gradients) = gradients;
        Ok(Some(input.detach()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result, Var};

    use super::*;

    /// y = sum_i (i + 1) w_i, from any number of vectors of two.
    struct Weighted(usize, bool);

    impl Backward for Weighted {
        fn name(&self) -> &'static str {
            "weighted"
        }

        fn backward(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
            assert_eq!(needed.len(), self.0);
            let weighted =
                |(i, needed): (usize, &bool)| needed.then(|| grad.affine(i as f64 + 1.0, 0.0)).transpose();
            needed.iter().enumerate().map(weighted).collect()
        }

        fn hands_over_variables(&self) -> bool {
            self.1
        }
    }

    fn weighted(inputs: &[&Tensor], hands_over: bool) -> Result<Tensor> {
        let mut sum = vec![0f32; 2];
        for (i, input) in inputs.iter().enumerate() {
            let values = input.to_vec1::<f32>()?;
            (0..2).for_each(|j| sum[j] += (i + 1) as f32 * values[j]);
        }
        node(Storage::Cpu(CpuStorage::F32(sum)), 2, inputs, Weighted(inputs.len(), hands_over))
    }

    /// A network with a node on top of a candle operation, a shared variable and a constant among the inputs.
    fn loss(vars: &[Var], constant: &Tensor, hands_over: bool) -> Result<Tensor> {
        let hidden = (vars[0].as_tensor() * 3.0)?;
        let mut inputs: Vec<&Tensor> = vars.iter().map(Var::as_tensor).collect();
        inputs.extend([&hidden, constant]);
        let first = weighted(&inputs, hands_over)?;
        let second = weighted(&[&first, vars[1].as_tensor()], hands_over)?;
        (second.sqr()? + vars[2].as_tensor().sqr()?)?.sum_all()
    }

    fn plain_loss(vars: &[Var], constant: &Tensor) -> Result<Tensor> {
        let hidden = (vars[0].as_tensor() * 3.0)?;
        let mut first = constant.affine(vars.len() as f64 + 2.0, 0.0)?;
        for (i, var) in vars.iter().map(Var::as_tensor).chain([&hidden]).enumerate() {
            first = (first + var.affine(i as f64 + 1.0, 0.0)?)?;
        }
        let second = (first + vars[1].affine(2.0, 0.0)?)?;
        (second.sqr()? + vars[2].as_tensor().sqr()?)?.sum_all()
    }

    #[test]
    fn both_backward_functions_agree_with_plain_candle() -> Result<()> {
        for count in 3..14 {
            let var = |i| Var::new(&[i as f32, 0.5 - i as f32], &Device::Cpu);
            let vars = (0..count).map(var).collect::<Result<Vec<_>>>()?;
            let constant = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
            let expected = plain_loss(&vars, &constant)?.backward()?;
            let only_handed_over = loss(&vars, &constant, true)?;
            let loss = loss(&vars, &constant, false)?;
            for _twice in 0..2 {
                let ways = [backward(&loss)?, loss.backward()?, backward(&only_handed_over)?];
                for (var, way) in vars.iter().flat_map(|var| ways.iter().map(move |way| (var, way))) {
                    let expected = expected.get(var).unwrap().to_vec1::<f32>()?;
                    assert_eq!(way.get(var).unwrap().to_vec1::<f32>()?, expected);
                }
            }
            let error = only_handed_over.backward().unwrap_err().to_string();
            assert!(error.contains("call that in the place of loss.backward()"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn a_node_of_constants_tracks_nothing() -> Result<()> {
        let constant = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
        let sum = weighted(&[&constant, &constant], false)?;
        assert!(!sum.track_op());
        assert_eq!(sum.to_vec1::<f32>()?, [3., 6.]);
        Ok(())
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        assert!(node(Storage::Cpu(CpuStorage::F32(vec![0.0; 3])), 2, &[], Weighted(0, false)).is_err());
    }
}
