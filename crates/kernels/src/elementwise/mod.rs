//! ReLU and sums of images, in the channels-last order that a convolution gives.
//!
//! candle's own operations work in the order of the dimensions. On a tensor whose channels are last in memory they read single
//! elements far apart, in their backward pass too, and give another order on. These read and write memory from one end to
//! the other:
//!
//! ```text
//! relu(x)         add(a, b) = a + b         add_relu(a, b) = relu(a + b)
//! ```
//!
//! where `relu(z)` is 0 for `z < 0`, else `z`: a NaN stays a NaN, as in PyTorch. All three are differentiable; the gradient
//! of a ReLU at 0 is 0.

mod cpu;
pub(crate) mod tensors;

pub use tensors::{add, add_relu, relu};
