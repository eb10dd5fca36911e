//! A backend's convolution and batch norm on candle's tensors, for programs with a network of their own.

use candle_core::Tensor;

use super::{Backend, BatchNormState, BatchStatistics, Input};
use crate::autograd::{self, constant, node};
use crate::conv2d::Conv2dShape;
use crate::{Error, Result};

/// Convolution of images `x`, `[N, C, H, W]`, with kernels `w`, `[O, C, kernel, kernel]`, differentiable in both, on the
/// backend's device and in its precision.
///
/// Both are `f32` tensors of the device, with any strides. The result, `[N, O, out_height, out_width]`, is `f32` too and lies
/// channels-last in memory, as does the gradient of `x`. On the CPU [`conv2d::conv2d`](crate::conv2d::conv2d) is the same with
/// a copy less.
///
/// # Errors
/// [`Error::Unsupported`] for another device or element type; [`Error::Shape`] where the shapes do not fit each other;
/// [`Error::Device`] where the device fails.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::{Cpu, backend};
///
/// let backend = Cpu::shared(); // or, with the feature `cuda`, cuda::Cuda::new(device, Precision::Bf16)?
/// let x = Tensor::randn(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
/// let w = Var::randn(0f32, 1., (4, 3, 3, 3), &Device::Cpu)?;
/// let y = backend::conv2d(backend, &x, &w, 2, 1)?; // stride 2, padding 1
/// assert_eq!(y.dims(), [2, 4, 4, 4]);
/// assert_eq!(y.sqr()?.mean_all()?.backward()?.get(&w).unwrap().dims(), w.dims());
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn conv2d<B: Backend>(
    backend: &B,
    x: &Tensor,
    w: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let shape = Conv2dShape::from_tensors(x, w, stride, padding)?;
    let weight = w.contiguous()?;
    let filter = backend.filters(&[&weight])?.swap_remove(0); // one for each weight
    let images = backend.images(x)?;
    let y = backend.convolve(&shape, Input::Plain(&images), &filter, None)?;
    let dims = shape.output_dims();
    let backward = Convolution { backend: backend.clone(), shape, images, filter };
    let y = node(backend.store_images(&y, dims)?, dims.to_vec(), &[x, w], backward)?;
    Ok(y.permute((0, 3, 1, 2))?)
}

struct Convolution<B: Backend> {
    backend: B,
    shape: Conv2dShape,
    images: B::Images,
    filter: B::Filter,
}

impl<B: Backend> autograd::Backward for Convolution<B> {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let Self { backend, shape, images, filter } = self;
        let dy = backend.images(&dy.permute((0, 3, 1, 2))?)?;
        let dx = || tensor(backend, backend.backward_input(shape, &dy, filter, None)?, shape.input_dims());
        let dw = || backend.gradients(vec![backend.backward_weight(shape, Input::Plain(images), &dy)?]);
        let dw = needed[1].then(dw).transpose()?.and_then(|mut dw| dw.pop());
        Ok(vec![needed[0].then(dx).transpose()?, dw])
    }
}

/// `relu(batch_norm(x))` of images `x`, `[N, C, H, W]`, on the backend's device and in its precision.
///
/// With the batch's statistics it is differentiable in `x` and the norm's weight and bias, and moves the running statistics
/// as `statistics` says; with the running ones it is outside of candle's graph, as evaluation is. All are `f32` tensors of
/// the device. The result is too, and lies channels-last in memory.
///
/// # Errors
/// As [`conv2d`]; [`Error::Shape`] also for statistics of a batch with fewer than two pixels for each channel.
pub fn batch_norm_relu<B: Backend>(
    backend: &B,
    x: &Tensor,
    norm: &BatchNormState,
    statistics: BatchStatistics,
) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let rows = batch * height * width;
    let expected_channels = norm.weight.elem_count();
    if channels != expected_channels {
        let (expected, found) = (expected_channels.to_string(), channels.to_string());
        return Err(Error::Shape { what: "channels of x", expected, found });
    }
    let images = backend.images(x)?;
    let activated = backend.normalize(&images, rows, norm, statistics, None)?;
    let dims = [batch, height, width, channels];
    let output = backend.store_images(&backend.activated(&images, &activated)?, dims)?;
    let y = if statistics == BatchStatistics::Running {
        constant(output, dims.to_vec())?
    } else {
        let backward = Normalization { backend: backend.clone(), dims, images, activated };
        node(output, dims.to_vec(), &[x, norm.weight, norm.bias], backward)?
    };
    Ok(y.permute((0, 3, 1, 2))?)
}

struct Normalization<B: Backend> {
    backend: B,
    dims: [usize; 4],
    images: B::Images,
    activated: B::Activated,
}

impl<B: Backend> autograd::Backward for Normalization<B> {
    fn name(&self) -> &'static str {
        "batch-norm-relu"
    }

    fn backward(&self, dy: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let mut grad = self.backend.images(&dy.permute((0, 3, 1, 2))?)?;
        let parameters = self.backend.backward_normalize(&self.images, &self.activated, &mut grad, None)?;
        let parameters = self.backend.gradients(parameters.into())?;
        let dx = tensor(&self.backend, grad, self.dims)?;
        Ok(std::iter::once(dx).chain(parameters).map(Some).collect())
    }
}

/// Images `[N, H, W, C]` as a tensor `[N, C, H, W]` outside of any graph.
fn tensor<B: Backend>(backend: &B, images: B::Images, dims: [usize; 4]) -> candle_core::Result<Tensor> {
    constant(backend.store_images(&images, dims)?, dims.to_vec())?.permute((0, 3, 1, 2))
}
