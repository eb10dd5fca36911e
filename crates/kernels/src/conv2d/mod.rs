//! Two-dimensional convolution (cross-correlation, as deep learning has it) and its two gradients.
//!
//! On slices, activations are `f32` in `[N, H, W, C]` order and weights in `[O, C, kernel, kernel]` order, as
//! candle and PyTorch store them. With `p` the padding and `s` the stride,
//!
//! ```text
//! y[n, i, j, o] = sum over c, a, b of  x[n, i s + a - p, j s + b - p, c] * w[o, c, a, b]
//! ```
//!
//! where `x` is zero outside the image. [`forward`] computes `y`, [`backward_input`] the gradient with
//! respect to `x` and [`backward_weight`] that with respect to `w`, each given the gradient `dy`. An
//! [`Activation`] takes a batch norm and ReLU in front of the convolution into its reading of `x`, so that
//! the activated tensor never exists in memory.
//!
//! - `plain`: loops in `f64`, the oracle of the tests;
//! - `winograd`: kernel 3, stride 1, padding 1, unless the product is very small; nearly all of a residual
//!   network's work;
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

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod implicit_gemm;
#[doc(hidden)]
pub mod plain;
pub(crate) mod tensors;
mod winograd;

pub use tensors::conv2d;

use std::fmt;

use candle_core::Tensor;

use crate::span::{self, Cost};
use crate::{Cpu, Error, Result};

/// The shape of a convolution with a square kernel, the same stride in both directions and the same zero
/// padding on all four sides: one that a convolution can have, and whose tensors' lengths do not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dShape {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// The size of a product from which on Winograd's algorithm is used.
const WINOGRAD_FLOPS: u64 = 1 << 27;

impl Conv2dShape {
    /// A convolution of images `[N, H, W, C]` of the dimensions `input` to `out_channels` channels, with a kernel of
    /// `kernel` by `kernel`, `stride` input pixels from one output to the next, and `padding` zeros on each side.
    ///
    /// # Errors
    /// [`Error::Shape`] where a size other than the batch and the padding is 0, where the kernel is larger than the
    /// padded image, or where a tensor of the shape does not fit the address space.
    pub fn new(
        input: [usize; 4],
        out_channels: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let [batch, height, width, in_channels] = input;
        // A stride beyond the padded image gives one output, as that of its size does.
        let stride = stride.min(height.max(width).saturating_add(padding.saturating_mul(2)));
        let shape = Self { batch, height, width, in_channels, out_channels, kernel, stride, padding };
        shape.check()?;
        Ok(shape)
    }

    /// The convolution of images `x`, `[N, C, H, W]`, with kernels `w`, `[O, C, kernel, kernel]`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and where `x` and `w` do not fit each other; an error of candle's where they are not of
    /// four dimensions.
    pub fn from_tensors(x: &Tensor, w: &Tensor, stride: usize, padding: usize) -> Result<Self> {
        let (batch, in_channels, height, width) = x.dims4()?;
        let (out_channels, weight_channels, kernel, kernel_width) = w.dims4()?;
        let mismatch = |what, expected: usize, found: usize| {
            let (expected, found) = (expected.to_string(), found.to_string());
            Err(Error::Shape { what, expected, found })
        };
        if weight_channels != in_channels {
            return mismatch("input channels of w", in_channels, weight_channels);
        }
        if kernel_width != kernel {
            return mismatch("kernel width (as its height)", kernel, kernel_width);
        }
        Self::new([batch, height, width, in_channels], out_channels, kernel, stride, padding)
    }

    /// The input's dimensions `[N, H, W, C]`.
    pub fn input_dims(&self) -> [usize; 4] {
        [self.batch, self.height, self.width, self.in_channels]
    }

    /// The weight's dimensions `[O, C, kernel, kernel]`.
    pub fn weight_dims(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels, self.kernel, self.kernel]
    }

    /// The output's dimensions `[N, H, W, O]`.
    pub fn output_dims(&self) -> [usize; 4] {
        [self.batch, self.out_height(), self.out_width(), self.out_channels]
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.input_dims().iter().product()
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.weight_dims().iter().product()
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.output_dims().iter().product()
    }

    /// Floating-point operations of each of the three products, counted as the direct convolution's
    /// multiplications and additions (padding included), however it is computed. At most `u64::MAX`.
    pub fn flops(&self) -> u64 {
        let products = (self.in_channels as u64).saturating_mul((self.kernel * self.kernel) as u64);
        (2 * self.output_len() as u64).saturating_mul(products)
    }

    pub(crate) fn out_height(&self) -> usize {
        self.out_size(self.height)
    }

    pub(crate) fn out_width(&self) -> usize {
        self.out_size(self.width)
    }

    fn out_size(&self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// That a convolution can have this shape, and that none of its tensors' lengths overflows.
    fn check(&self) -> Result<()> {
        let error = |what, expected: &str, found: usize| {
            Err(Error::Shape { what, expected: expected.into(), found: found.to_string() })
        };
        let Self { height, width, in_channels, out_channels, kernel, stride, padding, .. } = *self;
        for (what, value) in [
            ("height", height),
            ("width", width),
            ("input channels", in_channels),
            ("output channels", out_channels),
            ("kernel", kernel),
            ("stride", stride),
        ] {
            if value == 0 {
                return error(what, "at least 1", value);
            }
        }
        // Half of the address space for every product of dimensions, far beyond what memory holds.
        let padded = |size: usize| padding.checked_mul(2)?.checked_add(size);
        let product = |factors: [Option<usize>; 4]| {
            let product =
                factors.into_iter().try_fold(1usize, |product, factor| product.checked_mul(factor?))?;
            product.checked_mul(2 * size_of::<f32>())
        };
        let (padded_height, padded_width) = (padded(height), padded(width));
        let channels = Some(in_channels.max(out_channels));
        // The first covers the tensors, the second the step from one line of outputs to the next.
        let lines = [Some(self.batch.max(1)), padded_height, padded_width, channels];
        if product(lines).is_none() || product([Some(stride), Some(1), padded_width, channels]).is_none() {
            return error("batch", "a convolution that fits the address space", self.batch);
        }
        if product([Some(in_channels), Some(out_channels), Some(kernel), Some(kernel)]).is_none() {
            return error("kernel", "a weight that fits the address space", kernel);
        }
        if padded_height.min(padded_width).is_some_and(|size| size < kernel) {
            return error("kernel", "at most the padded input's height and width", kernel);
        }
        Ok(())
    }

    /// What each of the three products costs, with one more pass over its result where something is added.
    fn cost(&self, add: Option<&[f32]>) -> Cost {
        let elements = self.input_len() + self.weight_len() + self.output_len() + add.map_or(0, <[f32]>::len);
        let flops = self.flops();
        Cost {
            flops,
            computed: if self.is_winograd() { flops / 4 } else { flops },
            ..Cost::passes(1, elements)
        }
    }

    fn is_winograd(&self) -> bool {
        // With fewer channels than half a vector, Winograd's lanes idle; the image's three take the implicit
        // way. So does what is done in less than a millisecond either way: there the direct sum's smaller
        // rounding error is worth more.
        (self.kernel, self.stride, self.padding) == (3, 1, 1)
            && self.in_channels >= 8
            && self.flops() >= WINOGRAD_FLOPS
    }
}

