//! Batch normalization fused with ReLU, on channels-last data.
//!
//! Over the `n` rows (pixels of all images) of a channel,
//!
//! ```text
//! mean = sum(x) / n        var = sum((x - mean)^2) / n        inv_std = 1 / sqrt(var + eps)
//! y = relu(gamma (x - mean) inv_std + beta) = relu(x scale + shift)
//! ```
//!
//! [`statistics`] computes the first line, [`scale_shift`] turns it into an [`Activation`], and [`apply`]
//! computes the second, unless the operation that follows takes the activation itself, as
//! [`conv2d::forward`](crate::conv2d::forward()) does. [`backward`] needs `x` alone of what the forward pass
//! had: neither the normalized nor the activated tensor is kept.
//!
//! ```
//! use wrn_sam_kernels::{Cpu, batch_norm::{self, EPS}, conv2d::Activation};
//! let (cpu, x) = (Cpu::shared(), [1f32, 10., 3., 14.]); // two rows of two channels
//! let (mut mean, mut var) = ([0f32; 2], [0f32; 2]);
//! batch_norm::statistics(cpu, &x, &mut mean, &mut var)?;
//! assert_eq!((mean, var), ([2., 12.], [1., 4.]));
//! let (scale, shift) = batch_norm::scale_shift(&[1., 1.], &[0., 0.5], &mean, &var, EPS);
//! let mut y = [0f32; 4];
//! batch_norm::apply(cpu, &x, Activation { scale: &scale, shift: &shift }, &mut y)?;
//! let expected = [0., 0., 1., 1.5];
//! assert!(y.iter().zip(expected).all(|(y, expected)| (y - expected).abs() < 1e-4));
//! # Ok::<(), wrn_sam_kernels::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;
#[doc(hidden)]
pub mod plain;
pub(crate) mod tensors;

pub(crate) use cpu::column_sums;
pub use tensors::{batch_norm, batch_norm_relu};

use candle_core::{DType, Tensor, Var};

use crate::conv2d::{Activation, check_len};
use crate::span::{self, Cost};
use crate::uninit::{Uninit, as_uninit};
use crate::{Cpu, Error, Result};

/// What is added to the variance unless the caller says otherwise, as in PyTorch.
pub const EPS: f64 = 1e-5;

/// A batch norm's parameters and running statistics, each `[C]` but for the count, which is a scalar `i64`.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormState<'a> {
    /// The factor.
    pub weight: &'a Tensor,
    /// The summand.
    pub bias: &'a Tensor,
    /// The running mean.
    pub running_mean: &'a Var,
    /// The running variance, unbiased.
    pub running_var: &'a Var,
    /// How many batches were seen in training.
    pub num_batches_tracked: &'a Var,
    /// Added to the variance.
    pub epsilon: f64,
    /// The batch's share in the running statistics.
    pub momentum: f64,
}

/// Which statistics a batch norm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchStatistics {
    /// The batch's own; the running ones move where `moves` says so, and the batch is counted.
    Batch {
        /// Whether the running mean and variance move.
        moves: bool,
    },
    /// The running ones, which are constants.
    Running,
}

impl BatchStatistics {
    /// That `rows` pixels have the statistics: a batch's own are of two pixels or more.
    pub(crate) fn check(self, rows: usize) -> Result<()> {
        if self == Self::Running { Ok(()) } else { check_batch(rows) }
    }
}

/// The statistics a backward pass needs, one of each for every channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The mean that was subtracted.
    pub mean: Vec<f32>,
    /// `1 / sqrt(var + eps)`.
    pub inv_std: Vec<f32>,
}

impl Saved {
    /// From the mean and biased variance.
    pub fn new(mean: &[f32], var: &[f32], eps: f64) -> Self {
        let inv_std = var.iter().map(|&var| (f64::from(var) + eps).sqrt().recip() as f32).collect();
        Self { mean: mean.to_vec(), inv_std }
    }
}

/// The factors and summands that make a batch norm an [`Activation`]: `scale = gamma / sqrt(var + eps)` and
/// `shift = beta - mean * scale`. As long as the shortest of the four slices.
pub fn scale_shift(gamma: &[f32], beta: &[f32], mean: &[f32], var: &[f32], eps: f64) -> (Vec<f32>, Vec<f32>) {
    let affine = gamma.iter().zip(beta);
    affine
        .zip(mean.iter().zip(var))
        .map(|((&gamma, &beta), (&mean, &var))| {
            let scale = (f64::from(gamma) / (f64::from(var) + eps).sqrt()) as f32;
            (scale, (f64::from(beta) - f64::from(mean) * f64::from(scale)) as f32)
        })
        .unzip()
}

/// Counts a batch, and moves the running statistics where `moves` says so: `running = (1 - momentum) running + momentum
/// batch`, with the unbiased variance. `mean` and the biased `variance` have one value per channel, in any shape, of
/// `values` elements each, at least two. In candle's operations, for any device and float type.
///
/// # Errors
/// [`Error::Shape`] for fewer than two elements; candle's, where an operand does not fit.
pub fn track(
    norm: &BatchNormState,
    mean: &Tensor,
    variance: &Tensor,
    values: usize,
    moves: bool,
) -> Result<()> {
    check_batch(values)?;
    let count = norm.num_batches_tracked.as_detached_tensor();
    norm.num_batches_tracked.set(&(&count + count.ones_like()?)?)?;
    if moves {
        let unbiased = (variance * (values as f64 / (values as f64 - 1.0)))?;
        for (running, batch) in [(norm.running_mean, mean), (norm.running_var, &unbiased)] {
            let old = accumulated(&running.as_detached_tensor())?;
            let new = ((old * (1.0 - norm.momentum))? + (batch.reshape(running.shape())? * norm.momentum)?)?;
            running.set(&new.to_dtype(running.dtype())?)?;
        }
    }
    Ok(())
}

