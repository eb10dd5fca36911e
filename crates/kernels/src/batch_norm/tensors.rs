//! Batch norm on candle's tensors, with and without a ReLU, as an operation of its graph.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::{
    BatchNormState, BatchStatistics, Forward, Saved, affine, apply, backward, scale_shift, statistics, track,
};
use crate::autograd::{self, constant, node};
use crate::conv2d::Activation;
use crate::tensor::{channels_last, contiguous, cpu_f32, from_channels_last, with_f32};
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
    let (mean, var) = match of {
        BatchStatistics::Batch { moves } => {
            let (mut mean, mut var) = (vec![0f32; channels], vec![0f32; channels]);
            with_f32(x, |x, layout| {
                Ok(statistics(cpu, &channels_last(cpu, x, layout), &mut mean, &mut var)?)
            })?;
            let vector = |values: &[f32]| Tensor::from_slice(values, channels, x.device());
            track(norm, &vector(&mean)?, &vector(&var)?, batch * height * width, moves)?;
            (mean, var)
        }
        BatchStatistics::Running => (norm.running_mean.to_vec1()?, norm.running_var.to_vec1()?),
    };
    let (weight, bias) = (norm.weight.contiguous()?, norm.bias.contiguous()?);
    let saved = Saved::new(&mean, &var, norm.epsilon);
    let operation = BatchNorm { cpu: cpu.clone(), saved, var, epsilon: norm.epsilon, of, relu };
    Ok(x.apply_op3(&weight, &bias, operation)?.permute((0, 3, 1, 2))?)
}

/// `[N, C, H, W]`, weight and bias to `[N, H, W, C]`.
struct BatchNorm {
    cpu: Cpu,
    saved: Saved,
    var: Vec<f32>,
    epsilon: f64,
    of: BatchStatistics,
    relu: bool,
}

impl BatchNorm {
    fn scale_shift(&self, weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        scale_shift(weight, bias, &self.saved.mean, &self.var, self.epsilon)
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (weight, bias) =
            (contiguous(weight.as_slice()?, weight_layout)?, contiguous(bias.as_slice()?, bias_layout)?);
        let (scale, shift) = self.scale_shift(weight, bias);
        let activation = Activation { scale: &scale, shift: &shift };
        let mut y = vec![0f32; x_layout.shape().elem_count()];
        let x = channels_last(&self.cpu, x.as_slice()?, x_layout);
        let pass = if self.relu { apply } else { affine };
        pass(&self.cpu, &x, activation, &mut y)?;
        let (batch, channels, height, width) = x_layout.shape().dims4()?;
        Ok((CpuStorage::F32(y), (batch, height, width, channels).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (scale, shift) = self.scale_shift(&weight.to_vec1::<f32>()?, &bias.to_vec1::<f32>()?);
        let mut dx = with_f32(&dy.contiguous()?, |dy, layout| Ok(contiguous(dy, layout)?.to_vec()))?;
        let (mut dgamma, mut dbeta) = (vec![0f32; scale.len()], vec![0f32; scale.len()]);
        with_f32(x, |data, layout| {
            let forward = Forward {
                x: &channels_last(&self.cpu, data, layout),
                activation: Activation { scale: &scale, shift: &shift },
                saved: &self.saved,
                statistics: self.of,
                relu: self.relu,
            };
            Ok(backward(&self.cpu, forward, &mut dx, None, &mut dgamma, &mut dbeta)?)
        })?;
        let vector = |values, of: &Tensor| {
            of.track_op().then(|| Tensor::from_vec(values, of.dims(), of.device())).transpose()
        };
        let dx = x.track_op().then(|| from_channels_last(dx, x.dims4()?)).transpose()?;
        Ok((dx, vector(dgamma, weight)?, vector(dbeta, bias)?))
    }
}
