//! Two-dimensional convolution (cross-correlation, as deep learning has it) and its two gradients.
//!
//! On slices, activations are `f32` in `[N, H, W, C]` order and weights in `[O, C / groups, kernel, kernel]` order, as
//! candle and PyTorch store them. With `p` the padding, `s` the stride and `d` the dilation,
//!
//! ```text
//! y[n, i, j, o] = sum over c, a, b of  x[n, i s + a d - p, j s + b d - p, first(o) + c] * w[o, c, a, b]
//! ```
//!
//! where `x` is zero outside the image and `first(o)` is the first input channel of the output channel's group: 0, where
//! there is one group. [`forward`] computes `y`, [`backward_input`] the gradient with
//! respect to `x` and [`backward_weight`] that with respect to `w`, each given the gradient `dy`. An
//! [`Activation`] takes a batch norm and ReLU in front of the convolution into its reading of `x`, so that
//! the activated tensor never exists in memory.
//!
//! - `plain`: loops in `f64`, the oracle of the tests;
//! - `winograd`: kernel 3, stride 1, padding 1, unless the product is very small; nearly all of a residual
//!   network's work;
//! - `narrow_groups`: groups of one, two, four or eight channels, as the depthwise convolution has;
//! - `implicit_gemm`: every other shape, as blocks of an implicit matrix product.
//!
//! [`conv2d`] is the same operation on tensors, differentiable.
//!
//! ```
//! use wrn_sam_kernels::{Cpu, conv2d::{self, Conv2dShape}};
//! let shape = Conv2dShape::new([1, 3, 3, 1], 1, 3, 1, 1)?; // one image, kernel 3, stride 1, padding 1
//! let (x, w) = ([1f32; 9], [1f32; 9]);
//! let mut y = [0f32; 9];
//! conv2d::forward(Cpu::shared(), &shape, &x, None, &w, None, &mut y)?;
//! assert_eq!(y.map(f32::round), [4., 6., 4., 6., 9., 6., 4., 6., 4.]); // how many pixels the kernel sees
//! # Ok::<(), wrn_sam_kernels::Error>(())
//! ```

pub(crate) mod bias;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod implicit_gemm;
mod narrow_groups;
#[doc(hidden)]
pub mod plain;
mod shape;
pub(crate) mod tensors;
mod winograd;

pub use shape::{Conv2dConfig, Conv2dShape};
pub use tensors::conv2d;

use shape::Method;

use crate::span;
use crate::uninit::{Uninit, as_uninit};
use crate::{Cpu, Error, Result};

/// A batch norm and ReLU in front of a convolution: `a = relu(x * scale[c] + shift[c])`, where `relu(z)` is 0 for
/// `z < 0`, else `z`. So a NaN stays a NaN. The padding is zero after it.
#[derive(Clone, Copy, Debug)]
pub struct Activation<'a> {
    /// One factor for each input channel.
    pub scale: &'a [f32],
    /// One summand for each input channel.
    pub shift: &'a [f32],
}

impl Activation<'_> {
    /// `x` of a channel, activated in `f64`: what the references compute.
    pub(crate) fn apply(&self, x: f32, channel: usize) -> f64 {
        let z = f64::from(x) * f64::from(self.scale[channel]) + f64::from(self.shift[channel]);
        if z < 0. { 0. } else { z }
    }

    /// That `channels` factors and summands are there.
    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        check_len("activation scale", channels, self.scale.len())?;
        check_len("activation shift", channels, self.shift.len())
    }
}

/// That a slice has the length it should.
pub(crate) fn check_len(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected} elements"), found: format!("{found} elements") })
}

/// `y = conv(act(x), w) + add`, where `act` and `add` may be absent.
///
/// `x` is `[N, H, W, C]`, `w` `[O, C / groups, kernel, kernel]`, `add` and `y` `[N, out_height, out_width, O]`.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
pub fn forward(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    w: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) -> Result<()> {
    // SAFETY: only sums are written to it.
    forward_to(cpu, shape, x, activation, w, add, unsafe { as_uninit(y) })
}

