use candle_core::Tensor;
use candle_nn::{Module, VarBuilder};
use wrn_sam_kernels::conv2d::{Conv2dConfig, Conv2dShape, conv2d};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::compute::{Compute, Placement};
use crate::error::Result;
use crate::init;
use crate::pass::{Dims, check_images};

/// A convolution with a square kernel.
///
/// Input [N, I, H, W]; parameters `weight` [O, I / groups, kernel, kernel] and, where it has one, `bias` `[O]`; output
/// [N, O, H', W'] with `H' = (H + 2 padding - dilation (kernel - 1) - 1) / stride + 1`, rounded down, and W' likewise.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use wrn_sam_models::{Conv2d, Parameters};
///
/// let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
/// let convolution = Conv2d::new(3, 16, 3, 2, parameters.var_builder().pp("conv"))?;
/// let x = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(convolution.forward(&x)?.dims(), [2, 16, 16, 16]);
///
/// // Depthwise, with a bias.
/// use wrn_sam_models::Conv2dConfig;
/// let vb = parameters.var_builder().pp("depthwise");
/// let depthwise = Conv2d::from_config(3, 3, 5, Conv2dConfig::new(1, 2).with_groups(3), vb.clone())?.with_bias(vb)?;
/// assert_eq!(depthwise.forward(&x)?.dims(), [2, 3, 32, 32]);
/// # Ok::<(), wrn_sam_models::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Conv2d {
    pub(crate) name: String,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) config: Conv2dConfig,
    placement: Placement,
}

impl Conv2d {
    /// A convolution without bias, padded by half of its kernel, rounded down: an odd kernel with stride 1 keeps height and
    /// width. The first weights are normal with standard deviation sqrt(2 / (I kernel^2)), or what the builder holds.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a stride or kernel of 0, [`Error::Candle`](crate::Error::Candle)
    /// where the builder lacks the weight.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        Self::from_config(in_channels, out_channels, kernel, Conv2dConfig::new(stride, kernel / 2), vb)
    }

    /// As [`new`](Self::new), with any stride, padding, dilation and groups. The weights' deviation is
    /// sqrt(2 / (I / groups kernel^2)).
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::OutOfRange`](crate::Error::OutOfRange) also for a dilation of 0 and for groups that do
    /// not divide both numbers of channels.
    pub fn from_config(
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        config: Conv2dConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let Conv2dConfig { stride, dilation, groups, .. } = config;
        for (name, value) in
            [("stride", stride), ("kernel", kernel), ("dilation", dilation), ("groups", groups)]
        {
            OutOfRange::check(name, value, value > 0, "at least 1")?;
        }
        let divides = in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups);
        OutOfRange::check("groups", groups, divides, "a divisor of both numbers of channels")?;
        let shape = (out_channels, in_channels / groups, kernel, kernel);
        let weight = vb.get_with_hints(shape, "weight", init::CONVOLUTION)?;
        Ok(Self { name: vb.prefix(), weight, bias: None, config, placement: Placement::default() })
    }

    /// With a bias, at first 0, or what the builder holds.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) where the builder lacks it.
    pub fn with_bias(self, vb: VarBuilder<'_>) -> Result<Self> {
        let bias = vb.get_with_hints(self.weight.dims()[0], "bias", init::ZERO)?;
        Ok(Self { bias: Some(bias), ..self })
    }

    /// With `padding` zeros on each of the four sides.
    #[must_use]
    pub fn with_padding(mut self, padding: usize) -> Self {
        self.config.padding = padding;
        self
    }

    /// On the CPU, runs on the threads and instruction set of `cpu` instead of [`Cpu::shared`]'s.
    #[must_use]
    pub fn with_cpu(mut self, cpu: Cpu) -> Self {
        self.placement.set_cpu(&self.weight, cpu);
        self
    }

    /// Convolves `x` [N, I, H, W] of the weight's float dtype, on its device. Differentiable in the input and the parameters.
    ///
    /// In f32 on the CPU, and with the feature `cuda` and without groups on a GPU, by the project's own kernels, whose output
    /// has its channels last in memory; else by candle's.
    ///
    /// # Errors
    /// [`Error::InputShape`](crate::Error::InputShape), [`Error::InputDType`](crate::Error::InputDType);
    /// [`Error::Kernels`](crate::Error::Kernels) and [`Error::Candle`](crate::Error::Candle) where the operation fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let layer = if self.name.is_empty() { "Conv2d" } else { &self.name };
        let Self { weight, config, .. } = self;
        check_images(layer, weight.dims()[1] * config.groups, weight.dtype(), x)?;
        match self.placement.compute(weight)? {
            Compute::Cpu(cpu) => Ok(conv2d(cpu, x, weight, self.bias.as_ref(), *config)?),
            #[cfg(feature = "cuda")]
            Compute::Cuda(cuda) if config.groups == 1 => {
                Ok(conv2d(cuda, x, weight, self.bias.as_ref(), *config)?)
            }
            _ => self.forward_plain(x),
        }
    }

    pub(crate) fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let Conv2dConfig { stride, padding, dilation, groups, .. } = self.config;
        let y = x.conv2d(&self.weight, padding, stride, dilation, groups)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?,
            None => y,
        })
    }

    /// The shape of the product with images of the given dimensions.
    pub(crate) fn shape(&self, x: Dims) -> Result<Conv2dShape> {
        let [out_channels, kernel] = [self.weight.dims()[0], self.weight.dims()[3]];
        Ok(Conv2dShape::with_config(x, out_channels, kernel, self.config)?)
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(Self::forward(self, x)?)
    }
}
