//! One step of Sharpness-Aware Minimization: the sentence this project exists for.

use candle_core::Tensor;
use candle_nn::Optimizer;
use wrn_sam_data::{Batch, Mixed};
use wrn_sam_kernels::backward;
use wrn_sam_losses::smooth_cross_entropy;
use wrn_sam_models::{Mode, WideResNet};
use wrn_sam_optim::Sam;

use crate::error::Result;

/// What the first pass of a step saw, before the weights moved.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// The network's answers `[N, labels]`.
    pub logits: Tensor,
    /// The smoothed loss of each image `[N]`.
    pub loss: Tensor,
    /// The norm of the first gradient, which the ascent was scaled by: a scalar in f64, on the device that computed it.
    pub grad_norm: Tensor,
}

/// Takes one SAM step (<https://arxiv.org/abs/2010.01412>) on a batch whose tensors lie on the model's device.
///
/// The first pass climbs from w to w + e(w), the worst point within rho; the second finds the gradient there, without
/// moving the batch normalization's running statistics; the base optimizer then steps from w with that gradient.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::Optimizer;
/// use wrn_sam_data::Batch;
/// use wrn_sam_models::{Parameters, WideResNet};
/// use wrn_sam_optim::{Sam, Sgd};
/// use wrn_sam_train::{Recipe, step};
///
/// let recipe = Recipe { depth: 10, width_factor: 1, ..Recipe::reference() };
/// let parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
/// let model = WideResNet::new(&recipe.network(100), parameters.var_builder())?;
/// let sgd = Sgd::new(parameters.trainable(), recipe.sgd())?;
/// let mut sam = Sam::new(parameters.trainable(), sgd, recipe.sam())?;
///
/// let images = Tensor::rand(-1f32, 1f32, (2, 3, 32, 32), &Device::Cpu)?;
/// let batch = Batch::new(images, Tensor::new(&[3u32, 98], &Device::Cpu)?);
/// let outcome = step(&model, &mut sam, &batch, recipe.label_smoothing)?;
/// assert_eq!(outcome.logits.dims(), [2, 100]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of the network, of the loss (a label out of range) and of SAM (a gradient that is not finite). The weights
/// are then where they were before the step. On an NVIDIA GPU nothing waits for the step: there a label out of range
/// makes a gradient that is not finite, and that is reported by [`Sam::check_gradients`].
pub fn step<O: Optimizer>(
    model: &WideResNet,
    sam: &mut Sam<O>,
    batch: &Batch,
    smoothing: f64,
) -> Result<StepOutcome> {
    let logits = model.forward(&batch.images, Mode::Train)?; // updates BN running statistics
    let loss = batch_loss(&logits, batch, smoothing)?; // [N]
    let perturbed = sam.first_step(&backward(&mean(&loss)?)?)?; // w -> w + e(w)
    let first = StepOutcome::new(logits, loss, perturbed.grad_norm().clone());
    let second = model.forward(&batch.images, Mode::TrainFrozenStatistics)?;
    let second = batch_loss(&second, batch, smoothing)?;
    perturbed.second_step(&backward(&mean(&second)?)?)?; // w + e(w) -> w -> base step
    Ok(first)
}

/// The smoothed loss of each image `[N]`: of a mixed batch, that by its own labels with the weight λ and that by the
/// labels mixed in with the weight 1 - λ, as in the papers of mixup and CutMix.
fn batch_loss(logits: &Tensor, batch: &Batch, smoothing: f64) -> Result<Tensor> {
    let own = smooth_cross_entropy(logits, &batch.labels, smoothing)?;
    let Some(Mixed { labels, lambda }) = &batch.mixed else { return Ok(own) };
    let others = smooth_cross_entropy(logits, labels, smoothing)?;
    Ok(((own * *lambda)? + (others * (1.0 - lambda))?)?)
}

/// The losses' mean for [`backward`], which takes the gradient of a tensor's sum: each loss divided by their number. To add
/// them up would only cost a GPU more kernels.
fn mean(loss: &Tensor) -> Result<Tensor> {
    Ok((loss / loss.elem_count() as f64)?)
}

impl StepOutcome {
    /// Takes the tensors and gives them back without their graph, so that the second pass finds its memory free.
    fn new(logits: Tensor, loss: Tensor, grad_norm: Tensor) -> Self {
        Self { logits: logits.detach(), loss: loss.detach(), grad_norm }
    }
}
