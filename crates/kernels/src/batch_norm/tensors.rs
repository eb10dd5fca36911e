//! Batch norm on candle's tensors, with and without a ReLU, as an operation of its graph.

use candle_core::Tensor;

use super::{
    BatchNormState, BatchStatistics, Forward, Saved, backward, pass, scale_shift, statistics, track,
};
use crate::autograd::{self, constant, node};
use crate::conv2d::Activation;
use crate::parallel::copied;
use crate::tensor::{cpu_f32, from_channels_last, with_channels_last};
use crate::uninit::written;
use crate::{Backend, Cpu, Error, Result};

/// `relu(batch_norm(x))` of images `x`, `[N, C, H, W]`, on a backend's device and in its precision.
///
/// It is differentiable in `x` and the norm's weight and bias. With the batch's statistics, gradients flow through them
/// too, and the running statistics move as `of` says; the running ones are constants. All are `f32` tensors of the device.
/// The result is too, and has its channels last in memory; on the CPU nothing is copied where `x` has them so too.
///
/// # Errors
/// [`Error::Unsupported`] for another device or element type; [`Error::Shape`] where the shapes do not fit each other, or
/// for statistics of a batch with fewer than two pixels for each channel; [`Error::Device`] where the device fails.
///
/// ```
/// use candle_core::{Device, Var};
/// use wrn_sam_kernels::{Cpu, batch_norm::{BatchNormState, BatchStatistics, EPS, batch_norm_relu}};
///
/// let vector = |value: f32| Var::from_vec(vec![value; 2], 2, &Device::Cpu);
/// let x = Var::randn(3f32, 2., (4, 2, 8, 8), &Device::Cpu)?;
/// let (weight, bias, mean, var) = (vector(1.)?, vector(0.)?, vector(0.)?, vector(1.)?);
/// let norm = BatchNormState {
///     weight: &weight,
///     bias: &bias,
///     running_mean: &mean,
///     running_var: &var,
///     num_batches_tracked: &Var::new(0i64, &Device::Cpu)?,
///     epsilon: EPS,
///     momentum: 0.1,
/// };
/// let y = batch_norm_relu(Cpu::shared(), &x, &norm, BatchStatistics::Batch { moves: true })?;
/// assert_eq!(y.sqr()?.sum_all()?.backward()?.get(&x).unwrap().dims(), x.dims());
/// assert!((mean.to_vec1::<f32>()?[0] - 0.3).abs() < 0.1); // 0.9 · 0 + 0.1 · 3
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn batch_norm_relu<B: Backend>(
    backend: &B,
    x: &Tensor,
    norm: &BatchNormState,
    of: BatchStatistics,
) -> Result<Tensor> {
    check(x, norm)?;
    backend.batch_norm(x, norm, of, true)
}

/// As [`batch_norm_relu`], without the ReLU. On the CPU only.
///
/// # Errors
/// As [`batch_norm_relu`]; [`Error::Unsupported`] on a GPU.
pub fn batch_norm<B: Backend>(
    backend: &B,
    x: &Tensor,
    norm: &BatchNormState,
    of: BatchStatistics,
) -> Result<Tensor> {
    check(x, norm)?;
    backend.batch_norm(x, norm, of, false)
}

/// That `x` is of images with the norm's channels.
fn check(x: &Tensor, norm: &BatchNormState) -> Result<()> {
    let (_, channels, _, _) = x.dims4()?;
    for (what, vector) in [
        ("weight", norm.weight),
        ("bias", norm.bias),
        ("running mean", norm.running_mean.as_tensor()),
        ("running variance", norm.running_var.as_tensor()),
    ] {
        if vector.dims() != [channels] {
            let (expected, found) = (format!("[{channels}]"), format!("{:?}", vector.dims()));
            return Err(Error::Shape { what, expected, found });
        }
    }
    Ok(())
}

/// [`batch_norm_relu`] by a backend's passes.
pub(crate) fn by_passes<B: Backend>(
    backend: &B,
    x: &Tensor,
    norm: &BatchNormState,
    of: BatchStatistics,
) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let images = backend.images(x)?;
    let activated = backend.normalize(&images, batch * height * width, norm, of, None)?;
    let dims = [batch, height, width, channels];
    let output = backend.store_images(&backend.activated(&images, &activated)?, dims)?;
    let backward = Passes { backend: backend.clone(), dims, images, activated };
    let y = node(output, dims.to_vec(), &[x, norm.weight, norm.bias], backward)?;
    Ok(y.permute((0, 3, 1, 2))?)
}

