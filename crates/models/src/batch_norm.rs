use candle_core::{DType, Tensor, Var};
use candle_nn::{ModuleT, VarBuilder};
use wrn_sam_kernels::Cpu;
use wrn_sam_kernels::batch_norm::{
    BatchNormState, BatchStatistics, EPS, accumulated, batch_norm, batch_norm_relu, track,
};

use crate::compute::{Compute, Placement};
use crate::error::{Error, Result};
use crate::init;
use crate::mode::Mode;
use crate::pass::check_images;
use crate::plain::relu;

/// Batch normalization of each channel of [N, C, H, W] (Ioffe and Szegedy, <https://arxiv.org/abs/1502.03167>):
///
/// ```text
/// y = (x - mean) / sqrt(var + 1e-5) * weight + bias
/// running = 0.9 running + 0.1 batch
/// ```
///
/// With [`Mode::Train`] and [`Mode::TrainFrozenStatistics`], `mean` and `var` are the batch's, over N, H and W, and
/// `var` is the biased variance; `running_var` takes the unbiased one, as PyTorch's does. In evaluation they are the running
/// ones, through which no gradient flows. Passes in [`Mode::Train`] through one layer move the same statistics and must not
/// run at the same time.
///
/// Parameters `weight` and `bias`, buffers `running_mean` and `running_var`, each of shape `[C]`; and the buffer
/// `num_batches_tracked`, an I64 scalar that counts every training pass.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    pub(crate) name: String,
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    running_mean: Var,
    running_var: Var,
    num_batches_tracked: Var,
    placement: Placement,
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
            placement: Placement::default(),
        })
    }

    /// On the CPU, runs on the threads and instruction set of `cpu` instead of [`Cpu::shared`]'s.
    #[must_use]
    pub fn with_cpu(mut self, cpu: Cpu) -> Self {
        self.placement.set_cpu(&self.weight, cpu);
        self
    }

    /// The running mean and variance and the count of batches, which training passes change.
    pub fn buffers(&self) -> [Var; 3] {
        [self.running_mean.clone(), self.running_var.clone(), self.num_batches_tracked.clone()]
    }

    /// Channels of the input.
    pub fn channels(&self) -> usize {
        self.weight.elem_count()
    }

    /// Normalizes `x` [N, C, H, W] of the parameters' float dtype, on their device. Differentiable in every mode but
    /// [`Mode::Eval`].
    ///
    /// In f32 on the CPU it is one of the project's own operations, and its output has its channels last in memory; elsewhere
    /// it is in candle's own operations.
    ///
    /// # Errors
    /// [`Error::InputShape`], [`Error::InputDType`]; [`Error::TooFewValues`] for a training pass over one value per channel.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.run(x, mode, false)
    }

    /// `relu(self.forward(x, mode))`, which in f32 on the CPU, and with the feature `cuda` on a GPU, is one of the project's
    /// own operations.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_relu(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.run(x, mode, true)
    }

    fn run(&self, x: &Tensor, mode: Mode, with_relu: bool) -> Result<Tensor> {
        self.check_input(x)?;
        self.check_count(x.dims(), mode)?;
        let kept = |tensor: &Tensor| if mode.has_gradients() { tensor.clone() } else { tensor.detach() };
        let (x, weight, bias) = (&kept(x), &kept(&self.weight), &kept(&self.bias));
        let (norm, of) = (BatchNormState { weight, bias, ..self.state(mode) }, Self::statistics(mode));
        match self.placement.compute(weight)? {
            Compute::Cpu(cpu) if with_relu => Ok(batch_norm_relu(cpu, x, &norm, of)?),
            Compute::Cpu(cpu) => Ok(batch_norm(cpu, x, &norm, of)?),
            #[cfg(feature = "cuda")]
            Compute::Cuda(cuda) if with_relu => Ok(batch_norm_relu(cuda, x, &norm, of)?),
            _ => {
                let y = self.forward_plain(x, mode)?;
                Ok(kept(&if with_relu { relu(&y)? } else { y }))
            }
        }
    }

    pub(crate) fn forward_plain(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let channels = self.channels();
        let column = |values: &Tensor| Ok::<_, Error>(accumulated(values)?.reshape((1, channels, 1))?);
        let input = accumulated(x)?.flatten_from(2)?;

        let (centered, variance) = if mode.is_training() {
            let mean = mean_per_channel(&input)?;
            let centered = input.broadcast_sub(&mean)?;
            let variance = mean_per_channel(&centered.sqr()?)?;
            let values_per_channel = x.elem_count() / channels;
            let moves = mode.moves_statistics();
            track(&self.state(mode), &mean.detach(), &variance.detach(), values_per_channel, moves)?;
            (centered, variance)
        } else {
            let mean = column(&self.running_mean.as_detached_tensor())?;
            (input.broadcast_sub(&mean)?, column(&self.running_var.as_detached_tensor())?)
        };
        let scale = (column(&self.weight)? / (variance + EPS)?.sqrt()?)?;
        let y = centered.broadcast_mul(&scale)?.broadcast_add(&column(&self.bias)?)?;
        Ok(y.reshape(x.shape())?.to_dtype(x.dtype())?)
    }

    /// That `x` is of images with as many channels, in the parameters' dtype.
    pub(crate) fn check_input(&self, x: &Tensor) -> Result<()> {
        check_images(&self.layer(), self.channels(), self.weight.dtype(), x)
    }

    /// That images have a variance, where the mode needs one.
    pub(crate) fn check_count(&self, x: &[usize], mode: Mode) -> Result<()> {
        if mode.is_training() && x.iter().product::<usize>() == self.channels() {
            return Err(Error::TooFewValues { layer: self.layer(), found: x.to_vec() });
        }
        Ok(())
    }

    fn layer(&self) -> String {
        if self.name.is_empty() { "BatchNorm".to_string() } else { self.name.clone() }
    }

    /// What the kernels take in a pass of this mode.
    pub(crate) fn state(&self, mode: Mode) -> BatchNormState<'_> {
        BatchNormState {
            weight: &self.weight,
            bias: &self.bias,
            running_mean: &self.running_mean,
            running_var: &self.running_var,
            num_batches_tracked: &self.num_batches_tracked,
            epsilon: EPS,
            momentum: mode.momentum(),
        }
    }

    /// The statistics that a mode normalizes with.
    pub(crate) fn statistics(mode: Mode) -> BatchStatistics {
        match mode {
            Mode::Train | Mode::TrainMoving { .. } | Mode::TrainFrozenStatistics => {
                BatchStatistics::Batch { moves: mode.moves_statistics() }
            }
            Mode::Eval | Mode::EvalWithGradients => BatchStatistics::Running,
        }
    }
}

/// `train` chooses between [`Mode::Train`] and [`Mode::Eval`].
impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        Ok(self.forward(x, Mode::from_train(train))?)
    }
}

/// [N, C, HW] to [1, C, 1]. First over the pixels and then over the images: shorter sums round less.
fn mean_per_channel(x: &Tensor) -> candle_core::Result<Tensor> {
    x.mean_keepdim(2)?.mean_keepdim(0)
}