/// [`forward`] to memory that need not be initialized. Every element is written.
pub(crate) fn forward_to(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    w: &[f32],
    add: Option<&[f32]>,
    y: &mut Uninit,
) -> Result<()> {
    check_len("x", shape.input_len(), x.len())?;
    check_len("w", shape.weight_len(), w.len())?;
    check_len("y", shape.output_len(), y.len())?;
    add.map_or(Ok(()), |add| check_len("add", shape.output_len(), add.len()))?;
    activation.map_or(Ok(()), |activation| activation.check(shape.in_channels))?;
    let _span = span::enter("conv2d forward", shape, shape.cost(add));
    match shape.method() {
        Method::Winograd => winograd::Convolution::forward(shape, x, activation, w, add, y).run(cpu),
        Method::NarrowGroups => narrow_groups::forward(cpu, shape, x, activation, w, add, y),
        Method::ImplicitGemm => implicit_gemm::forward(cpu, shape, x, activation, w, add, y),
    }
    Ok(())
}

/// `dx = add +` the gradient with respect to the (activated) input, given that of the output: the
/// convolution's transpose applied to `dy`.
///
/// `dy` is `[N, out_height, out_width, O]`, `w` `[O, C / groups, kernel, kernel]`, `add` and `dx` `[N, H, W, C]`.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
pub fn backward_input(
    cpu: &Cpu,
    shape: &Conv2dShape,
    dy: &[f32],
    w: &[f32],
    add: Option<&[f32]>,
    dx: &mut [f32],
) -> Result<()> {
    // SAFETY: only sums are written to it.
    backward_input_to(cpu, shape, dy, w, add, unsafe { as_uninit(dx) })
}

/// [`backward_input`] to memory that need not be initialized. Every element is written.
pub(crate) fn backward_input_to(
    cpu: &Cpu,
    shape: &Conv2dShape,
    dy: &[f32],
    w: &[f32],
    add: Option<&[f32]>,
    dx: &mut Uninit,
) -> Result<()> {
    check_len("dy", shape.output_len(), dy.len())?;
    check_len("w", shape.weight_len(), w.len())?;
    check_len("dx", shape.input_len(), dx.len())?;
    add.map_or(Ok(()), |add| check_len("add", shape.input_len(), add.len()))?;
    let _span = span::enter("conv2d backward_input", shape, shape.cost(add));
    match shape.method() {
        Method::Winograd => winograd::Convolution::backward_input(shape, dy, w, add, dx).run(cpu),
        Method::NarrowGroups => narrow_groups::backward_input(cpu, shape, dy, w, add, dx),
        Method::ImplicitGemm => implicit_gemm::backward_input(cpu, shape, dy, w, add, dx),
    }
    Ok(())
}

/// `dw`: the gradient with respect to the weight, given that of the output.
///
/// `x` (before the activation, which is applied again) is `[N, H, W, C]`, `dy` `[N, out_height, out_width,
/// O]`, `dw` `[O, C / groups, kernel, kernel]`.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
pub fn backward_weight(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut [f32],
) -> Result<()> {
    // SAFETY: only sums are written to it.
    backward_weight_to(cpu, shape, x, activation, dy, unsafe { as_uninit(dw) })
}

/// [`backward_weight`] to memory that need not be initialized. Every element is written.
pub(crate) fn backward_weight_to(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut Uninit,
) -> Result<()> {
    check_len("x", shape.input_len(), x.len())?;
    check_len("dy", shape.output_len(), dy.len())?;
    check_len("dw", shape.weight_len(), dw.len())?;
    activation.map_or(Ok(()), |activation| activation.check(shape.in_channels))?;
    let _span = span::enter("conv2d backward_weight", shape, shape.cost(None));
    match shape.method() {
        Method::Winograd => winograd::backward_weight(cpu, shape, x, activation, dy, dw),
        Method::NarrowGroups => narrow_groups::backward_weight(cpu, shape, x, activation, dy, dw),
        Method::ImplicitGemm => implicit_gemm::backward_weight(cpu, shape, x, activation, dy, dw),
    }
    Ok(())
}
