//! Batch norm and ReLU as one operation of candle's graph.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::{Forward, Saved, Statistics, apply, backward, scale_shift, statistics};
use crate::conv2d::Activation;
use crate::tensor::{ChannelsLast, channels_last, contiguous, cpu_f32, from_channels_last, with_f32};
use crate::{Cpu, Error, Result};

/// `relu(batch_norm(x))` with the batch's own statistics, differentiable in `x`, `gamma` and `beta`, together
/// with the mean and the biased variance of each channel.
///
/// `x` is `[N, C, H, W]`, the parameters and statistics `[C]`, all `f32` on the CPU with any strides. The
/// result lies channels-last in memory; where `x` does too, nothing is copied. The statistics returned carry
/// no gradient.
///
/// # Errors
/// [`Error::Unsupported`] for another device or element type; [`Error::Shape`] where the shapes do not fit
/// each other or `x` has fewer than two pixels for each channel; an error of candle's where they have not these numbers of dimensions.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use wrn_sam_kernels::batch_norm::{EPS, batch_norm_relu};
/// let x = Var::randn(3f32, 2., (4, 2, 8, 8), &Device::Cpu)?;
/// let gamma = Var::ones(2, DType::F32, &Device::Cpu)?;
/// let beta = Var::zeros(2, DType::F32, &Device::Cpu)?;
/// let (y, mean, var) = batch_norm_relu(&x, &gamma, &beta, EPS)?;
/// assert!((mean.to_vec1::<f32>()?[0] - 3.).abs() < 1. && (var.to_vec1::<f32>()?[0] - 4.).abs() < 2.);
/// let gradients = y.sqr()?.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&x).unwrap().dims(), x.dims());
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn batch_norm_relu(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let channels = check(x, &[("gamma", gamma), ("beta", beta)])?;
    let ctx = Cpu::shared();
    let (mut mean, mut var) = (vec![0f32; channels], vec![0f32; channels]);
    with_f32(x, |x, layout| Ok(statistics(ctx, &channels_last(ctx, x, layout), &mut mean, &mut var)?))?;
    let y = x.apply_op3(
        &gamma.contiguous()?,
        &beta.contiguous()?,
        BatchNormRelu::new(&mean, &var, eps, Statistics::Batch),
    )?;
    let statistic = |values| Tensor::from_vec(values, channels, x.device());
    Ok((y.permute((0, 3, 1, 2))?, statistic(mean)?, statistic(var)?))
}

/// `relu(batch_norm(x))` with the given mean and variance, `[C]`, as constants: the form of evaluation with
/// running statistics. Otherwise as [`batch_norm_relu`].
///
/// # Errors
/// As [`batch_norm_relu`]; `x` may be empty.
pub fn batch_norm_relu_with(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    check(x, &[("gamma", gamma), ("beta", beta), ("mean", mean), ("var", var)])?;
    let (mean, var) = (mean.to_vec1::<f32>()?, var.to_vec1::<f32>()?);
    let y = x.apply_op3(
        &gamma.contiguous()?,
        &beta.contiguous()?,
        BatchNormRelu::new(&mean, &var, eps, Statistics::Constant),
    )?;
    Ok(y.permute((0, 3, 1, 2))?)
}

/// That `x` has four dimensions and the others one of its channels each, all `f32` on the CPU; the channels.
fn check(x: &Tensor, vectors: &[(&'static str, &Tensor)]) -> Result<usize> {
    cpu_f32("batch_norm_relu", x)?;
    let (_, channels, _, _) = x.dims4()?;
    for &(what, vector) in vectors {
        cpu_f32("batch_norm_relu", vector)?;
        if vector.dims() != [channels] {
            let (expected, found) = (format!("[{channels}]"), format!("{:?}", vector.dims()));
            return Err(Error::Shape { what, expected, found });
        }
    }
    Ok(channels)
}

/// `[N, C, H, W]`, `gamma` and `beta` to `[N, H, W, C]`.
struct BatchNormRelu {
    saved: Saved,
    var: Vec<f32>,
    eps: f64,
    statistics: Statistics,
}

impl BatchNormRelu {
    fn new(mean: &[f32], var: &[f32], eps: f64, statistics: Statistics) -> Self {
        Self { saved: Saved::new(mean, var, eps), var: var.to_vec(), eps, statistics }
    }

    fn scale_shift(&self, gamma: &[f32], beta: &[f32]) -> (Vec<f32>, Vec<f32>) {
        scale_shift(gamma, beta, &self.saved.mean, &self.var, self.eps)
    }
}

impl CustomOp3 for BatchNormRelu {
    fn name(&self) -> &'static str {
        "batch_norm_relu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ctx = Cpu::shared();
        let (gamma, beta) =
            (contiguous(gamma.as_slice()?, gamma_layout)?, contiguous(beta.as_slice()?, beta_layout)?);
        let (scale, shift) = self.scale_shift(gamma, beta);
        let mut y = vec![0f32; x_layout.shape().elem_count()];
        let x = channels_last(ctx, x.as_slice()?, x_layout);
        apply(ctx, &x, Activation { scale: &scale, shift: &shift }, &mut y)?;
        let (batch, channels, height, width) = x_layout.shape().dims4()?;
        Ok((CpuStorage::F32(y), (batch, height, width, channels).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ctx = Cpu::shared();
        let (scale, shift) = self.scale_shift(&gamma.to_vec1::<f32>()?, &beta.to_vec1::<f32>()?);
        let mut dx = with_f32(&dy.contiguous()?, |dy, layout| Ok(contiguous(dy, layout)?.to_vec()))?;
        let (mut dgamma, mut dbeta) = (vec![0f32; scale.len()], vec![0f32; scale.len()]);
        with_f32(x, |data, layout| {
            let x: ChannelsLast = channels_last(ctx, data, layout);
            let activation = Activation { scale: &scale, shift: &shift };
            let forward = Forward { x: &x, activation, saved: &self.saved, statistics: self.statistics };
            Ok(backward(ctx, forward, &mut dx, None, &mut dgamma, &mut dbeta)?)
        })?;
        let vector = |values, of: &Tensor| {
            of.track_op().then(|| Tensor::from_vec(values, of.dims(), of.device())).transpose()
        };
        let dx = x.track_op().then(|| from_channels_last(dx, x.dims4()?)).transpose()?;
        Ok((dx, vector(dgamma, gamma)?, vector(dbeta, beta)?))
    }
}
