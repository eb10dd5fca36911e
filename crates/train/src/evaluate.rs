//! Measuring a network on a split.

use candle_core::Device;
use wrn_sam_data::Batch;
use wrn_sam_losses::smooth_cross_entropy;
use wrn_sam_models::{Mode, WideResNet};

use crate::error::Result;
use crate::tally::{Meter, Tally};

/// Measures `model` on every image of `batches`: the smoothed loss, as in training, top-1 and top-5.
///
/// Sums are over images, in `f64`, so a smaller last batch weighs no more than its images; of no images every figure is
/// NaN.
///
/// ```
/// use candle_core::{DType, Device};
/// use wrn_sam_data::{Augmentation, Cifar, Loader, LoaderConfig, Statistics};
/// use wrn_sam_models::{Parameters, WideResNet};
/// use wrn_sam_train::{Recipe, evaluate};
///
/// let data = Cifar::synthetic(17, 100, 50);
/// let plain = Augmentation::none(Statistics::from_split(&data.train)?);
/// let config = LoaderConfig::default().with_batch_size(32).with_threads(1).with_shuffle(false).with_seed(0);
/// let loader = Loader::new(&data.test, plain, config)?;
///
/// let recipe = Recipe { depth: 10, width_factor: 1, ..Recipe::reference() };
/// let parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
/// let model = WideResNet::new(&recipe.network(100), parameters.var_builder())?;
/// let tally = evaluate(&model, loader.epoch(0), 0.1, &Device::Cpu)?;
/// assert_eq!(tally.images, 50);
/// assert!(tally.top1() <= tally.top5());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of the batches, of the network and of the loss (a label out of range).
pub fn evaluate(
    model: &WideResNet,
    batches: impl IntoIterator<Item = wrn_sam_data::Result<Batch>>,
    smoothing: f64,
    device: &Device,
) -> Result<Tally> {
    let mut meter = Meter::default();
    for batch in batches {
        evaluate_batch(model, &batch?, smoothing, device, &mut meter)?;
    }
    meter.tally()
}

/// Adds one batch to `meter`.
pub(crate) fn evaluate_batch(
    model: &WideResNet,
    batch: &Batch,
    smoothing: f64,
    device: &Device,
    meter: &mut Meter,
) -> Result<()> {
    let Batch { images, labels, .. } = batch.to_device(device)?;
    let logits = model.forward(&images, Mode::Eval)?;
    let loss = smooth_cross_entropy(&logits, &labels, smoothing)?;
    meter.add(&loss, &logits, &labels)
}
