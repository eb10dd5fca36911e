//! Convolution as an operation of candle's graph.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::{Conv2dShape, backward_input, backward_weight, forward};
use crate::tensor::{channels_last, contiguous, cpu_f32, from_channels_last, with_f32};
use crate::{Cpu, Result};

/// Convolution of images `x`, `[N, C, H, W]`, with kernels `w`, `[O, C, kernel, kernel]`, differentiable in
/// both.
///
/// Both are `f32` on the CPU, with any strides. The result, `[N, O, out_height, out_width]`, lies
/// channels-last in memory, as does the gradient with respect to `x`; where `x` lies so too, nothing is
/// copied.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for another device or element type;
/// [`Error::Shape`](crate::Error::Shape) where the shapes do not fit each other; an error of candle's where
/// they are not of four dimensions.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::conv2d::conv2d;
/// let x = Tensor::randn(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
/// let w = Var::randn(0f32, 1., (4, 3, 3, 3), &Device::Cpu)?;
/// let y = conv2d(&x, &w, 2, 1)?; // stride 2, padding 1
/// assert_eq!(y.dims(), [2, 4, 4, 4]);
/// let gradients = y.sqr()?.mean_all()?.backward()?;
/// assert_eq!(gradients.get(&w).unwrap().dims(), w.dims());
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn conv2d(x: &Tensor, w: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    cpu_f32("conv2d", x)?;
    cpu_f32("conv2d", w)?;
    let shape = Conv2dShape::from_tensors(x, w, stride, padding)?;
    let y = x.apply_op2(&w.contiguous()?, Conv2d(shape))?;
    Ok(y.permute((0, 3, 1, 2))?)
}

/// `[N, C, H, W]` and `[O, C, kernel, kernel]` to `[N, out_height, out_width, O]`.
struct Conv2d(Conv2dShape);

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (ctx, shape) = (Cpu::shared(), &self.0);
        let x = channels_last(ctx, x.as_slice()?, x_layout);
        let w = contiguous(w.as_slice()?, w_layout)?;
        let mut y = vec![0f32; shape.output_len()];
        forward(ctx, shape, &x, None, w, None, &mut y)?;
        Ok((CpuStorage::F32(y), Shape::from(&shape.output_dims())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (ctx, shape) = (Cpu::shared(), &self.0);
        let dy = &dy.contiguous()?;
        let dx = || {
            let mut dx = vec![0f32; shape.input_len()];
            with_f32(dy, |dy, dy_layout| {
                let dy = contiguous(dy, dy_layout)?;
                with_f32(w, |w, layout| {
                    Ok(backward_input(ctx, shape, dy, contiguous(w, layout)?, None, &mut dx)?)
                })
            })?;
            from_channels_last(dx, x.dims4()?)
        };
        let dw = || {
            let mut dw = vec![0f32; shape.weight_len()];
            with_f32(dy, |dy, dy_layout| {
                let dy = contiguous(dy, dy_layout)?;
                with_f32(x, |x, x_layout| {
                    Ok(backward_weight(ctx, shape, &channels_last(ctx, x, x_layout), None, dy, &mut dw)?)
                })
            })?;
            Tensor::from_vec(dw, w.dims(), w.device())
        };
        Ok((x.track_op().then(dx).transpose()?, w.track_op().then(dw).transpose()?))
    }
}
