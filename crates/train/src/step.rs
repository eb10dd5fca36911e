//! One step of Sharpness-Aware Minimization: the sentence this project exists for.

use candle_core::Tensor;
use candle_nn::Optimizer;
use wrn_sam_data::{Batch, Mixed};
use wrn_sam_kernels::backward;
use wrn_sam_models::Mode;
use wrn_sam_optim::Sam;

use crate::classifier::Classifier;
use crate::error::{Error, Result};

/// What the first pass of a step saw, before the weights moved.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// The network's answers `[N, labels]`.
    pub logits: Tensor,
    /// The loss of each image `[N]`.
    pub loss: Tensor,
    /// The norm of the first gradient, which the ascent was scaled by: a scalar in f64, on the device that computed it.
    pub grad_norm: Tensor,
}

/// Takes one SAM step (<https://arxiv.org/abs/2010.01412>) on a batch whose tensors are on the model's device.
///
/// The first pass climbs from w to w + e(w), the worst point within rho; the second finds the gradient there, without
/// moving the batch normalization's running statistics; the base optimizer then steps from w with that gradient. Where
/// rho is 0, the first pass is the only one.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use wrn_sam_data::Batch;
/// use wrn_sam_losses::smooth_cross_entropy;
/// use wrn_sam_models::{Parameters, WideResNet};
/// use wrn_sam_optim::{Sam, Sgd};
/// use wrn_sam_train::{Recipe, step};
///
/// let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1")?;
/// let parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
/// let model = WideResNet::new(&recipe.network(100), parameters.var_builder())?;
/// let mut sam = Sam::new(Sgd::named(parameters.named_trainable(), recipe.sgd())?, recipe.sam())?;
///
/// let images = Tensor::rand(-1f32, 1f32, (2, 3, 32, 32), &Device::Cpu)?;
/// let batch = Batch::new(images, Tensor::new(&[3u32, 98], &Device::Cpu)?);
/// let outcome = step(&model, &mut sam, &batch, |logits, labels| smooth_cross_entropy(logits, labels, 0.1))?;
/// assert_eq!(outcome.logits.dims(), [2, 100]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of the network, of the loss (a label out of range) and of SAM (a gradient that is not finite). Weights, running
/// statistics, batch counts, the optimizer's state and the dropout's pass are then what they were before the step, so the
/// batch can be skipped. On an NVIDIA GPU nothing waits for the step: there a label out of range makes a gradient that is
/// not finite, and that is reported by [`Sam::check_gradients`].
pub fn step<M: Classifier + ?Sized, O: Optimizer, E>(
    model: &M,
    sam: &mut Sam<O>,
    batch: &Batch,
    loss: impl Fn(&Tensor, &Tensor) -> std::result::Result<Tensor, E>,
) -> Result<StepOutcome>
where
    Error: From<E>,
{
    let (seed, pass) = model.dropout_position();
    sam.add_buffers(model.buffers())?;
    let outcome = both_passes(model, sam, batch, |logits, labels| Ok(loss(logits, labels)?));
    if outcome.is_err() {
        model.seek_dropout(seed, pass);
    }
    outcome
}

fn both_passes<M: Classifier + ?Sized, O: Optimizer>(
    model: &M,
    sam: &mut Sam<O>,
    batch: &Batch,
    loss_of: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<StepOutcome> {
    let step = sam.begin()?;
    let logits = model.forward(&batch.images, Mode::Train)?; // updates BN running statistics
    let loss = batch_loss(&logits, batch, &loss_of)?; // [N]
    let gradients = backward(&mean(&loss)?)?;
    let (logits, loss) = (detached(logits), detached(loss));
    // w -> w + e(w). With a rho of 0 there is no second pass: the base optimizer has stepped.
    if let Some(perturbed) = step.climb(&gradients)? {
        drop(gradients); // the second pass needs the memory
        let second = model.forward(&batch.images, Mode::TrainFrozenStatistics)?;
        let second = batch_loss(&second, batch, &loss_of)?;
        perturbed.descend(&backward(&mean(&second)?)?)?; // w + e(w) -> w -> base step
    }
    Ok(StepOutcome { logits, loss, grad_norm: sam.grad_norm().clone() })
}

/// The loss of each image `[N]`: of a mixed batch, that by its own labels with the weight λ and that by the
/// labels mixed in with the weight 1 - λ, as in the papers of mixup and CutMix.
fn batch_loss(
    logits: &Tensor,
    batch: &Batch,
    loss: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let own = loss(logits, &batch.labels)?;
    let Some(Mixed { labels, lambda }) = &batch.mixed else { return Ok(own) };
    let others = loss(logits, labels)?;
    Ok(((own * *lambda)? + (others * (1.0 - lambda))?)?)
}

/// The values without their graph. What the graph holds is freed, so that the second pass finds its memory there.
fn detached(tensor: Tensor) -> Tensor {
    tensor.detach()
}

/// The losses' mean for [`backward`], which takes the gradient of a tensor's sum: each loss divided by their number. To add
/// them up would only cost a GPU more kernels.
fn mean(loss: &Tensor) -> Result<Tensor> {
    Ok((loss / loss.elem_count() as f64)?)
}