impl fmt::Display for Conv2dShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, height, width, in_channels, out_channels, kernel, stride, .. } = self;
        write!(f, "{batch} x {height}x{width}, {in_channels} -> {out_channels}, k{kernel} s{stride}")
    }
}

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
/// `x` is `[N, H, W, C]`, `w` `[O, C, kernel, kernel]`, `add` and `y` `[N, out_height, out_width, O]`.
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
    check_len("x", shape.input_len(), x.len())?;
    check_len("w", shape.weight_len(), w.len())?;
    check_len("y", shape.output_len(), y.len())?;
    add.map_or(Ok(()), |add| check_len("add", shape.output_len(), add.len()))?;
    activation.map_or(Ok(()), |activation| activation.check(shape.in_channels))?;
    let _span = span::enter("conv2d forward", shape, shape.cost(add));
    if shape.is_winograd() {
        winograd::forward(cpu, shape, x, activation, w, add, y);
    } else {
        implicit_gemm::forward(cpu, shape, x, activation, w, add, y);
    }
    Ok(())
}

/// `dx = add +` the gradient with respect to the (activated) input, given that of the output: the
/// convolution's transpose applied to `dy`.
///
/// `dy` is `[N, out_height, out_width, O]`, `w` `[O, C, kernel, kernel]`, `add` and `dx` `[N, H, W, C]`.
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
    check_len("dy", shape.output_len(), dy.len())?;
    check_len("w", shape.weight_len(), w.len())?;
    check_len("dx", shape.input_len(), dx.len())?;
    add.map_or(Ok(()), |add| check_len("add", shape.input_len(), add.len()))?;
    let _span = span::enter("conv2d backward_input", shape, shape.cost(add));
    if shape.is_winograd() {
        winograd::backward_input(cpu, shape, dy, w, add, dx);
    } else {
        implicit_gemm::backward_input(cpu, shape, dy, w, add, dx);
    }
    Ok(())
}

/// `dw`: the gradient with respect to the weight, given that of the output.
///
/// `x` (before the activation, which is applied again) is `[N, H, W, C]`, `dy` `[N, out_height, out_width,
/// O]`, `dw` `[O, C, kernel, kernel]`.
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
    check_backward_weight(shape, x, activation, dy)?;
    check_len("dw", shape.weight_len(), dw.len())?;
    let _span = span::enter("conv2d backward_weight", shape, shape.cost(None));
    if shape.is_winograd() {
        winograd::backward_weight(cpu, shape, x, activation, dy, dw);
    } else {
        implicit_gemm::backward_weight(cpu, shape, x, activation, dy, dw);
    }
    Ok(())
}

/// [`backward_weight`] in a new vector, which is not zeroed first where the algorithm can do without.
pub(crate) fn new_backward_weight(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
) -> Result<Vec<f32>> {
    let len = shape.weight_len();
    if !shape.is_winograd() {
        let mut dw = vec![0.0; len];
        backward_weight(cpu, shape, x, activation, dy, &mut dw)?;
        return Ok(dw);
    }
    check_backward_weight(shape, x, activation, dy)?;
    let _span = span::enter("conv2d backward_weight", shape, shape.cost(None));
    let mut dw = Vec::with_capacity(len);
    winograd::backward_weight_uninit(cpu, shape, x, activation, dy, &mut dw.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and every element of a weight's gradient has been written.
    unsafe { dw.set_len(len) };
    Ok(dw)
}

/// That the operands of [`backward_weight`] have the shape's lengths.
fn check_backward_weight(
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
) -> Result<()> {
    check_len("x", shape.input_len(), x.len())?;
    check_len("dy", shape.output_len(), dy.len())?;
    activation.map_or(Ok(()), |activation| activation.check(shape.in_channels))
}
