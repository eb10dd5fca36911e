//! One step of Sharpness-Aware Minimization: the sentence this project exists for.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_data::{Batch, Mixed};
use wrn_sam_kernels::{OutOfRange, backward, backward_to};
use wrn_sam_models::Mode;
use wrn_sam_optim::{AscentOver, Sam};

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
    step_parts(model, sam, batch, MicroBatches::WHOLE, loss)
}

/// How a step divides its batch into micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MicroBatches {
    /// How many: at least 1, and at most the images of a batch. The last may be smaller than the others.
    pub count: usize,
    /// Over which images an ascent is taken.
    pub over: AscentOver,
}

impl MicroBatches {
    /// The batch as one.
    pub const WHOLE: Self = Self { count: 1, over: AscentOver::Batch };
}

/// As [`step`], in micro-batches: with an ascent over the batch, which saves memory and changes nothing but batch statistics,
/// or with one for each micro-batch, the paper's m-sharpness. The running statistics move once, towards the mean of the
/// micro-batches'. Sums over micro-batches are added in an order that only their number decides.
///
/// # Errors
/// As [`step`]; those of [`Step::part`](wrn_sam_optim::Step::part) for a member of the family that needs the whole batch.
pub fn step_parts<M: Classifier + ?Sized, O: Optimizer, E>(
    model: &M,
    sam: &mut Sam<O>,
    batch: &Batch,
    micro_batches: MicroBatches,
    loss: impl Fn(&Tensor, &Tensor) -> std::result::Result<Tensor, E>,
) -> Result<StepOutcome>
where
    Error: From<E>,
{
    let (seed, pass) = model.dropout_position();
    sam.add_buffers(model.buffers())?;
    let parts = Parts::of(batch, micro_batches.count)?;
    let task =
        Task { model, seed, pass, loss_of: |logits: &Tensor, labels: &Tensor| Ok(loss(logits, labels)?) };
    let outcome = match (parts.0.as_slice(), micro_batches.over) {
        ([(batch, _)], _) => task.whole(sam, batch),
        (parts, AscentOver::Batch) => task.ascent_over_batch(sam, parts),
        (parts, AscentOver::MicroBatch) => task.ascent_of_each(sam, parts),
    };
    model.seek_dropout(seed, if outcome.is_ok() { pass + 1 } else { pass });
    outcome
}

/// A step counts as one pass of dropout. Its micro-batches are told apart above this many bits of the count, more than any
/// training has steps.
const MICRO_BATCH_BITS: u32 = 40;

/// The micro-batches of a batch, each with its share of the images.
struct Parts(Vec<(Batch, f64)>);

impl Parts {
    fn of(batch: &Batch, count: usize) -> Result<Self> {
        let images = batch.labels.elem_count();
        let fits = (1..=images.max(1)).contains(&count);
        OutOfRange::check("micro_batches", count, fits, "from 1 to the images of a batch")?;
        if count == 1 {
            return Ok(Self(vec![(batch.clone(), 1.0)]));
        }
        let size = images.div_ceil(count);
        let part = |start: usize| {
            let len = size.min(images - start);
            let mut part =
                Batch::new(batch.images.narrow(0, start, len)?, batch.labels.narrow(0, start, len)?);
            if let Some(Mixed { labels, lambda }) = &batch.mixed {
                part = part.with_mixed(Mixed { labels: labels.narrow(0, start, len)?, lambda: *lambda });
            }
            Ok((part, len as f64 / images as f64))
        };
        (0..images).step_by(size).map(part).collect::<Result<_>>().map(Self)
    }
}

/// What the passes of a step have in common.
struct Task<'a, M: ?Sized, L> {
    model: &'a M,
    /// Where dropout is at the beginning of the step.
    seed: u64,
    pass: u64,
    loss_of: L,
}

