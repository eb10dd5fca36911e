//! Pooling: averages over square windows that tile the image, on slices of channels-last data and on tensors; averages over
//! whole images and maxima over any windows, on tensors.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;
mod max;
#[doc(hidden)]
pub mod plain;
pub(crate) mod tensors;

pub use max::MaxPoolShape;
pub use tensors::{avg_pool2d, global_avg_pool2d, max_pool2d};

use crate::conv2d::{Activation, check_len};
use crate::span::{self, Cost};
use crate::{Cpu, Error, Result};

/// The shape of an average pooling whose stride is its window: one whose windows tile the image, and whose tensors'
/// lengths do not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolShape {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) window: usize,
}

impl PoolShape {
    /// The pooling of images `[N, H, W, C]` of the dimensions `input` over windows of `window` by `window` pixels.
    ///
    /// # Errors
    /// [`Error::Shape`] where the window is 0 or does not tile the image, where a size other than the batch is 0, or
    /// where the input does not fit the address space.
    pub fn new(input: [usize; 4], window: usize) -> Result<Self> {
        let [batch, height, width, channels] = input;
        for (what, size) in [("height", height), ("width", width)] {
            if window == 0 || size == 0 || !size.is_multiple_of(window) {
                let expected = format!("a multiple of the pooling window, {window}");
                return Err(Error::Shape { what, expected, found: size.to_string() });
            }
        }
        let len = [batch, height, width, channels].iter().try_fold(4usize, |len, &n| len.checked_mul(n));
        if channels == 0 || len.is_none() {
            let expected = "at least 1, in a tensor that fits the address space".into();
            return Err(Error::Shape { what: "channels", expected, found: channels.to_string() });
        }
        Ok(Self { batch, height, width, channels, window })
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.batch * (self.height / self.window) * (self.width / self.window) * self.channels
    }
}

/// `y = mean over each window of act(x)`, where `act` may be absent: `x` is `[N, H, W, C]`, `y`
/// `[N, H / window, W / window, C]`.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
///
/// ```
/// use wrn_sam_kernels::{Cpu, pool::{self, PoolShape}};
/// let shape = PoolShape::new([1, 2, 2, 1], 2)?;
/// let mut y = [0f32];
/// pool::forward(Cpu::shared(), &shape, &[1., 2., 3., 6.], None, &mut y)?;
/// assert_eq!(y, [3.]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn forward(
    cpu: &Cpu,
    shape: &PoolShape,
    x: &[f32],
    activation: Option<Activation>,
    y: &mut [f32],
) -> Result<()> {
    check_len("x", shape.input_len(), x.len())?;
    check_len("y", shape.output_len(), y.len())?;
    activation.map_or(Ok(()), |activation| activation.check(shape.channels))?;
    let _span =
        span::enter("pool forward", format_args!("{} channels", shape.channels), Cost::passes(1, x.len()));
    cpu::forward(cpu, shape, x, activation, y);
    Ok(())
}

/// `dx`, the gradient with respect to the (activated) input: each window's share of its output's gradient
/// `dy`.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
pub fn backward(cpu: &Cpu, shape: &PoolShape, dy: &[f32], dx: &mut [f32]) -> Result<()> {
    check_len("dy", shape.output_len(), dy.len())?;
    check_len("dx", shape.input_len(), dx.len())?;
    let _span =
        span::enter("pool backward", format_args!("{} channels", shape.channels), Cost::passes(1, dx.len()));
    cpu::backward(cpu, shape, dy, dx);
    Ok(())
}
