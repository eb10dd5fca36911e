use std::sync::OnceLock;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use wrn_sam_kernels::Backend;

use crate::batch_norm::BatchNorm;
use crate::conv::Conv2d;
use crate::dropout::Dropout;
use crate::error::Result;
use crate::fused::{Compute, Network};
use crate::mode::Mode;
use crate::relu::relu_plain;

/// A residual unit that keeps the number of channels and the size of the image:
///
/// ```text
/// y = x + conv(dropout(relu(norm(conv(relu(norm(x)))))))
/// ```
///
/// Both convolutions are 3x3 with stride 1 and padding 1. Input and output [N, C, H, W].
#[derive(Debug)]
pub struct BasicUnit {
    pub(crate) first_normalization: BatchNorm,
    pub(crate) first_convolution: Conv2d,
    pub(crate) second_normalization: BatchNorm,
    pub(crate) dropout: Dropout,
    pub(crate) second_convolution: Conv2d,
    /// What runs the unit alone.
    compute: OnceLock<Compute>,
}

impl BasicUnit {
    /// `dropout` is the probability that an element between the convolutions is set to zero, in [0, 1).
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a dropout out of range, [`Error::Candle`](crate::Error::Candle)
    /// where the builder lacks a value.
    pub fn new(channels: usize, dropout: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.pp("block");
        Ok(Self {
            first_normalization: BatchNorm::new(channels, vb.pp("0_normalization"))?,
            first_convolution: Conv2d::new(channels, channels, 3, 1, vb.pp("2_convolution"))?,
            second_normalization: BatchNorm::new(channels, vb.pp("3_normalization"))?,
            dropout: Dropout::new(dropout, vb.pp("5_dropout").prefix())?,
            second_convolution: Conv2d::new(channels, channels, 3, 1, vb.pp("6_convolution"))?,
            compute: OnceLock::new(),
        })
    }

    /// `x` [N, C, H, W] of the parameters' float dtype, on their device.
    ///
    /// In f32 on the CPU, and with the feature `cuda` on a GPU, this is the project's own forward and backward pass, a
    /// single node of candle's graph, and builds no graph in [`Mode::Eval`]; elsewhere it is
    /// [`forward_plain`](Self::forward_plain).
    ///
    /// # Errors
    /// As [`BatchNorm::forward`].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match Compute::of(&self.compute, &self.first_normalization.weight)? {
            Compute::Cpu(context) => self.run(context, x, mode),
            #[cfg(feature = "cuda")]
            Compute::Cuda(engine) => self.run(engine, x, mode),
            Compute::Plain => self.forward_plain(x, mode),
        }
    }

    fn run<B: Backend>(&self, backend: &B, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.first_normalization.check_input(x, mode)?;
        let network = Network { layers: &[self], head: None, hands_over_variables: false };
        Ok(network.run(backend, x, mode)?.permute((0, 3, 1, 2))?)
    }

    /// As [`forward`](Self::forward), from stock candle operations.
    ///
    /// # Errors
    /// As [`BatchNorm::forward`].
    pub fn forward_plain(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = relu_plain(&self.first_normalization.forward(x, mode)?)?;
        let y = self.first_convolution.forward_plain(&y)?;
        let y = relu_plain(&self.second_normalization.forward(&y, mode)?)?;
        let y = self.dropout.forward_plain(&y, mode)?;
        Ok((x + self.second_convolution.forward_plain(&y)?)?)
    }

    /// Sets the seed of the dropout masks and the number of the next training pass, which picks the mask. A new unit
    /// is at (0, 0).
    pub fn seek_dropout(&self, seed: u64, pass: u64) {
        self.dropout.seek(seed, pass);
    }
}