impl<M: Classifier + ?Sized, L: Fn(&Tensor, &Tensor) -> Result<Tensor>> Task<'_, M, L> {
    fn whole<O: Optimizer>(&self, sam: &mut Sam<O>, batch: &Batch) -> Result<StepOutcome> {
        let step = sam.begin()?; // at w, or ahead along the momentum
        let read = step.reads_only(); // of SAM-ON the batch norms' only
        let (gradients, seen) = self.pass(batch, 0, Mode::Train, read.as_deref())?; // updates BN running statistics
        // w -> w + e(w). None: no second pass is needed, and the base optimizer has stepped.
        if let Some(perturbed) = step.climb(&gradients)? {
            drop(gradients); // the second pass needs the memory
            let (gradients, _) = self.pass(batch, 0, Mode::TrainFrozenStatistics, None)?;
            perturbed.descend(&gradients)?; // w + e(w) -> w -> base step
        }
        StepOutcome::of(vec![seen], sam.grad_norm())
    }

    fn ascent_over_batch<O: Optimizer>(
        &self,
        sam: &mut Sam<O>,
        parts: &[(Batch, f64)],
    ) -> Result<StepOutcome> {
        let mut seen = Vec::new();
        let mut step = sam.begin()?;
        let read = step.reads_only();
        for (place, (batch, share)) in parts.iter().enumerate() {
            let (gradients, outcome) =
                self.pass(batch, place, Mode::part(place, parts.len()), read.as_deref())?;
            step.gather(*share, &gradients)?;
            seen.push(outcome);
        }
        if let Some(mut perturbed) = step.climb_gathered()? {
            for (place, (batch, share)) in parts.iter().enumerate() {
                let (gradients, _) = self.pass(batch, place, Mode::TrainFrozenStatistics, None)?;
                perturbed.gather(*share, &gradients)?;
            }
            perturbed.finish()?;
        }
        StepOutcome::of(seen, sam.grad_norm())
    }

    fn ascent_of_each<O: Optimizer>(&self, sam: &mut Sam<O>, parts: &[(Batch, f64)]) -> Result<StepOutcome> {
        let mut seen = Vec::new();
        let mut step = sam.begin()?;
        let read = step.reads_only();
        for (place, (batch, share)) in parts.iter().enumerate() {
            let (gradients, outcome) =
                self.pass(batch, place, Mode::part(place, parts.len()), read.as_deref())?;
            seen.push(outcome);
            if let Some(perturbed) = step.part(*share, &gradients)? {
                drop(gradients);
                let (gradients, _) = self.pass(batch, place, Mode::TrainFrozenStatistics, None)?;
                perturbed.descend(&gradients)?;
            }
        }
        step.finish()?;
        StepOutcome::of(seen, sam.grad_norm())
    }

    /// The gradients of a micro-batch's mean loss, of all parameters or of those that are read, with logits and losses
    /// without their graph. Both passes of a micro-batch drop the same activations: the ascent and the descent are then on one
    /// function.
    fn pass(
        &self,
        batch: &Batch,
        place: usize,
        mode: Mode,
        read: Option<&[Var]>,
    ) -> Result<(GradStore, (Tensor, Tensor))> {
        self.model.seek_dropout(self.seed, self.pass + ((place as u64) << MICRO_BATCH_BITS));
        let logits = self.model.forward(&batch.images, mode)?;
        let loss = batch_loss(&logits, batch, &self.loss_of)?; // [N]
        let mean = mean(&loss)?;
        let gradients = match read {
            Some(vars) => backward_to(&mean, vars)?,
            None => backward(&mean)?,
        };
        Ok((gradients, (logits.detach(), loss.detach())))
    }
}

impl StepOutcome {
    /// Of the logits and losses of every micro-batch.
    fn of(seen: Vec<(Tensor, Tensor)>, grad_norm: &Tensor) -> Result<Self> {
        let grad_norm = grad_norm.clone();
        let (logits, losses): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        if let ([logits], [loss]) = (logits.as_slice(), losses.as_slice()) {
            return Ok(Self { logits: logits.clone(), loss: loss.clone(), grad_norm });
        }
        Ok(Self { logits: Tensor::cat(&logits, 0)?, loss: Tensor::cat(&losses, 0)?, grad_norm })
    }
}

/// The loss of each image `[N]`: of a mixed batch, that by its own labels with the weight λ and that by the
/// labels mixed in with the weight 1 - λ, as in the papers of mixup and CutMix.
pub(crate) fn batch_loss(
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
pub(crate) fn mean(loss: &Tensor) -> Result<Tensor> {
    Ok((loss / loss.elem_count() as f64)?)
}
