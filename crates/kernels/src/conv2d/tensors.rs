//! Convolution on candle's tensors, as an operation of its graph.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::{Conv2dShape, backward_input, backward_weight, forward};
use crate::autograd::{self, constant, node};
use crate::backend::Input;
use crate::tensor::{channels_last, contiguous, cpu_f32, from_channels_last, with_f32};
use crate::{Backend, Cpu, Result};

/// Convolution of images `x`, `[N, C, H, W]`, with kernels `w`, `[O, C, kernel, kernel]`, differentiable in both, on a
/// backend's device and in its precision.
///
/// Both are `f32` tensors of the device, with any strides. The result, `[N, O, out_height, out_width]`, is `f32` too and
/// has its channels last in memory, as does the gradient of `x`. On the CPU nothing is copied where `x` has them so too.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for another device or element type;
/// [`Error::Shape`](crate::Error::Shape) where the shapes do not fit each other; an error of candle's where they are not
/// of four dimensions; [`Error::Device`](crate::Error::Device) where the device fails.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::{Cpu, conv2d::conv2d};
///
/// let backend = Cpu::shared(); // or, with the feature `cuda`, cuda::Cuda::new(device, Precision::Bf16)?
/// let x = Tensor::randn(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
/// let w = Var::randn(0f32, 1., (4, 3, 3, 3), &Device::Cpu)?;
/// let y = conv2d(backend, &x, &w, 2, 1)?; // stride 2, padding 1
/// assert_eq!(y.dims(), [2, 4, 4, 4]);
/// let gradients = y.sqr()?.mean_all()?.backward()?;
/// assert_eq!(gradients.get(&w).unwrap().dims(), w.dims());
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn conv2d<B: Backend>(
    backend: &B,
    x: &Tensor,
    w: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    backend.conv2d(x, w, &Conv2dShape::from_tensors(x, w, stride, padding)?)
}

/// [`conv2d()`] by a backend's products.
pub(crate) fn by_products<B: Backend>(
    backend: &B,
    x: &Tensor,
    w: &Tensor,
    shape: &Conv2dShape,
) -> Result<Tensor> {
    let weight = w.contiguous()?;
    let filter = backend.filters(&[&weight])?.swap_remove(0); // one for each weight
    let images = backend.images(x)?;
    let y = backend.convolve(shape, Input::Plain(&images), &filter, None)?;
    let dims = shape.output_dims();
    let backward = Products { backend: backend.clone(), shape: *shape, images, filter };
    let y = node(backend.store_images(&y, dims)?, dims.to_vec(), &[x, w], backward)?;
    Ok(y.permute((0, 3, 1, 2))?)
}

struct Products<B: Backend> {
    backend: B,
    shape: Conv2dShape,
    images: B::Images,
    filter: B::Filter,
}

impl<B: Backend> autograd::Backward for Products<B> {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let Self { backend, shape, images, filter } = self;
        let dy = backend.images(&dy.permute((0, 3, 1, 2))?)?;
        let dx = || {
            let dx = backend.backward_input(shape, &dy, filter, None)?;
            let dims = shape.input_dims();
            constant(backend.store_images(&dx, dims)?, dims.to_vec())?.permute((0, 3, 1, 2))
        };
        let dw = || backend.gradients(vec![backend.backward_weight(shape, Input::Plain(images), &dy)?]);
        let dw = needed[1].then(dw).transpose()?.and_then(|mut dw| dw.pop());
        Ok(vec![needed[0].then(dx).transpose()?, dw])
    }
}

/// [`conv2d()`] on the CPU, where tensors are read where they are.
pub(crate) fn on_cpu(cpu: &Cpu, x: &Tensor, w: &Tensor, shape: &Conv2dShape) -> Result<Tensor> {
    cpu_f32("conv2d", x)?;
    cpu_f32("conv2d", w)?;
    let y = x.apply_op2(&w.contiguous()?, Conv2d { cpu: cpu.clone(), shape: *shape })?;
    Ok(y.permute((0, 3, 1, 2))?)
}

/// `[N, C, H, W]` and `[O, C, kernel, kernel]` to `[N, out_height, out_width, O]`.
struct Conv2d {
    cpu: Cpu,
    shape: Conv2dShape,
}

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
        let Self { cpu, shape } = self;
        let x = channels_last(cpu, x.as_slice()?, x_layout);
        let w = contiguous(w.as_slice()?, w_layout)?;
        let mut y = vec![0f32; shape.output_len()];
        forward(cpu, shape, &x, None, w, None, &mut y)?;
        Ok((CpuStorage::F32(y), Shape::from(&shape.output_dims())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let Self { cpu, shape } = self;
        let dy = &dy.contiguous()?;
        let dx = || {
            let mut dx = vec![0f32; shape.input_len()];
            with_f32(dy, |dy, dy_layout| {
                let dy = contiguous(dy, dy_layout)?;
                with_f32(w, |w, layout| {
                    Ok(backward_input(cpu, shape, dy, contiguous(w, layout)?, None, &mut dx)?)
                })
            })?;
            from_channels_last(dx, x.dims4()?)
        };
        let dw = || {
            let mut dw = vec![0f32; shape.weight_len()];
            with_f32(dy, |dy, dy_layout| {
                let dy = contiguous(dy, dy_layout)?;
                with_f32(x, |x, x_layout| {
                    Ok(backward_weight(cpu, shape, &channels_last(cpu, x, x_layout), None, dy, &mut dw)?)
                })
            })?;
            Tensor::from_vec(dw, w.dims(), w.device())
        };
        Ok((x.track_op().then(dx).transpose()?, w.track_op().then(dw).transpose()?))
    }
}
