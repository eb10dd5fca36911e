//! Pooling on candle's tensors.

use candle_core::{CpuStorage, Storage, Tensor};

use super::max::{self, MaxPoolShape};
use super::{PoolShape, backward, cpu, forward};
use crate::autograd::{self, node};
use crate::tensor::{cpu_f32, from_channels_last, with_channels_last, with_contiguous};
use crate::{Backend, Cpu, Result};

/// The average over windows of `window` by `window` pixels that tile the images `x`, `[N, C, H, W]`. Differentiable; the
/// result has its channels last in memory.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the window does not tile the image;
/// [`Error::Unsupported`](crate::Error::Unsupported) for another device or element type; an error of candle's where `x` is
/// not of four dimensions.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use wrn_sam_kernels::{Cpu, pool::{avg_pool2d, global_avg_pool2d, max_pool2d}};
/// let x = Tensor::arange(0f32, 16., &Device::Cpu)?.reshape((1, 1, 4, 4))?;
/// let values = |y: Tensor| y.flatten_all()?.to_vec1::<f32>();
/// assert_eq!(values(avg_pool2d(Cpu::shared(), &x, 2)?)?, [2.5, 4.5, 10.5, 12.5]);
/// assert_eq!(values(max_pool2d(Cpu::shared(), &x, 3, 2, 1)?)?, [5., 7., 13., 15.]); // stride 2, padding 1
/// assert_eq!(values(global_avg_pool2d(Cpu::shared(), &x)?)?, [7.5]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn avg_pool2d<B: Backend>(backend: &B, x: &Tensor, window: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    backend.avg_pool2d(x, &PoolShape::new([batch, height, width, channels], window)?)
}

/// The average over all pixels of each of the images `x`, `[N, C, H, W]`: `[N, C]`. Differentiable.
///
/// # Errors
/// As [`avg_pool2d`]; images without pixels are an error.
pub fn global_avg_pool2d<B: Backend>(backend: &B, x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    // Sizes that no pooling can have are refused here.
    PoolShape::new([batch, height, width, channels], 1)?;
    backend.global_avg_pool2d(x)
}

/// The largest value in windows of `window` by `window` pixels of the images `x`, `[N, C, H, W]`, `stride` pixels from one
/// to the next, with `padding` pixels that count for nothing on each side: PyTorch's `max_pool2d`. A NaN counts as the
/// largest. Differentiable; of equal values the first gets the gradient. The result has its channels last in memory.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for a shape that [`MaxPoolShape::new`] refuses;
/// [`Error::Unsupported`](crate::Error::Unsupported) for another element type, and on a GPU (candle's own gradient is wrong
/// by a factor); an error of candle's where `x` is not of four dimensions.
pub fn max_pool2d<B: Backend>(
    backend: &B,
    x: &Tensor,
    window: usize,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    backend.max_pool2d(x, &MaxPoolShape::new([batch, height, width, channels], window, stride, padding)?)
}

pub(crate) fn avg_on_cpu(cpu: &Cpu, x: &Tensor, shape: &PoolShape) -> Result<Tensor> {
    cpu_f32("avg_pool2d", x)?;
    let mut y = vec![0.0; shape.output_len()];
    with_channels_last(cpu, x, |x| Ok(forward(cpu, shape, x, None, &mut y)?))?;
    let PoolShape { batch, height, width, channels, window } = *shape;
    let dims = [batch, height / window, width / window, channels];
    Ok(autograd::images(y, dims, &[x], AveragePool { cpu: cpu.clone(), shape: *shape })?)
}

struct AveragePool {
    cpu: Cpu,
    shape: PoolShape,
}

impl autograd::Backward for AveragePool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn backward(&self, dy: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let PoolShape { batch, height, width, channels, .. } = self.shape;
        let mut dx = vec![0.0; self.shape.input_len()];
        with_channels_last(&self.cpu, &dy.permute((0, 3, 1, 2))?, |dy| {
            Ok(backward(&self.cpu, &self.shape, dy, &mut dx)?)
        })?;
        Ok(vec![Some(from_channels_last(dx, [batch, height, width, channels])?)])
    }
}

pub(crate) fn global_on_cpu(cpu: &Cpu, x: &Tensor) -> Result<Tensor> {
    cpu_f32("global_avg_pool2d", x)?;
    let (batch, channels, height, width) = x.dims4()?;
    let y = with_channels_last(cpu, x, |x| Ok(cpu::global_mean(cpu, x, channels, height * width)))?;
    let backward = GlobalAveragePool { cpu: cpu.clone(), dims: [batch, height, width, channels] };
    Ok(node(Storage::Cpu(CpuStorage::F32(y)), (batch, channels), &[x], backward)?)
}

struct GlobalAveragePool {
    cpu: Cpu,
    /// The input's.
    dims: [usize; 4],
}

impl autograd::Backward for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "global_avg_pool2d"
    }

    fn backward(&self, dy: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let [_, height, width, channels] = self.dims;
        let dx = with_contiguous(&dy.contiguous()?, |dy| {
            Ok(cpu::spread_mean(&self.cpu, dy, channels, height * width))
        })?;
        Ok(vec![Some(from_channels_last(dx, self.dims)?)])
    }
}

pub(crate) fn max_on_cpu(cpu: &Cpu, x: &Tensor, shape: &MaxPoolShape) -> Result<Tensor> {
    cpu_f32("max_pool2d", x)?;
    let (y, taps) = with_channels_last(cpu, x, |x| Ok(max::forward(cpu, shape, x)))?;
    let backward = MaxPool { cpu: cpu.clone(), shape: *shape, taps };
    Ok(autograd::images(y, shape.output_dims(), &[x], backward)?)
}

struct MaxPool {
    cpu: Cpu,
    shape: MaxPoolShape,
    taps: Vec<u16>,
}

impl autograd::Backward for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn backward(&self, dy: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let dx = with_channels_last(&self.cpu, &dy.permute((0, 3, 1, 2))?, |dy| {
            Ok(max::backward(&self.cpu, &self.shape, &self.taps, dy))
        })?;
        Ok(vec![Some(from_channels_last(dx, self.shape.input)?)])
    }
}
