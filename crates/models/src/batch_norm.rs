use candle_core::{DType, Tensor, Var};
use candle_nn::VarBuilder;
use wrn_sam_kernels::batch_norm::track;

use crate::error::{Error, Result};
use crate::init;
use crate::mode::Mode;

/// Added to the variance, as PyTorch's default.
pub(crate) const EPSILON: f64 = 1e-5;
/// The batch's share in the running statistics, as PyTorch's default.
pub(crate) const MOMENTUM: f64 = 0.1;

/// Batch normalization over [N, C, H, W], a channel at a time (Ioffe and Szegedy, <https://arxiv.org/abs/1502.03167>):
///
/// ```text
/// y = (x - mean) / sqrt(var + 1e-5) * weight + bias
/// running = 0.9 running + 0.1 batch
/// ```
///
/// With [`Mode::Train`] and [`Mode::TrainFrozenStatistics`], `mean` and `var` are the batch's, over N, H and W, the
/// variance being the biased one; `running_var` takes the unbiased one, as PyTorch's does. With [`Mode::Eval`] they are
/// the running ones, through which no gradient flows. Passes in [`Mode::Train`] through one layer move the same
/// statistics and must not run at the same time.
///
/// Parameters `weight` and `bias`, buffers `running_mean` and `running_var`, each of shape `[C]`; and the buffer
/// `num_batches_tracked`, an I64 scalar that counts every training pass.
#[derive(Debug)]
pub struct BatchNorm {
    pub(crate) name: String,
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) running_mean: Var,
    pub(crate) running_var: Var,
    pub(crate) num_batches_tracked: Var,
}

impl BatchNorm {
    /// Weight 1, bias 0, running mean 0 and variance 1, or what the builder holds.
    ///
    /// # Errors
    /// [`Error::Candle`] where the builder has no such values.
    pub fn new(channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        // From a builder over plain tensors, such as a mapped file, the statistics become variables of this layer.
        let buffer = |name, hint| Var::from_tensor(&vb.get_with_hints(channels, name, hint)?);
        Ok(Self {
            name: vb.prefix(),
            weight: vb.get_with_hints(channels, "weight", init::ONE)?,
            bias: vb.get_with_hints(channels, "bias", init::ZERO)?,
            running_mean: buffer("running_mean", init::ZERO)?,
            running_var: buffer("running_var", init::ONE)?,
            num_batches_tracked: Var::from_tensor(&vb.get_with_hints_dtype(
                (),
                "num_batches_tracked",
                init::ZERO,
                DType::I64,
            )?)?,
        })
    }

    /// Channels of the input.
    pub fn channels(&self) -> usize {
        self.weight.elem_count()
    }

    /// Normalizes `x` [N, C, H, W] of the parameters' float dtype, on their device.
    ///
    /// # Errors
    /// [`Error::InputShape`], [`Error::InputDType`]; [`Error::TooFewValues`] for a training pass over one value per channel.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.check_input(x, mode)?;
        let channels = self.channels();
        let column = |values: &Tensor| Ok::<_, Error>(accumulated(values)?.reshape((1, channels, 1))?);
        let input = accumulated(x)?.flatten_from(2)?;

        let (centered, variance) = if mode.is_training() {
            let mean = mean_per_channel(&input)?;
            let centered = input.broadcast_sub(&mean)?;
            let variance = mean_per_channel(&centered.sqr()?)?;
            let values_per_channel = x.elem_count() / channels;
            let moves = mode.moves_statistics();
            track(&self.state(), &mean.detach(), &variance.detach(), values_per_channel, moves)?;
            (centered, variance)
        } else {
            let mean = column(&self.running_mean.as_detached_tensor())?;
            (input.broadcast_sub(&mean)?, column(&self.running_var.as_detached_tensor())?)
        };
        let scale = (column(&self.weight)? / (variance + EPSILON)?.sqrt()?)?;
        let y = centered.broadcast_mul(&scale)?.broadcast_add(&column(&self.bias)?)?;
        Ok(y.reshape(x.shape())?.to_dtype(x.dtype())?)
    }

    pub(crate) fn check_input(&self, x: &Tensor, mode: Mode) -> Result<()> {
        let (channels, found) = (self.channels(), x.dims());
        if found.len() != 4 || found[1] != channels || x.elem_count() == 0 {
            let (layer, expected) = (self.layer(), format!("[N, {channels}, H, W] with nothing empty"));
            return Err(Error::InputShape { layer, expected, found: found.to_vec() });
        }
        if x.dtype() != self.weight.dtype() {
            let (layer, expected, found) = (self.layer(), self.weight.dtype(), x.dtype());
            return Err(Error::InputDType { layer, expected, found });
        }
        self.check_count(found, mode)
    }

    /// That images of shape `dims` have a variance, where the mode needs one.
    pub(crate) fn check_count(&self, dims: &[usize], mode: Mode) -> Result<()> {
        if mode.is_training() && dims.iter().product::<usize>() == self.channels() {
            return Err(Error::TooFewValues { layer: self.layer(), found: dims.to_vec() });
        }
        Ok(())
    }

    fn layer(&self) -> String {
        if self.name.is_empty() { "BatchNorm".to_string() } else { self.name.clone() }
    }
}

/// In the type that sums are taken in: f32 for the half-width ones.
fn accumulated(x: &Tensor) -> candle_core::Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// [N, C, HW] to [1, C, 1]. First over the pixels and then over the images: shorter sums round less.
fn mean_per_channel(x: &Tensor) -> candle_core::Result<Tensor> {
    x.mean_keepdim(2)?.mean_keepdim(0)
}
