//! Measuring a network on a split.

use candle_core::{Device, Tensor};
use wrn_sam_data::Batch;
use wrn_sam_models::Mode;

use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::tally::{Meter, Tally};

/// Measures `model` on every image of `batches`, which may be on any device: the mean of `loss`, which gives one number an
/// image, top-1 and top-5.
///
/// Sums are over images, in `f64`, so a smaller last batch weighs no more than its images; of no images every figure is
/// NaN.
///
/// ```
/// use candle_core::{DType, Device};
/// use wrn_sam_data::{Augmentation, Dataset, Loader, LoaderConfig, Statistics};
/// use wrn_sam_losses::smooth_cross_entropy;
/// use wrn_sam_models::{Parameters, WideResNet};
/// use wrn_sam_train::{Recipe, evaluate};
///
/// let data = Dataset::synthetic(17, 100, 50);
/// let plain = Augmentation::none(Statistics::from_split(&data.train)?);
/// let config = LoaderConfig::default().with_batch_size(32).with_threads(1).with_shuffle(false).with_seed(0);
/// let loader = Loader::new(&data.test, plain, config)?;
///
/// let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1")?;
/// let parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
/// let model = WideResNet::new(&recipe.network(100), parameters.var_builder())?;
/// let tally = evaluate(&model, loader.epoch(0), |x, labels| smooth_cross_entropy(x, labels, 0.1), &Device::Cpu)?;
/// assert_eq!(tally.images, 50);
/// assert!(tally.top1() <= tally.top5());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of the batches, of the network and of the loss (a label out of range).
pub fn evaluate<M: Classifier + ?Sized, E>(
    model: &M,
    batches: impl IntoIterator<Item = wrn_sam_data::Result<Batch>>,
    loss: impl Fn(&Tensor, &Tensor) -> std::result::Result<Tensor, E>,
    device: &Device,
) -> Result<Tally>
where
    Error: From<E>,
{
    let mut meter = Meter::default();
    for batch in batches {
        evaluate_batch(model, &batch?, &loss, device, &mut meter)?;
    }
    meter.tally()
}

/// Adds one batch to `meter`, and returns its logits.
pub(crate) fn evaluate_batch<M: Classifier + ?Sized, E>(
    model: &M,
    batch: &Batch,
    loss: impl Fn(&Tensor, &Tensor) -> std::result::Result<Tensor, E>,
    device: &Device,
    meter: &mut Meter,
) -> Result<Tensor>
where
    Error: From<E>,
{
    let Batch { images, labels, .. } = batch.to_device(device)?;
    let logits = model.forward(&images, Mode::Eval)?;
    let loss = loss(&logits, &labels)?;
    meter.add(&loss, &logits, &labels)?;
    Ok(logits)
}
