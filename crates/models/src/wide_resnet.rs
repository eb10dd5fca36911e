use std::path::Path;

use candle_core::{Tensor, Var};
use candle_nn::{ModuleT, VarBuilder};
use wrn_sam_kernels::{Cpu, Precision};

use crate::batch_norm::BatchNorm;
use crate::config::WideResNetConfig;
use crate::conv2d::Conv2d;
use crate::dropout::Position;
use crate::error::{Error, Result};
use crate::export::to_onnx;
use crate::linear::Linear;
use crate::mode::Mode;
use crate::pass::{Layer, Output, OutputOf, Pass};
use crate::runner::Runner;
use crate::unit::PreActUnit;
use crate::weights::METADATA_KEY;

/// What height and width are multiples of: the images are halved twice.
const HALVINGS: usize = 4;

/// A Wide ResNet (Zagoruyko and Komodakis, <https://arxiv.org/abs/1605.07146>).
///
/// It is a 3x3 convolution to 16 channels; three groups of residual units at the images' size, its half and its quarter (32x32,
/// 16x16 and 8x8 for CIFAR), each a [`DownsampleUnit`](crate::DownsampleUnit) followed by [`BasicUnit`](crate::BasicUnit)s;
/// batch normalization, ReLU, the average over the pixels, and a linear classifier. Images are squares of any size that
/// halves twice. The values' shapes do not depend on it, so weights of one size run on another.
///
/// Values are named as in PyTorch: `f.0_convolution`, `f.1_block.block.0` to `f.3_block.block.{n-1}`,
/// `f.4_normalization`, `f.8_classification`. A clone is another handle to the same values, and to the same count of
/// dropout's passes.
#[derive(Debug, Clone)]
pub struct WideResNet {
    config: WideResNetConfig,
    convolution: Conv2d,
    units: Vec<PreActUnit>,
    normalization: BatchNorm,
    pool: String,
    classification: Linear,
    runner: Runner,
}

impl WideResNet {
    /// What the names of the linear classifier's values begin with.
    pub const CLASSIFIER: &str = "f.8_classification";

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
        let mut units = Vec::with_capacity(3 * config.units_per_group());
        for (group, stride) in [(1, 1), (2, 2), (3, 2)] {
            let (width, vb) = (widths[group], vb.pp(format!("{group}_block")).pp("block"));
            units.push(PreActUnit::downsample(widths[group - 1], width, stride, config.dropout, vb.pp(0))?);
            for unit in 1..config.units_per_group() {
                units.push(PreActUnit::basic(width, config.dropout, vb.pp(unit))?);
            }
        }
        Ok(Self {
            config: config.clone(),
            convolution,
            units,
            normalization: BatchNorm::new(widths[3], vb.pp("4_normalization"))?,
            pool: vb.pp("6_pooling").prefix(),
            classification: Linear::new(widths[3], config.classes, vb.pp("8_classification"))?,
            runner: Runner::default(),
        })
    }

    /// On the CPU, runs on the threads and instruction set of `cpu` instead of [`Cpu::shared`]'s. Results do not
    /// depend on the number of threads.
    #[must_use]
    pub fn with_cpu(mut self, cpu: Cpu) -> Self {
        self.runner.placement.set_cpu(&self.classification.weight, cpu);
        self
    }

    /// Computes in the given precision. The parameters stay f32, and so do their gradients, the running statistics and
    /// the logits.
    ///
    /// # Errors
    /// [`Error::Kernels`] where the parameters are not f32 on a CUDA device, unless it is [`Precision::F32`].
    pub fn with_precision(mut self, precision: Precision) -> Result<Self> {
        self.runner.placement.set_precision(&self.classification.weight, precision)?;
        Ok(self)
    }

    /// Computes the same bits in every run on one kind of GPU with one version of its libraries, where convolutions otherwise
    /// take what was fastest in this run. On the CPU they are the same in any case.
    #[must_use]
    pub fn with_deterministic(mut self, deterministic: bool) -> Self {
        self.runner.placement.set_deterministic(deterministic);
        self
    }

    /// Gives the parameters' gradients only to [`wrn_sam_kernels::backward`], and makes `loss.backward()` an error.
    /// That spares a training pass some small kernels for each parameter, which take a GPU as long as large ones.
    #[must_use]
    pub fn with_handed_over_gradients(mut self) -> Self {
        self.runner.hands_over_gradients = true;
        self
    }

    /// The hyper-parameters it was built with.
    pub fn config(&self) -> &WideResNetConfig {
        &self.config
    }

    /// Logits [N, classes] of normalized images [N, in_channels, S, S], of the parameters' float dtype and on their device.
    /// S is a multiple of 4, as 32 or 64.
    ///
    /// In f32 on the CPU, and with the feature `cuda` on a GPU, this is the project's own forward and backward pass. It is
    /// one node of candle's graph, and builds no graph in [`Mode::Eval`]. Elsewhere it is
    /// [`forward_plain`](Self::forward_plain). For the quickest gradients call [`wrn_sam_kernels::backward`] on the loss;
    /// `loss.backward()` gives the same ones.
    ///
    /// # Errors
    /// [`Error::InputShape`] and [`Error::InputDType`], before anything has changed; [`Error::Kernels`] and
    /// [`Error::Candle`] where an operation fails. After such a failure in [`Mode::Train`] the running statistics of the
    /// layers already passed have moved; the count of dropout's passes has not.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.runner.forward(self, images, mode)
    }

    /// What the classifier reads: the last group's channels, normalized, activated and averaged over the pixels,
    /// [N, 64 width_factor]. For heads of your own, and for comparing images.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.runner.forward(&Trunk(self), images, mode)
    }

    /// As [`forward`](Self::forward), only in candle's own operations, on any device and in any float dtype that candle
    /// multiplies there (bf16 not on the CPU): the oracle for every faster way.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_plain(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.runner.forward_plain(self, images, mode)
    }

    /// Writes the network in evaluation as an ONNX model (opset 17), for ONNX Runtime and what else reads the format: the input
    /// `images` [batch, in_channels, height, width], normalized as in training, the output `logits` [batch, classes], all
    /// f32. The values keep their names. `metadata`, such as what the network was trained on, is put under the key `wrn_sam`.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder is missing, full or not writable; an existing file stays.
    pub fn save_onnx(&self, path: impl AsRef<Path>, metadata: Option<&str>) -> Result<()> {
        let metadata = metadata.map(|text| (METADATA_KEY, text));
        let WideResNetConfig { in_channels, classes, .. } = self.config;
        let bytes = to_onnx(self, in_channels, classes, metadata.as_slice())?;
        Ok(wrn_sam_files::write(path.as_ref(), |file| file.write_all(&bytes))?)
    }

    /// Sets the seed of the dropout masks and the number of the next training pass. A mask depends only on (seed, pass,
    /// layer), and every training pass that succeeds advances the number by one. So a run that is resumed after k training
    /// passes continues with `seek_dropout(seed, k)`. A new model is at (0, 0).
    pub fn seek_dropout(&self, seed: u64, pass: u64) {
        *self.runner.position() = Position { seed, pass };
    }

    /// The seed of the dropout masks and the number of the next training pass, as [`seek_dropout`](Self::seek_dropout)
    /// takes them.
    pub fn dropout_position(&self) -> (u64, u64) {
        let Position { seed, pass } = *self.runner.position();
        (seed, pass)
    }

    /// The buffers that training passes change: the running statistics and batch counts of every batch normalization.
    pub fn buffers(&self) -> Vec<Var> {
        self.units.iter().flat_map(PreActUnit::buffers).chain(self.normalization.buffers()).collect()
    }

    /// From the images to the features.
    fn trunk<'a, P: Pass<'a>>(&'a self, pass: &mut P, images: P::Images) -> Result<P::Features> {
        let first = pass.convolve(&self.convolution, &images, None)?;
        drop(images);
        let last = self.units.iter().try_fold(first, |x, unit| unit.images(pass, x))?;
        let activated = pass.normalize(&self.normalization, None, &last)?;
        pass.average(&self.pool, &activated)
    }
}

