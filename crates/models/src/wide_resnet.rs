use candle_core::Tensor;
use candle_nn::VarBuilder;
use wrn_sam_kernels::{Backend, Cpu, Precision};

use crate::basic_unit::BasicUnit;
use crate::batch_norm::BatchNorm;
use crate::config::WideResNetConfig;
use crate::conv::Conv2d;
use crate::downsample_unit::DownsampleUnit;
use crate::error::{Error, Result};
use crate::fused::{Compute, Head, Layer, Network};
use crate::init;
use crate::mode::Mode;
use crate::relu::relu_plain;

/// Height and width of the input: after two halvings the last group's images are 8x8, the size of the average pool.
pub(crate) const IMAGE_SIZE: usize = 32;

/// A Wide ResNet for 32x32 images (Zagoruyko and Komodakis, <https://arxiv.org/abs/1605.07146>): a 3x3 convolution to 16
/// channels; three groups of residual units at 32x32, 16x16 and 8x8, each a [`DownsampleUnit`] followed by
/// [`BasicUnit`]s; batch normalization, ReLU, the average over the 8x8 pixels, and a linear classifier.
///
/// Values are named as in PyTorch: `f.0_convolution`, `f.1_block.block.0` to `f.3_block.block.{n-1}`,
/// `f.4_normalization`, `f.8_classification`.
#[derive(Debug)]
pub struct WideResNet {
    pub(crate) config: WideResNetConfig,
    pub(crate) convolution: Conv2d,
    pub(crate) groups: [Group; 3],
    pub(crate) normalization: BatchNorm,
    pub(crate) classifier_weight: Tensor,
    pub(crate) classifier_bias: Tensor,
    compute: Compute,
    hands_over_gradients: bool,
}

/// Residual units of one width.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) downsample: DownsampleUnit,
    pub(crate) basics: Vec<BasicUnit>,
}

impl Group {
    fn new(
        in_channels: usize,
        out_channels: usize,
        stride: usize,
        config: &WideResNetConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let (dropout, vb) = (config.dropout, vb.pp("block"));
        let downsample = DownsampleUnit::new(in_channels, out_channels, stride, dropout, vb.pp(0))?;
        let basics =
            (1..config.units_per_group()).map(|unit| BasicUnit::new(out_channels, dropout, vb.pp(unit)));
        Ok(Self { downsample, basics: basics.collect::<Result<_>>()? })
    }

    fn forward_plain(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let first = self.downsample.forward_plain(x, mode)?;
        self.basics.iter().try_fold(first, |x, unit| unit.forward_plain(&x, mode))
    }
}

impl WideResNet {
    /// Builds the network from a builder: [`Parameters::var_builder`](crate::Parameters::var_builder), or any of
    /// candle's own. From a builder over plain tensors, such as a mapped file, the weights are constants.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the configuration is not valid, [`Error::Candle`] where the builder lacks a value.
    pub fn new(config: &WideResNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let vb = vb.pp("f");
        let widths = config.widths();
        let convolution = Conv2d::new(config.in_channels, widths[0], 3, 1, vb.pp("0_convolution"))?;
        let groups = [
            Group::new(widths[0], widths[1], 1, config, vb.pp("1_block"))?,
            Group::new(widths[1], widths[2], 2, config, vb.pp("2_block"))?,
            Group::new(widths[2], widths[3], 2, config, vb.pp("3_block"))?,
        ];
        let normalization = BatchNorm::new(widths[3], vb.pp("4_normalization"))?;
        let classification = vb.pp("8_classification");
        let classifier_weight =
            classification.get_with_hints((config.classes, widths[3]), "weight", init::ZERO)?;
        let classifier_bias = classification.get_with_hints(config.classes, "bias", init::ZERO)?;
        let compute = Compute::new(&classifier_weight, Precision::F32)?;
        Ok(Self {
            config: config.clone(),
            convolution,
            groups,
            normalization,
            classifier_weight,
            classifier_bias,
            compute,
            hands_over_gradients: false,
        })
    }

    /// On the CPU, runs on the threads and instruction set of `context` instead of [`Cpu::shared`]'s. Results do not
    /// depend on the number of threads.
    #[must_use]
    pub fn with_cpu(self, context: Cpu) -> Self {
        match self.compute {
            Compute::Cpu(_) => Self { compute: Compute::Cpu(context), ..self },
            _ => self,
        }
    }

