use candle_core::{Tensor, Var};
use candle_nn::{ModuleT, VarBuilder};
use wrn_sam_kernels::Cpu;

use crate::batch_norm::BatchNorm;
use crate::conv2d::Conv2d;
use crate::dropout::{Dropout, Position};
use crate::error::Result;
use crate::mode::Mode;
use crate::pass::{Layer, Output, OutputOf, Pass};
use crate::runner::Runner;

/// A pre-activation residual unit (He et al., <https://arxiv.org/abs/1603.05027>), with a projection of the activated input
/// or with the input itself as the residual.
#[derive(Debug, Clone)]
pub(crate) struct PreActUnit {
    first_normalization: BatchNorm,
    first_convolution: Conv2d,
    second_normalization: BatchNorm,
    dropout: Dropout,
    second_convolution: Conv2d,
    projection: Option<Conv2d>,
}

impl PreActUnit {
    /// A [`BasicUnit`], with names as in PyTorch's.
    pub(crate) fn basic(channels: usize, dropout: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let block = vb.pp("block");
        Ok(Self {
            first_normalization: BatchNorm::new(channels, block.pp("0_normalization"))?,
            first_convolution: Conv2d::new(channels, channels, 3, 1, block.pp("2_convolution"))?,
            second_normalization: BatchNorm::new(channels, block.pp("3_normalization"))?,
            dropout: Dropout::new(dropout, block.pp("5_dropout").prefix())?,
            second_convolution: Conv2d::new(channels, channels, 3, 1, block.pp("6_convolution"))?,
            projection: None,
        })
    }

    /// A [`DownsampleUnit`], with names as in PyTorch's.
    pub(crate) fn downsample(
        in_channels: usize,
        out_channels: usize,
        stride: usize,
        dropout: f64,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let block = vb.pp("block");
        Ok(Self {
            first_normalization: BatchNorm::new(in_channels, vb.pp("norm_act").pp("0_normalization"))?,
            first_convolution: Conv2d::new(in_channels, out_channels, 3, stride, block.pp("0_convolution"))?,
            second_normalization: BatchNorm::new(out_channels, block.pp("1_normalization"))?,
            dropout: Dropout::new(dropout, block.pp("3_dropout").prefix())?,
            second_convolution: Conv2d::new(out_channels, out_channels, 3, 1, block.pp("4_convolution"))?,
            projection: Some(Conv2d::new(in_channels, out_channels, 1, stride, vb.pp("downsample"))?),
        })
    }

    /// The buffers of both normalizations.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = Var> {
        [&self.first_normalization, &self.second_normalization].into_iter().flat_map(BatchNorm::buffers)
    }

    /// `convolution(dropout(relu(norm(convolution(activated))))) + residual`, with `activated = relu(norm(x))`.
    pub(crate) fn images<'a, P: Pass<'a>>(&'a self, pass: &mut P, x: P::Images) -> Result<P::Images> {
        let activated = pass.normalize(&self.first_normalization, None, &x)?;
        let hidden = pass.convolve(&self.first_convolution, &activated, None)?;
        let hidden = pass.normalize(&self.second_normalization, Some(&self.dropout), &hidden)?;
        let residual = match &self.projection {
            Some(projection) => pass.convolve(projection, &activated, None)?,
            None => x,
        };
        pass.convolve(&self.second_convolution, &hidden, Some(&residual))
    }
}

impl Layer for PreActUnit {
    fn parameter(&self) -> &Tensor {
        &self.first_normalization.weight
    }

    fn check_input(&self, x: &Tensor) -> Result<()> {
        self.first_normalization.check_input(x)
    }

    fn apply<'a, P: Pass<'a>>(&'a self, pass: &mut P, x: P::Images) -> Result<OutputOf<'a, P>> {
        Ok(Output::Images(self.images(pass, x)?))
    }
}

/// A unit that runs on candle's tensors.
macro_rules! module {
    ($(#[$documentation:meta])* $name:ident) => {
        $(#[$documentation])*
        #[derive(Debug, Clone)]
        pub struct $name {
            unit: PreActUnit,
            runner: Runner,
        }

        impl $name {
            /// On the CPU, runs on the threads and instruction set of `cpu` instead of [`Cpu::shared`]'s. Results do not
            /// depend on the number of threads.
            #[must_use]
            pub fn with_cpu(mut self, cpu: Cpu) -> Self {
                self.runner.placement.set_cpu(self.unit.parameter(), cpu);
                self
            }

            /// Runs the unit on `x`, of the parameters' float dtype and on their device.
            ///
            /// In f32 on the CPU, and with the feature `cuda` on a GPU, this is the project's own forward and backward
            /// pass. It is one node of candle's graph, and builds no graph in [`Mode::Eval`]. Elsewhere it is
            /// [`forward_plain`](Self::forward_plain).
            ///
            /// # Errors
            /// As [`BatchNorm::forward`].
            pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
                self.runner.forward(&self.unit, x, mode)
            }

            /// As [`forward`](Self::forward), in candle's own operations.
            ///
            /// # Errors
            /// As [`BatchNorm::forward`].
            pub fn forward_plain(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
                self.runner.forward_plain(&self.unit, x, mode)
            }

            /// Sets the seed of the dropout masks and the number of the next training pass, which picks the mask. A new
            /// unit is at (0, 0), and every training pass that succeeds advances the number by one.
            pub fn seek_dropout(&self, seed: u64, pass: u64) {
                *self.runner.position() = Position { seed, pass };
            }

            /// The seed of the dropout masks and the number of the next training pass, as
            /// [`seek_dropout`](Self::seek_dropout) takes them.
            pub fn dropout_position(&self) -> (u64, u64) {
                let Position { seed, pass } = *self.runner.position();
                (seed, pass)
            }
        }

        /// `train` chooses between [`Mode::Train`] and [`Mode::Eval`].
        impl ModuleT for $name {
            fn forward_t(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
                Ok(self.forward(x, Mode::from_train(train))?)
            }
        }
    };
}

module! {
    /// A residual unit that keeps the number of channels and the size of the image:
    ///
    /// ```text
    /// y = x + conv(dropout(relu(norm(conv(relu(norm(x)))))))
    /// ```
    ///
    /// Both convolutions are 3x3 with stride 1 and padding 1. Input and output [N, C, H, W].
    BasicUnit
}

module! {
    /// The residual unit that begins a group. It changes the number of channels and, with stride 2, halves the image:
    ///
    /// ```text
    /// a = relu(norm(x))
    /// y = conv(dropout(relu(norm(conv_stride(a))))) + project_stride(a)
    /// ```
    ///
    /// Both branches begin at the same activation `a`. The convolutions are 3x3 with padding 1, the first of them with the
    /// stride. The projection is 1x1 with the stride, and is there even where the shapes would agree without it. Input
    /// [N, I, H, W], output [N, O, ceil(H / stride), ceil(W / stride)].
    DownsampleUnit
}

impl BasicUnit {
    /// `dropout` is the probability that an element between the convolutions is set to zero, in [0, 1).
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a dropout out of range, [`Error::Candle`](crate::Error::Candle)
    /// where the builder lacks a value.
    pub fn new(channels: usize, dropout: f64, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { unit: PreActUnit::basic(channels, dropout, vb)?, runner: Runner::default() })
    }
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
        let unit = PreActUnit::downsample(in_channels, out_channels, stride, dropout, vb)?;
        Ok(Self { unit, runner: Runner::default() })
    }
}