/// `x` in the type that sums are taken in: f32 for float16 and bfloat16, its own for others.
///
/// # Errors
/// candle's, where the conversion fails.
pub fn accumulated(x: &Tensor) -> candle_core::Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// What a forward pass leaves for [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The input, `[rows, channels]`.
    pub x: &'a [f32],
    /// The batch norm as it was applied.
    pub activation: Activation<'a>,
    /// The statistics it was made from.
    pub saved: &'a Saved,
    /// Where they came from: gradients flow through the batch's own, whether or not the running ones moved.
    pub statistics: BatchStatistics,
    /// Whether a ReLU followed.
    pub relu: bool,
}

/// The mean and biased variance of each channel of `x`, `[rows, channels]` with `mean.len()` channels.
///
/// Sums run over small blocks in `f32` around a value of the block itself, and over blocks in `f64`, so a
/// mean far from zero does no harm.
///
/// # Errors
/// [`Error::Shape`] where `x` holds no whole number of rows or fewer than two, or `var` has another length than
/// `mean`.
pub fn statistics(cpu: &Cpu, x: &[f32], mean: &mut [f32], var: &mut [f32]) -> Result<()> {
    check_rows("x", mean.len(), x.len())?;
    check_len("var", mean.len(), var.len())?;
    check_batch(x.len() / mean.len())?;
    let _span = span::enter(
        "batch_norm statistics",
        format_args!("{} channels", mean.len()),
        Cost::passes(1, x.len()),
    );
    cpu::statistics(cpu, x, mean, var);
    Ok(())
}

/// `y = relu(x * scale + shift)`, for `x` and `y` of `[rows, channels]`.
///
/// # Errors
/// [`Error::Shape`] where a slice's length does not fit `x` and the number of channels,
/// `activation.scale.len()`.
pub fn apply(cpu: &Cpu, x: &[f32], activation: Activation, y: &mut [f32]) -> Result<()> {
    // SAFETY: only values are written.
    pass(cpu, x, activation, true, unsafe { as_uninit(y) })
}

/// `y = x * scale + shift`: as [`apply`], without the ReLU.
///
/// # Errors
/// As [`apply`].
pub fn affine(cpu: &Cpu, x: &[f32], activation: Activation, y: &mut [f32]) -> Result<()> {
    // SAFETY: only values are written.
    pass(cpu, x, activation, false, unsafe { as_uninit(y) })
}

/// [`apply`] or [`affine`], to memory that need not be initialized. Every element is written.
fn pass(cpu: &Cpu, x: &[f32], activation: Activation, relu: bool, y: &mut Uninit) -> Result<()> {
    let channels = activation.scale.len();
    check_rows("x", channels, x.len())?;
    activation.check(channels)?;
    check_len("y", x.len(), y.len())?;
    let _span =
        span::enter("batch_norm apply", format_args!("{channels} channels"), Cost::passes(2, x.len()));
    cpu::apply(cpu, x, activation, relu, y);
    Ok(())
}

/// The gradients of a batch norm, and of the ReLU where one followed.
///
/// On entry `grad` is the gradient with respect to the output, on return that with respect to `x`, plus `add`
/// where given. A ReLU's mask is computed again from `x`. With `g = grad` where the ReLU was open (everywhere,
/// if there was none), else 0, and `x^ = (x - mean) inv_std`,
///
/// ```text
/// dbeta = sum(g)      dgamma = sum(g x^)
/// dx = scale (g - dbeta / n - x^ dgamma / n)      or, with running statistics,  dx = scale g
/// ```
///
/// # Errors
/// [`Error::Shape`] where a slice's length does not fit `x` and the number of channels,
/// `forward.saved.mean.len()`.
pub fn backward(
    cpu: &Cpu,
    forward: Forward,
    grad: &mut [f32],
    add: Option<&[f32]>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) -> Result<()> {
    let channels = forward.saved.mean.len();
    check_rows("x", channels, forward.x.len())?;
    forward.activation.check(channels)?;
    check_len("saved inv_std", channels, forward.saved.inv_std.len())?;
    check_len("grad", forward.x.len(), grad.len())?;
    add.map_or(Ok(()), |add| check_len("add", forward.x.len(), add.len()))?;
    check_len("dgamma", channels, dgamma.len())?;
    check_len("dbeta", channels, dbeta.len())?;
    // Both of its passes read x and the gradient; the second also writes it.
    let streams = 5 + usize::from(add.is_some());
    let cost = Cost::passes(streams, forward.x.len());
    let _span = span::enter("batch_norm backward", format_args!("{channels} channels"), cost);
    let pass = if forward.relu { cpu::backward::<true> } else { cpu::backward::<false> };
    pass(cpu, forward, grad, add, dgamma, dbeta);
    Ok(())
}

/// That a batch's own statistics can be taken of so many rows: of one, every channel would be 0 after the norm, and the
/// unbiased variance has no value.
pub(crate) fn check_batch(rows: usize) -> Result<()> {
    if rows >= 2 {
        return Ok(());
    }
    let expected = "at least two rows (pixels of all images) for the batch's statistics".to_string();
    Err(Error::Shape { what: "x", expected, found: rows.to_string() })
}

/// That a slice is rows of `channels` elements.
fn check_rows(what: &'static str, channels: usize, found: usize) -> Result<()> {
    if channels > 0 && found.is_multiple_of(channels) {
        return Ok(());
    }
    let expected = format!("rows of {channels} channels (at least one)");
    Err(Error::Shape { what, expected, found: format!("{found} elements") })
}
