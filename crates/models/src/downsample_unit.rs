use std::sync::OnceLock;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use wrn_sam_kernels::{Backend, OutOfRange};

use crate::batch_norm::BatchNorm;
use crate::conv::Conv2d;
use crate::dropout::Dropout;
use crate::error::Result;
use crate::fused::{Compute, Network};
use crate::mode::Mode;
use crate::relu::relu_plain;

/// The residual unit that begins a group: it changes the number of channels and, with stride 2, halves the image.
///
/// ```text
/// a = relu(norm(x))
/// y = conv(dropout(relu(norm(conv_stride(a))))) + project_stride(a)
/// ```
///
/// Both branches begin at the same activation `a`. The convolutions are 3x3 with padding 1, the first of them with the
/// stride; the projection is 1x1 with the stride, and is there even where the shapes would agree without it. Input
/// [N, I, H, W], output [N, O, ceil(H / stride), ceil(W / stride)].
#[derive(Debug)]
pub struct DownsampleUnit {
    pub(crate) input_normalization: BatchNorm,
    pub(crate) first_convolution: Conv2d,
    pub(crate) second_normalization: BatchNorm,
    pub(crate) dropout: Dropout,
    pub(crate) second_convolution: Conv2d,
    pub(crate) projection: Conv2d,
    /// What runs the unit alone.
    compute: OnceLock<Compute>,
}

impl DownsampleUnit {
    /// `dropout` is the probability that an element between the convolutions is set to zero, in [0, 1).
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a dropout out of range or a stride of 0,
    /// [`Error::Candle`](crate::Error::Candle) where the builder lacks a value.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        stride: usize,
        dropout: f64,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        OutOfRange::check("stride", stride, stride > 0, "at least 1")?;
        let block = vb.pp("block");
        Ok(Self {
            input_normalization: BatchNorm::new(in_channels, vb.pp("norm_act").pp("0_normalization"))?,
            first_convolution: Conv2d::new(in_channels, out_channels, 3, stride, block.pp("0_convolution"))?,
            second_normalization: BatchNorm::new(out_channels, block.pp("1_normalization"))?,
            dropout: Dropout::new(dropout, block.pp("3_dropout").prefix())?,
            second_convolution: Conv2d::new(out_channels, out_channels, 3, 1, block.pp("4_convolution"))?,
            projection: Conv2d::new(in_channels, out_channels, 1, stride, vb.pp("downsample"))?,
            compute: OnceLock::new(),
        })
    }

    /// `x` [N, I, H, W] of the parameters' float dtype, on their device.
    ///
    /// In f32 on the CPU, and with the feature `cuda` on a GPU, this is the project's own forward and backward pass, a
    /// single node of candle's graph, and builds no graph in [`Mode::Eval`]; elsewhere it is
    /// [`forward_plain`](Self::forward_plain).
    ///
    /// # Errors
    /// As [`BatchNorm::forward`].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match Compute::of(&self.compute, &self.input_normalization.weight)? {
            Compute::Cpu(context) => self.run(context, x, mode),
            #[cfg(feature = "cuda")]
            Compute::Cuda(engine) => self.run(engine, x, mode),
            Compute::Plain => self.forward_plain(x, mode),
        }
    }

    fn run<B: Backend>(&self, backend: &B, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.input_normalization.check_input(x, mode)?;
        let network = Network { layers: &[self], head: None, hands_over_variables: false };
        Ok(network.run(backend, x, mode)?.permute((0, 3, 1, 2))?)
    }

    /// As [`forward`](Self::forward), from stock candle operations.
    ///
    /// # Errors
    /// As [`BatchNorm::forward`].
    pub fn forward_plain(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let activation = relu_plain(&self.input_normalization.forward(x, mode)?)?;
        let y = self.first_convolution.forward_plain(&activation)?;
        let y = relu_plain(&self.second_normalization.forward(&y, mode)?)?;
        let y = self.dropout.forward_plain(&y, mode)?;
        let y = self.second_convolution.forward_plain(&y)?;
        Ok((y + self.projection.forward_plain(&activation)?)?)
    }

    /// Sets the seed of the dropout masks and the number of the next training pass, which picks the mask. A new unit
    /// is at (0, 0).
    pub fn seek_dropout(&self, seed: u64, pass: u64) {
        self.dropout.seek(seed, pass);
    }
}