    /// Computes in the given precision. The parameters stay f32, and so do their gradients, the running statistics and
    /// the logits.
    ///
    /// # Errors
    /// [`Error::Kernels`] where the parameters are not f32 on a CUDA device, unless it is [`Precision::F32`].
    pub fn with_precision(self, precision: Precision) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Compute::Cuda(engine) = &self.compute
            && engine.precision() == precision
        {
            return Ok(self);
        }
        match (&self.compute, precision) {
            (Compute::Cpu(_) | Compute::Plain, Precision::F32) => Ok(self),
            _ => Ok(Self { compute: Compute::new(&self.classifier_weight, precision)?, ..self }),
        }
    }

    /// Computes the same bits in every run on one kind of GPU with one version of its libraries, where convolutions otherwise
    /// take what was fastest in this run. On the CPU they are the same in any case. Call it after
    /// [`with_precision`](Self::with_precision).
    #[must_use]
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn with_deterministic(self, deterministic: bool) -> Self {
        match self.compute {
            #[cfg(feature = "cuda")]
            Compute::Cuda(engine) => {
                Self { compute: Compute::Cuda(engine.with_deterministic(deterministic)), ..self }
            }
            _ => self,
        }
    }

    /// Gives the parameters' gradients to [`wrn_sam_kernels::backward`] alone, and makes `loss.backward()` an error.
    /// That spares a training pass some small kernels for each parameter, of which a GPU feels the number.
    #[must_use]
    pub fn with_handed_over_gradients(self) -> Self {
        Self { hands_over_gradients: true, ..self }
    }

    /// The hyper-parameters it was built with.
    pub fn config(&self) -> &WideResNetConfig {
        &self.config
    }

    /// Logits [N, classes] of normalized images [N, in_channels, 32, 32], of the parameters' float dtype and on their
    /// device.
    ///
    /// In f32 on the CPU, and with the feature `cuda` on a GPU, this is the project's own forward and backward pass, a
    /// single node of candle's graph, and builds no graph in [`Mode::Eval`]; elsewhere it is
    /// [`forward_plain`](Self::forward_plain). For the quickest gradients call [`wrn_sam_kernels::backward`] on the loss;
    /// `loss.backward()` gives the same ones.
    ///
    /// # Errors
    /// [`Error::InputShape`], [`Error::InputDType`]; [`Error::Candle`] where an operation fails. After an error in
    /// [`Mode::Train`] the running statistics of the layers already passed have moved.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        match &self.compute {
            Compute::Cpu(context) => self.run(context, images, mode),
            #[cfg(feature = "cuda")]
            Compute::Cuda(engine) => self.run(engine, images, mode),
            Compute::Plain => self.forward_plain(images, mode),
        }
    }

    fn run<B: Backend>(&self, backend: &B, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.check_input(images)?;
        let head = Head {
            normalization: &self.normalization,
            weight: &self.classifier_weight,
            bias: &self.classifier_bias,
        };
        let mut layers: Vec<&dyn Layer<B>> = vec![&self.convolution];
        for group in &self.groups {
            layers.push(&group.downsample);
            layers.extend(group.basics.iter().map(|unit| unit as &dyn Layer<B>));
        }
        let hands_over_variables = self.hands_over_gradients;
        Network { layers: &layers, head: Some(&head), hands_over_variables }.run(backend, images, mode)
    }

    /// As [`forward`](Self::forward), from stock candle operations alone, on any device and in any float dtype that
    /// candle multiplies there (bf16 not on the CPU): the oracle for every faster way.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_plain(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.check_input(images)?;
        let x = self.convolution.forward_plain(images)?;
        let x = self.groups.iter().try_fold(x, |x, group| group.forward_plain(&x, mode))?;
        let x = relu_plain(&self.normalization.forward(&x, mode)?)?;
        let pooled = x.flatten_from(2)?.mean(2)?;
        Ok(pooled.matmul(&self.classifier_weight.t()?)?.broadcast_add(&self.classifier_bias)?)
    }

    /// Sets the seed of the dropout masks and the number of the next training pass. A mask depends on (seed, pass,
    /// layer) alone, and every training forward advances the pass by one; so a run that is resumed after k training
    /// forwards (a SAM step makes two) continues with `seek_dropout(seed, k)`. A new model is at (0, 0).
    pub fn seek_dropout(&self, seed: u64, pass: u64) {
        for group in &self.groups {
            group.downsample.seek_dropout(seed, pass);
            group.basics.iter().for_each(|unit| unit.seek_dropout(seed, pass));
        }
    }

    pub(crate) fn check_input(&self, images: &Tensor) -> Result<()> {
        let channels = self.config.in_channels;
        let found = images.dims();
        if found.first() == Some(&0)
            || !found.ends_with(&[channels, IMAGE_SIZE, IMAGE_SIZE])
            || found.len() != 4
        {
            let expected = format!("[N, {channels}, {IMAGE_SIZE}, {IMAGE_SIZE}] with N at least 1");
            return Err(Error::InputShape {
                layer: "WideResNet".to_string(),
                expected,
                found: found.to_vec(),
            });
        }
        let (expected, found) = (self.classifier_weight.dtype(), images.dtype());
        if found != expected {
            return Err(Error::InputDType { layer: "WideResNet".to_string(), expected, found });
        }
        Ok(())
    }
}
