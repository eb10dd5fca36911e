//! Fast kernels for convolutional networks on candle, on the CPU and with the feature `cuda` on NVIDIA GPUs:
//! convolution, batch normalization fused with ReLU, pooling, linear, and the passes of an optimizer step.
//!
//! Every operation lives in a folder of its own beside its plain reference, and comes at two levels:
//!
//! - on **tensors** ([`conv2d::conv2d`], [`batch_norm::batch_norm_relu`], [`pool::max_pool2d`], [`elementwise::relu`], …):
//!   `[N, C, H, W]` in and out, differentiable through candle, for any candle program, on a [`Backend`]: the CPU or an
//!   NVIDIA GPU;
//! - on **slices** ([`conv2d::forward`], [`batch_norm::backward`], …): channels-last (`[N, H, W, C]`)
//!   `f32` buffers with explicit backward products, for networks that write their own backward pass and
//!   join it to candle's graph as one node with [`autograd::node`].
//!
//! Work runs under a [`Cpu`]: a number of threads, an [`InstructionSet`] and an arena of reused
//! buffers. Results do not depend on the number of threads: only shapes decide how work and
//! reductions are partitioned.
//!
//! # In a candle program
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use wrn_sam_kernels::batch_norm::{BatchNormState, BatchStatistics, EPS, batch_norm_relu};
//! use wrn_sam_kernels::conv2d::{Conv2dConfig, conv2d};
//! use wrn_sam_kernels::{Cpu, backward};
//!
//! let vector = |value: f32| Var::from_vec(vec![value; 16], 16, &Device::Cpu);
//! let (weight, bias, running_mean, running_var) = (vector(1.)?, vector(0.)?, vector(0.)?, vector(1.)?);
//! let norm = BatchNormState {
//!     weight: &weight,
//!     bias: &bias,
//!     running_mean: &running_mean,
//!     running_var: &running_var,
//!     num_batches_tracked: &Var::new(0i64, &Device::Cpu)?,
//!     epsilon: EPS,
//!     momentum: 0.1,
//! };
//! let x = Tensor::randn(0f32, 1., (8, 16, 12, 12), &Device::Cpu)?;
//! let w = Var::randn(0f32, 0.1, (32, 16, 3, 3), &Device::Cpu)?;
//! let cpu = Cpu::shared();
//! let activated = batch_norm_relu(cpu, &x, &norm, BatchStatistics::Batch { moves: true })?;
//! let y = conv2d(cpu, &activated, &w, None, Conv2dConfig::new(1, 1))?; // stride 1, padding 1
//! let gradients = backward(&y.sqr()?.mean_all()?)?; // or .backward(), as ever
//! assert_eq!(gradients.get(&w).unwrap().dims(), [32, 16, 3, 3]);
//! # Ok::<(), wrn_sam_kernels::Error>(())
//! ```
//!
//! ## What to put between convolutions
//!
//! The tensors that these operations give are `[N, C, H, W]` with the channels last in memory. The next of them reads such a
//! tensor where it is, and its gradient comes back in the same order, without a pass of candle's. candle's own operations go
//! through a tensor in the order of its dimensions, so from element to element they jump by all channels; what they give has
//! another order, and the next convolution copies it back. On a CPU that can take longer than the convolution. So
//!
//! | in the place of | put |
//! |---|---|
//! | `x.relu()` | [`elementwise::relu`] |
//! | `a + b`, `(a + b)?.relu()` | [`elementwise::add`], [`elementwise::add_relu`] |
//! | `candle_nn::BatchNorm`, and a ReLU after it | [`batch_norm::batch_norm`], [`batch_norm::batch_norm_relu`] |
//! | `x.max_pool2d`, `x.avg_pool2d`, `x.mean((2, 3))` | [`pool::max_pool2d`], [`pool::avg_pool2d`], [`pool::global_avg_pool2d`] |
//! | `y.broadcast_add(bias)` | the bias of [`conv2d::conv2d`] |
//!
//! For another operation of candle's, `x.contiguous()` before it costs one copy. And call [`keep_memory`] at the start of the
//! program.
//!
//! # Fused, on slices
//!
//! Batch norm, ReLU, convolution and residual sum in one pass, without the activated tensor in memory:
//!
//! ```
//! use wrn_sam_kernels::{Cpu, batch_norm::{self, EPS}};
//! use wrn_sam_kernels::conv2d::{self, Activation, Conv2dShape};
//!
//! let cpu = Cpu::shared();
//! let shape = Conv2dShape::new([2, 8, 8, 16], 16, 3, 1, 1)?; // [N, H, W, C], then O, kernel, stride and padding
//! let x: Vec<f32> = (0..shape.input_len()).map(|i| (i as f32).sin()).collect();
//! let w: Vec<f32> = (0..shape.weight_len()).map(|i| (i as f32).cos()).collect();
//!
//! let (mut mean, mut var) = ([0.; 16], [0.; 16]);
//! batch_norm::statistics(cpu, &x, &mut mean, &mut var)?;
//! let (scale, shift) = batch_norm::scale_shift(&[1.; 16], &[0.; 16], &mean, &var, EPS);
//! let activation = Activation { scale: &scale, shift: &shift };
//! let mut y = cpu.buffer(shape.output_len());
//! conv2d::forward(cpu, &shape, &x, Some(activation), &w, Some(&x), &mut y)?; // x + conv(relu(norm(x)))
//!
//! // The same in three steps.
//! let mut activated = vec![0.; x.len()];
//! batch_norm::apply(cpu, &x, activation, &mut activated)?;
//! let mut plain = vec![0.; y.len()];
//! conv2d::forward(cpu, &shape, &activated, None, &w, None, &mut plain)?;
//! assert!(y.iter().zip(plain.iter().zip(&x)).all(|(y, (conv, x))| (y - (conv + x)).abs() < 1e-4));
//! # Ok::<(), wrn_sam_kernels::Error>(())
//! ```
//!
//! # Profiling
//!
//! Every operation on slices, and every pass of an optimizer step, is a [`tracing`] span named `kernel` at
//! level `TRACE`, with the fields `operation`, `shape`, `flops` (by definition), `computed` (by the algorithm
//! used: Winograd's needs a quarter) and `bytes` (if every operand moves once). A subscriber that times
//! these spans has a profile with its floor; `examples/throughput.rs --profile` is one.
#![deny(missing_docs)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod augment;
pub mod autograd;
pub mod backend;
pub mod batch_norm;
mod buffer;
pub mod conv2d;
mod cpu;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
pub mod dropout;
pub mod elementwise;
mod error;
mod gemm;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod layout;
pub mod linear;
pub mod machine;
mod memory;
mod microkernel;
#[cfg(all(test, unix))]
#[path = "../tests/on_host/mod.rs"]
mod on_host;
pub mod optimizer_step;
mod out_of_range;
mod parallel;
pub mod pool;
mod precision;
mod simd;
mod span;
mod sync;
pub mod tally;
mod tensor;
mod threads;
mod uninit;

pub use autograd::{backward, backward_to};
pub use backend::Backend;
pub use buffer::Buffer;
pub use cpu::Cpu;
pub use error::{Error, Result};
pub use memory::keep_memory;
pub use out_of_range::OutOfRange;
pub use precision::Precision;
pub use simd::InstructionSet;
