//! Joining a hand-written backward pass to candle's graph.
//!
//! candle's custom operations have at most three differentiable inputs, and its `backward` zero-fills a
//! tensor for every gradient before adding to it. A residual unit has a dozen parameters, and a network's
//! gradients are hundreds of megabytes. So:
//!
//! - [`node`] makes one graph node with any number of inputs out of an output and a [`Backward`];
//! - [`backward`] is `loss.backward()`, except that nodes made by [`node`] hand the gradients of variables
//!   over as they are. Plain `loss.backward()` gives the same gradients, more slowly.

mod node;
#[cfg(test)]
mod tests;
mod tie;

use std::cell::RefCell;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

pub use node::{constant, node};

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

    /// Whether only [`backward`] gives the gradients of variables. Plain `loss.backward()` is then an error. It saves a pass
    /// a few kernels on one-element tensors for every variable, which cost a GPU as much as larger ones. Default false.
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
