//! Joining a hand-written backward pass to candle's graph.
//!
//! candle's custom operations have at most three differentiable inputs, and its `backward` zero-fills a
//! tensor for every gradient before adding to it. A residual unit has a dozen parameters, and a network's
//! gradients are hundreds of megabytes. So:
//!
//! - [`node`] makes one graph node with any number of inputs out of an output and a [`Backward`];
//! - where one node takes the tensor of another, on the CPU, the gradient goes from one to the other without candle;
//! - [`backward`] is `loss.backward()`, except that nodes made by [`node`] hand the gradients of variables
//!   over as they are. Plain `loss.backward()` gives the same gradients, more slowly;
//! - [`backward_to`] computes the gradients of some variables only, and spares the work for the others.

mod node;
#[cfg(test)]
mod tests;
mod tie;
mod value;

use std::cell::RefCell;
use std::collections::HashSet;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};

pub(crate) use node::images;
pub use node::{constant, node};

/// The backward pass of a [`node`].
pub trait Backward: Send + Sync + 'static {
    /// The operation's name, for candle's messages.
    fn name(&self) -> &'static str;

    /// The gradients of the node's inputs, one for each and in their order, given the gradient of its
    /// output; `None` for an input that needs none. `needed[i]` says whether input `i` needs one: it tracks gradients, and
    /// is not a variable that [`backward_to`] was not asked for.
    ///
    /// It may be called more than once, as `loss.backward()` may.
    ///
    /// # Errors
    /// Whatever the computation reports.
    fn backward(&self, grad_output: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>>;

    /// Whether only [`backward`] gives the gradients of variables. Plain `loss.backward()` is then an error. It saves a pass
    /// a few kernels on one-element tensors for every variable, which cost a GPU as much as larger ones. Default false.
    fn hands_over_variables(&self) -> bool {
        false
    }
}

thread_local! {
    /// The call of [`backward`] or [`backward_to`] that is under way on this thread.
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// A call of [`backward`] or [`backward_to`].
#[derive(Default)]
struct Call {
    /// The gradients of variables that were handed over.
    gradients: GradStore,
    /// The variables that gradients are asked for; all where it is none.
    asked_for: Option<HashSet<TensorId>>,
}

/// Whether an operation's backward pass has to give the gradient of `input`.
pub(crate) fn needs(input: &Tensor) -> bool {
    let asked_for = |call: &Option<Call>| match call {
        Some(Call { asked_for: Some(variables), .. }) => variables.contains(&input.id()),
        _ => true,
    };
    input.track_op() && (!input.is_variable() || CALL.with_borrow(asked_for))
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
    call(loss, Call::default())
}

/// The gradients of `loss` with respect to the given variables, and of no others: the same bits as [`backward`]'s.
///
/// A hand-written backward pass, such as a network's of `wrn-sam-models` or a convolution's of this crate, does not compute
/// the gradients of its other variables. So the first pass of SAM over batch norms only skips every convolution's weight
/// gradient, a third of a training pass's arithmetic. candle's own operations compute their gradients all the same.
///
/// # Errors
/// Whatever a backward pass reports.
///
/// ```
/// use candle_core::{Device, Var};
/// let (w, b) = (Var::new(&[1f32, 2.], &Device::Cpu)?, Var::new(&[3f32, 4.], &Device::Cpu)?);
/// let loss = (w.sqr()? * b.as_tensor())?.sum_all()?;
/// let gradients = wrn_sam_kernels::backward_to(&loss, &[b.clone()])?;
/// assert_eq!(gradients.get(&b).unwrap().to_vec1::<f32>()?, [1., 4.]);
/// assert!(gradients.get(&w).is_none());
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn backward_to(loss: &Tensor, variables: &[Var]) -> candle_core::Result<GradStore> {
    let asked_for = variables.iter().map(|variable| variable.id()).collect();
    let mut all = call(loss, Call { asked_for: Some(asked_for), ..Call::default() })?;
    let mut gradients = GradStore::default();
    for variable in variables {
        if let Some(gradient) = all.remove(variable) {
            gradients.insert(variable, gradient);
        }
    }
    Ok(gradients)
}

fn call(loss: &Tensor, call: Call) -> candle_core::Result<GradStore> {
    /// Puts an outer call back, also on the way out of an error.
    struct Outer(Option<Call>);
    impl Drop for Outer {
        fn drop(&mut self) {
            CALL.set(self.0.take());
        }
    }
    let outer = Outer(CALL.replace(Some(call)));
    let mut gradients = loss.backward()?;
    let call = CALL.take();
    drop(outer);
    if let Some(call) = call {
        gradients.extend(call.gradients)?;
    }
    Ok(gradients)
}
