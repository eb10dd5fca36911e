use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::init;

/// A square convolution without bias. Input [N, I, H, W], weight [O, I, kernel, kernel].
#[derive(Debug)]
pub(crate) struct Conv2d {
    pub(crate) weight: Tensor,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Conv2d {
    /// A kernel of odd size, padded by half of it: stride 1 keeps height and width.
    pub(crate) fn new(
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let shape = (out_channels, in_channels, kernel, kernel);
        let weight = vb.get_with_hints(shape, "weight", init::CONVOLUTION)?;
        Ok(Self { weight, stride, padding: kernel / 2 })
    }

    pub(crate) fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.conv2d(&self.weight, self.padding, self.stride, 1, 1)?)
    }
}
