//! The linear layer `y = x w^T + b` and its gradients.
//!
//! A linear layer is a convolution of kernel 1 over an image with a pixel for each row, and computed as one.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;
#[doc(hidden)]
pub mod plain;

use crate::conv2d::{self, Conv2dShape, bias, check_len};
use crate::{Cpu, Error, Result};

/// The shape of a linear layer applied to a batch, whose tensors' lengths do not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearShape {
    pub(crate) batch: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl LinearShape {
    /// A linear layer from `inputs` to `outputs` features, applied to `batch` rows.
    ///
    /// # Errors
    /// [`Error::Shape`] where it has no inputs or no outputs, or where a tensor does not fit the address space.
    pub fn new(batch: usize, inputs: usize, outputs: usize) -> Result<Self> {
        // As much room as a convolution of the shape needs.
        let len = |a: usize, b: usize| a.max(1).checked_mul(b)?.checked_mul(2 * size_of::<f32>());
        for (what, size) in [("inputs", inputs), ("outputs", outputs)] {
            if size == 0 || len(batch, size).is_none() || len(inputs, outputs).is_none() {
                let expected = "at least 1, in tensors that fit the address space".into();
                return Err(Error::Shape { what, expected, found: size.to_string() });
            }
        }
        Ok(Self { batch, inputs, outputs })
    }

    fn as_convolution(&self) -> Conv2dShape {
        let Self { batch, inputs: in_channels, outputs: out_channels } = *self;
        // No rows are no image, since an image without pixels is none.
        let (batch, height) = (batch.min(1), batch.max(1));
        Conv2dShape {
            batch,
            height,
            width: 1,
            in_channels,
            out_channels,
            kernel: 1,
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
        }
    }
}

/// `y = x w^T + b`, with `x` `[N, I]`, `w` `[O, I]`, `b` `[O]` and `y` `[N, O]`.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
///
/// ```
/// use wrn_sam_kernels::{Cpu, linear::{self, LinearShape}};
/// let shape = LinearShape::new(1, 2, 2)?;
/// let mut y = [0f32; 2];
/// linear::forward(Cpu::shared(), &shape, &[1., 2.], &[1., 0., 1., 1.], &[0., 10.], &mut y)?;
/// assert_eq!(y, [1., 13.]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn forward(cpu: &Cpu, shape: &LinearShape, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) -> Result<()> {
    check_len("x", shape.batch * shape.inputs, x.len())?;
    check_len("w", shape.outputs * shape.inputs, w.len())?;
    check_len("b", shape.outputs, b.len())?;
    check_len("y", shape.batch * shape.outputs, y.len())?;
    conv2d::forward(cpu, &shape.as_convolution(), x, None, w, None, y)?;
    bias::add(cpu, b, y);
    Ok(())
}

/// `dx = dy w`, the gradient with respect to the input.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
pub fn backward_input(cpu: &Cpu, shape: &LinearShape, dy: &[f32], w: &[f32], dx: &mut [f32]) -> Result<()> {
    check_len("dy", shape.batch * shape.outputs, dy.len())?;
    check_len("w", shape.outputs * shape.inputs, w.len())?;
    check_len("dx", shape.batch * shape.inputs, dx.len())?;
    conv2d::backward_input(cpu, &shape.as_convolution(), dy, w, None, dx)
}

/// `dw = dy^T x` and `db`, the sum of `dy`'s rows: the gradients with respect to the parameters.
///
/// # Errors
/// [`Error::Shape`] where a slice's length is not the shape's.
pub fn backward_parameters(
    cpu: &Cpu,
    shape: &LinearShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) -> Result<()> {
    check_len("x", shape.batch * shape.inputs, x.len())?;
    check_len("dy", shape.batch * shape.outputs, dy.len())?;
    check_len("dw", shape.outputs * shape.inputs, dw.len())?;
    check_len("db", shape.outputs, db.len())?;
    conv2d::backward_weight(cpu, &shape.as_convolution(), x, None, dy, dw)?;
    bias::backward(cpu, dy, db);
    Ok(())
}
