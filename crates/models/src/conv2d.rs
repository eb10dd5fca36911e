use candle_core::Tensor;
use candle_nn::{Module, VarBuilder};
use wrn_sam_kernels::conv2d::{Conv2dConfig, Conv2dShape, conv2d};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::compute::{Compute, Placement};
use crate::error::Result;
use crate::init;
use crate::pass::{Dims, check_images};

/// A convolution with a square kernel and without bias.
///
/// Input [N, I, H, W]; parameter `weight` [O, I, kernel, kernel]; output [N, O, H', W'] with
/// `H' = (H + 2 padding - kernel) / stride + 1`, rounded down, and W' likewise.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use wrn_sam_models::{Conv2d, Parameters};
///
/// let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
/// let convolution = Conv2d::new(3, 16, 3, 2, parameters.var_builder().pp("conv"))?;
/// let x = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(convolution.forward(&x)?.dims(), [2, 16, 16, 16]);
/// # Ok::<(), wrn_sam_models::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Conv2d {
    pub(crate) name: String,
    pub(crate) weight: Tensor,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    placement: Placement,
}

impl Conv2d {
    /// A convolution padded by half of its kernel, rounded down: an odd kernel with stride 1 keeps height and width. The
    /// first weights are normal with standard deviation sqrt(2 / (I kernel^2)), or what the builder holds.
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
        OutOfRange::check("stride", stride, stride > 0, "at least 1")?;
        OutOfRange::check("kernel", kernel, kernel > 0, "at least 1")?;
        let shape = (out_channels, in_channels, kernel, kernel);
        let weight = vb.get_with_hints(shape, "weight", init::CONVOLUTION)?;
        Ok(Self { name: vb.prefix(), weight, stride, padding: kernel / 2, placement: Placement::default() })
    }

    /// With `padding` zeros on each of the four sides.
    #[must_use]
    pub fn with_padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// On the CPU, runs on the threads and instruction set of `cpu` instead of [`Cpu::shared`]'s.
    #[must_use]
    pub fn with_cpu(mut self, cpu: Cpu) -> Self {
        self.placement.set_cpu(&self.weight, cpu);
        self
    }

    /// Convolves `x` [N, I, H, W] of the weight's float dtype, on its device. Differentiable in both.
    ///
    /// In f32 on the CPU, and with the feature `cuda` on a GPU, by the project's own kernels, whose output has its channels
    /// last in memory; else by candle's.
    ///
    /// # Errors
    /// [`Error::InputShape`](crate::Error::InputShape), [`Error::InputDType`](crate::Error::InputDType);
    /// [`Error::Kernels`](crate::Error::Kernels) and [`Error::Candle`](crate::Error::Candle) where the operation fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let layer = if self.name.is_empty() { "Conv2d" } else { &self.name };
        check_images(layer, self.weight.dims()[1], self.weight.dtype(), x)?;
        let config = Conv2dConfig::new(self.stride, self.padding);
        match self.placement.compute(&self.weight)? {
            Compute::Cpu(cpu) => Ok(conv2d(cpu, x, &self.weight, None, config)?),
            #[cfg(feature = "cuda")]
            Compute::Cuda(cuda) => Ok(conv2d(cuda, x, &self.weight, None, config)?),
            Compute::Plain => self.forward_plain(x),
        }
    }

    pub(crate) fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.conv2d(&self.weight, self.padding, self.stride, 1, 1)?)
    }

    /// The shape of the product with images of the given dimensions.
    pub(crate) fn shape(&self, x: Dims) -> Result<Conv2dShape> {
        let [out_channels, kernel] = [self.weight.dims()[0], self.weight.dims()[3]];
        Ok(Conv2dShape::new(x, out_channels, kernel, self.stride, self.padding)?)
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(Self::forward(self, x)?)
    }
}
