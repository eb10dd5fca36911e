//! One step of Sharpness-Aware Minimization: the sentence this project exists for.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_data::{Batch, Mixed};
use wrn_sam_kernels::{backward, backward_to};
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
    /// The norm that the ascent was scaled by (of several micro-batches with their own ascents, the last's): a scalar in f64,
    /// on the device that computed it.
    pub grad_norm: Tensor,
}

/// Takes one step of SAM (<https://arxiv.org/abs/2010.01412>) or another member of its family on a batch whose tensors are
/// on the model's device.
///
/// The first pass climbs from w to w + e(w), the worst point within rho; the second finds the gradient there, without
/// moving the batch normalization's running statistics and with the same dropout; the base optimizer then steps from w with
/// that gradient. Where the configuration says so, as with a rho of 0, the first pass is the only one.
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
    let passes =
        Passes { model, seed, loss_of: |logits: &Tensor, labels: &Tensor| Ok(loss(logits, labels)?) };
    let outcome = both_passes(&passes, sam, batch, pass);
    model.seek_dropout(seed, if outcome.is_ok() { pass + 1 } else { pass });
    outcome
}

fn both_passes<M: Classifier + ?Sized, O: Optimizer>(
    passes: &Passes<'_, M, impl Fn(&Tensor, &Tensor) -> Result<Tensor>>,
    sam: &mut Sam<O>,
    batch: &Batch,
    number: u64,
) -> Result<StepOutcome> {
    let step = sam.begin()?; // at w, or ahead along the momentum
    let read = step.reads_only(); // of SAM-ON the batch norms' gradients only
    let (gradients, logits, loss) = passes.take(batch, number, Mode::Train, read.as_deref())?; // updates BN running statistics
    // w -> w + e(w). None: no second pass is needed, and the base optimizer has stepped.
    if let Some(perturbed) = step.climb(&gradients)? {
        drop(gradients); // the second pass needs the memory
        let (gradients, ..) = passes.take(batch, number, Mode::TrainFrozenStatistics, None)?;
        perturbed.descend(&gradients)?; // w + e(w) -> w -> base step
    }
    Ok(StepOutcome { logits, loss, grad_norm: sam.grad_norm().clone() })
}

/// What the passes of a step have in common.
pub(crate) struct Passes<'a, M: ?Sized, L> {
    pub(crate) model: &'a M,
    /// Of dropout.
    pub(crate) seed: u64,
    pub(crate) loss_of: L,
}

impl<M: Classifier + ?Sized, L: Fn(&Tensor, &Tensor) -> Result<Tensor>> Passes<'_, M, L> {
    /// The gradients of a batch's mean loss, of all parameters or of those that are read, with logits and losses
    /// without their graph. Passes of one `number` drop the same activations, so ascent and descent are on one function.
    pub(crate) fn take(
        &self,
        batch: &Batch,
        number: u64,
        mode: Mode,
        read: Option<&[Var]>,
    ) -> Result<(GradStore, Tensor, Tensor)> {
        self.model.seek_dropout(self.seed, number);
        let logits = self.model.forward(&batch.images, mode)?;
        let loss = batch_loss(&logits, batch, &self.loss_of)?; // [N]
        let mean = mean(&loss)?;
        let gradients = match read {
            Some(vars) => backward_to(&mean, vars)?,
            None => backward(&mean)?,
        };
        Ok((gradients, logits.detach(), loss.detach()))
    }
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

/// The losses' mean for [`backward`], which takes the gradient of a tensor's sum: each loss divided by their number. To add
/// them up would only cost a GPU more kernels.
fn mean(loss: &Tensor) -> Result<Tensor> {
    Ok((loss / loss.elem_count() as f64)?)
}
