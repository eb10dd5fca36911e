//! Fast CPU kernels for convolutional networks on candle: convolution, batch normalisation fused with
//! ReLU, pooling, linear, and the passes of an optimizer step.
//!
//! Every operation lives in a folder of its own beside its plain reference, and comes at two levels:
//!
//! - on **tensors** ([`conv2d::conv2d`], [`batch_norm::batch_norm_relu`]): `[N, C, H, W]` in and out,
//!   differentiable through candle, for any candle program;
//! - on **slices** ([`conv2d::forward`], [`batch_norm::backward`], …): channels-last (`[N, H, W, C]`)
//!   `f32` buffers with explicit backward products, for networks that write their own backward pass and
//!   join it to candle's graph as one node with [`autograd::node`].
//!
//! Work runs under a [`Context`]: a number of threads, an [`InstructionSet`] and an arena of reused
//! buffers. Results do not depend on the number of threads: work and reductions are partitioned by shape
//! alone.
#![deny(missing_docs)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod autograd;
pub mod batch_norm;
mod buffer;
mod context;
pub mod conv2d;
mod error;
mod gemm;
pub mod linear;
pub mod machine;
mod microkernel;
pub mod optimizer_step;
mod parallel;
pub mod pool;
mod simd;
mod tensor;
mod threads;

pub use autograd::backward;
pub use buffer::Buffer;
pub use context::Context;
pub use error::{Error, Result};
pub use simd::InstructionSet;