impl Layer for WideResNet {
    fn parameter(&self) -> &Tensor {
        &self.classification.weight
    }

    fn check_input(&self, images: &Tensor) -> Result<()> {
        let layer = || "WideResNet".to_string();
        let channels = self.config.in_channels;
        let fits = |found: &[usize]| match *found {
            [batch, c, height, width] => {
                batch > 0 && c == channels && height > 0 && height == width && height.is_multiple_of(HALVINGS)
            }
            _ => false,
        };
        let found = images.dims();
        if !fits(found) {
            let expected = format!("[N, {channels}, S, S] with N at least 1 and S a multiple of {HALVINGS}");
            return Err(Error::InputShape { layer: layer(), expected, found: found.to_vec() });
        }
        let (expected, found) = (self.parameter().dtype(), images.dtype());
        if found != expected {
            return Err(Error::InputDType { layer: layer(), expected, found });
        }
        Ok(())
    }

    fn apply<'a, P: Pass<'a>>(&'a self, pass: &mut P, images: P::Images) -> Result<OutputOf<'a, P>> {
        let features = self.trunk(pass, images)?;
        Ok(Output::Features(pass.linear(&self.classification, features)?))
    }
}

/// A network without its classifier.
struct Trunk<'n>(&'n WideResNet);

impl Layer for Trunk<'_> {
    fn parameter(&self) -> &Tensor {
        self.0.parameter()
    }

    fn check_input(&self, images: &Tensor) -> Result<()> {
        self.0.check_input(images)
    }

    fn apply<'a, P: Pass<'a>>(&'a self, pass: &mut P, images: P::Images) -> Result<OutputOf<'a, P>> {
        Ok(Output::Features(self.0.trunk(pass, images)?))
    }
}

/// `train` chooses between [`Mode::Train`] and [`Mode::Eval`].
impl ModuleT for WideResNet {
    fn forward_t(&self, images: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        Ok(self.forward(images, Mode::from_train(train))?)
    }
}
