//! Convolution on candle's tensors, as an operation of its graph.

use candle_core::Tensor;

use super::{Conv2dConfig, Conv2dShape, backward_input_to, backward_weight_to, bias, forward_to};
use crate::autograd::{self, constant, node};
use crate::backend::Input;
use crate::tensor::{cpu_f32, from_channels_last, with_channels_last, with_contiguous};
use crate::uninit::{Uninit, written};
use crate::{Backend, Cpu, Error, Result};

/// Convolution of images `x`, `[N, C, H, W]`, with kernels `w`, `[O, C / groups, kernel, kernel]`, plus `bias`, `[O]`,
/// where given: PyTorch's `conv2d`. It is differentiable in all three, on a backend's device and in its precision.
///
/// All are `f32` tensors of the device, with any strides. (Convert other types: `x.to_dtype(DType::F32)`.) The result,
/// `[N, O, out_height, out_width]`, is `f32` too and has its channels last in memory, as does the gradient of `x`. On the
/// CPU nothing is copied where `x` has them so too.
///
/// # Errors
/// [`Error::Unsupported`] for another device or element type, and for groups on a GPU; [`Error::Shape`] where the shapes
/// do not fit each other; an error of candle's where they are not of four dimensions; [`Error::Device`] where the device
/// fails.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::{Cpu, conv2d::{Conv2dConfig, conv2d}};
///
/// let backend = Cpu::shared(); // or, with the feature `cuda`, cuda::Cuda::new(device, Precision::Bf16)?
/// let x = Tensor::randn(0f32, 1., (2, 3, 8, 8), &Device::Cpu)?;
/// let (w, bias) = (Var::randn(0f32, 1., (4, 3, 3, 3), &Device::Cpu)?, Var::randn(0f32, 1., 4, &Device::Cpu)?);
/// let y = conv2d(backend, &x, &w, Some(&bias), Conv2dConfig::new(2, 1))?; // stride 2, padding 1
/// assert_eq!(y.dims(), [2, 4, 4, 4]);
/// let gradients = y.sqr()?.mean_all()?.backward()?;
/// assert_eq!(gradients.get(&w).unwrap().dims(), w.dims());
///
/// let w = Var::randn(0f32, 1., (4, 1, 3, 3), &Device::Cpu)?;
/// let depthwise = conv2d(backend, &y, &w, None, Conv2dConfig::new(1, 1).with_groups(4))?;
/// assert_eq!(depthwise.dims(), y.dims());
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn conv2d<B: Backend>(
    backend: &B,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    config: Conv2dConfig,
) -> Result<Tensor> {
    let shape = Conv2dShape::from_tensors(x, w, config)?;
    if let Some(bias) = bias
        && bias.dims() != [shape.out_channels]
    {
        let (expected, found) = (format!("[{}]", shape.out_channels), format!("{:?}", bias.dims()));
        return Err(Error::Shape { what: "bias", expected, found });
    }
    backend.conv2d(x, w, bias, &shape)
}

/// [`conv2d()`] by a backend's products.
pub(crate) fn by_products<B: Backend>(
    backend: &B,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    shape: &Conv2dShape,
) -> Result<Tensor> {
    let weight = w.contiguous()?;
    let filter = backend.filters(&[&weight])?.swap_remove(0); // one for each weight
    let images = backend.images(x)?;
    let y = backend.convolve(shape, Input::Plain(&images), &filter, None)?;
    let dims = shape.output_dims();
    let backward = Products { backend: backend.clone(), shape: *shape, images, filter };
    let y = node(backend.store_images(&y, dims)?, dims.to_vec(), &[x, w], backward)?;
    let y = bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
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

/// [`conv2d()`] on the CPU. Tensors are read where they are.
pub(crate) fn on_cpu(
    cpu: &Cpu,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    shape: &Conv2dShape,
) -> Result<Tensor> {
    let inputs: Vec<_> = [x, w].into_iter().chain(bias).collect();
    inputs.iter().try_for_each(|tensor| cpu_f32("conv2d", tensor))?;
    let weight = w.contiguous()?;
    let mut y = with_channels_last(cpu, x, |x| {
        with_contiguous(&weight, |w| {
            // SAFETY: a convolution writes its whole output.
            Ok(unsafe { written(shape.output_len(), |y| forward_to(cpu, shape, x, None, w, None, y)) }?)
        })
    })?;
    if let Some(bias) = bias {
        with_contiguous(&bias.contiguous()?, |bias| {
            bias::add(cpu, bias, &mut y);
            Ok(())
        })?;
    }
    let backward = Conv2dBackward { cpu: cpu.clone(), shape: *shape, x: x.detach(), w: weight.detach() };
    Ok(autograd::images(y, shape.output_dims(), &inputs, backward)?)
}

struct Conv2dBackward {
    cpu: Cpu,
    shape: Conv2dShape,
    x: Tensor,
    /// Contiguous.
    w: Tensor,
}

impl autograd::Backward for Conv2dBackward {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let Self { cpu, shape, x, w } = self;
        with_channels_last(cpu, &dy.permute((0, 3, 1, 2))?, |dy| {
            let dx = || {
                let dx = with_contiguous(w, |w| {
                    let write = |dx: &mut Uninit| backward_input_to(cpu, shape, dy, w, None, dx);
                    // SAFETY: a gradient is written wholly.
                    Ok(unsafe { written(shape.input_len(), write) }?)
                })?;
                from_channels_last(dx, shape.input_dims())
            };
            let dw = || {
                let dw = with_channels_last(cpu, x, |x| {
                    let write = |dw: &mut Uninit| backward_weight_to(cpu, shape, x, None, dy, dw);
                    // SAFETY: a gradient is written wholly.
                    Ok(unsafe { written(shape.weight_len(), write) }?)
                })?;
                Tensor::from_vec(dw, w.dims(), w.device())
            };
            let db = || {
                let mut db = vec![0.0; shape.out_channels];
                bias::backward(cpu, dy, &mut db);
                Tensor::from_vec(db, shape.out_channels, w.device())
            };
            let mut gradients = vec![needed[0].then(dx).transpose()?, needed[1].then(dw).transpose()?];
            if let Some(&needed) = needed.get(2) {
                gradients.push(needed.then(db).transpose()?);
            }
            Ok(gradients)
        })
    }
}