struct Passes<B: Backend> {
    backend: B,
    dims: [usize; 4],
    images: B::Images,
    activated: B::Activated,
}

impl<B: Backend> autograd::Backward for Passes<B> {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn backward(&self, dy: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let mut grad = self.backend.images(&dy.permute((0, 3, 1, 2))?)?;
        let parameters = self.backend.backward_normalize(&self.images, &self.activated, &mut grad, None)?;
        let parameters = self.backend.gradients(parameters.into())?;
        let dx = self.backend.store_images(&grad, self.dims)?;
        let dx = constant(dx, self.dims.to_vec())?.permute((0, 3, 1, 2))?;
        Ok(std::iter::once(dx).chain(parameters).map(Some).collect())
    }
}

/// Batch norm on the CPU, where tensors are read where they are.
pub(crate) fn on_cpu(
    cpu: &Cpu,
    x: &Tensor,
    norm: &BatchNormState,
    of: BatchStatistics,
    relu: bool,
) -> Result<Tensor> {
    for tensor in [x, norm.weight, norm.bias, norm.running_mean, norm.running_var] {
        cpu_f32("batch_norm", tensor)?;
    }
    let (batch, channels, height, width) = x.dims4()?;
    let dims = [batch, height, width, channels];
    let (weight, bias) = (norm.weight.to_vec1::<f32>()?, norm.bias.to_vec1::<f32>()?);
    let (mut mean, mut var) = (norm.running_mean.to_vec1::<f32>()?, norm.running_var.to_vec1::<f32>()?);
    let (y, scale, shift) = with_channels_last(cpu, x, |x| {
        if let BatchStatistics::Batch { moves } = of {
            statistics(cpu, x, &mut mean, &mut var)?;
            let vector = |values: &[f32]| Tensor::from_slice(values, channels, norm.weight.device());
            track(norm, &vector(&mean)?, &vector(&var)?, batch * height * width, moves)?;
        }
        let (scale, shift) = scale_shift(&weight, &bias, &mean, &var, norm.epsilon);
        let activation = Activation { scale: &scale, shift: &shift };
        // SAFETY: the pass writes every element.
        let y = unsafe { written(x.len(), |y| pass(cpu, x, activation, relu, y)) }?;
        Ok((y, scale, shift))
    })?;
    let saved = Saved::new(&mean, &var, norm.epsilon);
    let backward = BatchNormBackward { cpu: cpu.clone(), x: x.detach(), scale, shift, saved, of, relu };
    Ok(autograd::images(y, dims, &[x, norm.weight, norm.bias], backward)?)
}

struct BatchNormBackward {
    cpu: Cpu,
    x: Tensor,
    scale: Vec<f32>,
    shift: Vec<f32>,
    saved: Saved,
    of: BatchStatistics,
    relu: bool,
}

impl autograd::Backward for BatchNormBackward {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let Self { cpu, x, scale, shift, saved, of, relu } = self;
        let (batch, channels, height, width) = x.dims4()?;
        let mut dx = with_channels_last(cpu, &dy.permute((0, 3, 1, 2))?, |dy| Ok(copied(cpu, dy)))?;
        let (mut dgamma, mut dbeta) = (vec![0f32; channels], vec![0f32; channels]);
        with_channels_last(cpu, x, |x| {
            let activation = Activation { scale, shift };
            let forward = Forward { x, activation, saved, statistics: *of, relu: *relu };
            Ok(backward(cpu, forward, &mut dx, None, &mut dgamma, &mut dbeta)?)
        })?;
        let vector = |values| Tensor::from_vec(values, channels, x.device());
        let dx = from_channels_last(dx, [batch, height, width, channels])?;
        let gradients = [dx, vector(dgamma)?, vector(dbeta)?].into_iter().zip(needed);
        Ok(gradients.map(|(gradient, needed)| needed.then_some(gradient)).collect())
    }
}
