//! A step over micro-batches: what one rank does of it.

use candle_core::Tensor;
use candle_nn::Optimizer;
use wrn_sam_data::{Batch, Mixed};
use wrn_sam_kernels::OutOfRange;
use wrn_sam_models::Mode;
use wrn_sam_optim::{AscentOver, Sam};

use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::step::{Passes, StepOutcome};

/// One of a step's micro-batches.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MicroBatch {
    /// Its images and labels, on the model's device.
    pub batch: Batch,
    /// Its part of the step's images, above 0 and at most 1.
    pub share: f64,
    /// Which of the run's micro-batches it is, counted from 0: its dropout is drawn by this number, whoever computes it.
    pub number: u64,
}

impl MicroBatch {
    /// Micro-batch `number` of the run, with `share` of its step's images.
    pub fn new(batch: Batch, share: f64, number: u64) -> Self {
        Self { batch, share, number }
    }

    /// A batch in `count` micro-batches of neighbors, the first of which is number `first` of the run. The last may be smaller than
    /// the others, and there may be fewer of them.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use wrn_sam_data::Batch;
    /// use wrn_sam_train::MicroBatch;
    ///
    /// let images = Tensor::zeros((5, 3, 32, 32), DType::F32, &Device::Cpu)?;
    /// let batch = Batch::new(images, Tensor::new(&[4u32, 1, 1, 0, 2], &Device::Cpu)?);
    /// let parts = MicroBatch::split(&batch, 2, 0)?;
    /// assert_eq!(parts.iter().map(|part| part.share).collect::<Vec<_>>(), [0.6, 0.4]);
    /// assert_eq!(parts[1].batch.labels.to_vec1::<u32>()?, [0, 2]);
    /// # Ok::<(), wrn_sam_train::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no micro-batches, or more than images.
    pub fn split(batch: &Batch, count: usize, first: u64) -> Result<Vec<Self>> {
        let images = batch.labels.elem_count();
        let fits = (1..=images.max(1)).contains(&count);
        OutOfRange::check("micro_batches", count, fits, "from 1 to the images of a batch")?;
        let size = images.div_ceil(count).max(1);
        let part = |(place, start): (usize, usize)| {
            let len = size.min(images - start);
            let mut part =
                Batch::new(batch.images.narrow(0, start, len)?, batch.labels.narrow(0, start, len)?);
            if let Some(Mixed { labels, lambda }) = &batch.mixed {
                part = part.with_mixed(Mixed { labels: labels.narrow(0, start, len)?, lambda: *lambda });
            }
            Ok(Self::new(part, len as f64 / images as f64, first + place as u64))
        };
        (0..images).step_by(size).enumerate().map(part).collect()
    }
}

/// Takes one SAM step on micro-batches, each of which is normalized by its own statistics and gives its share of the
/// gradients. With [`AscentOver::MicroBatch`] each climbs by itself (the paper's m-sharpness); with
/// [`AscentOver::Batch`] all climb together. The running statistics move once, towards the mean of the
/// micro-batches'.
///
/// With [`Sam::with_ranks`] the micro-batches of all ranks make the step, and these are the rank's own; there may be none.
/// Returns what the first pass of each of them saw, in order.
///
/// # Errors
/// Those of [`step`](crate::step), with everything as it was before the step; those of the ranks.
pub fn step_micro_batches<M: Classifier + ?Sized, O: Optimizer, E>(
    model: &M,
    sam: &mut Sam<O>,
    micro_batches: &[MicroBatch],
    over: AscentOver,
    loss: impl Fn(&Tensor, &Tensor) -> std::result::Result<Tensor, E>,
) -> Result<Vec<StepOutcome>>
where
    Error: From<E>,
{
    let (seed, pass) = model.dropout_position();
    sam.add_buffers(model.buffers())?;
    let passes =
        Passes { model, seed, loss_of: |logits: &Tensor, labels: &Tensor| Ok(loss(logits, labels)?) };
    let outcome = all_passes(&passes, sam, micro_batches, over);
    if outcome.is_err() {
        model.seek_dropout(seed, pass);
    }
    outcome
}

fn all_passes<M: Classifier + ?Sized, O: Optimizer>(
    passes: &Passes<'_, M, impl Fn(&Tensor, &Tensor) -> Result<Tensor>>,
    sam: &mut Sam<O>,
    micro_batches: &[MicroBatch],
    over: AscentOver,
) -> Result<Vec<StepOutcome>> {
    let second = |MicroBatch { batch, number, .. }: &MicroBatch| {
        passes.take(batch, *number, Mode::TrainFrozenStatistics, None).map(|(gradients, ..)| gradients)
    };
    let mut step = sam.begin()?;
    let read = step.reads_only();
    let mut seen = Vec::new();
    for micro_batch in micro_batches {
        let MicroBatch { batch, share, number } = micro_batch;
        let (gradients, logits, loss) = passes.take(batch, *number, Mode::Train, read.as_deref())?;
        step.pool_buffers(*share)?;
        match over {
            AscentOver::Batch => step.gather(*share, &gradients)?,
            AscentOver::MicroBatch => {
                if let Some(perturbed) = step.part(*share, &gradients)? {
                    drop(gradients); // the second pass needs the memory
                    perturbed.descend(&second(micro_batch)?)?;
                }
            }
        }
        seen.push((logits, loss));
    }
    match over {
        AscentOver::MicroBatch => step.finish()?,
        AscentOver::Batch => {
            if let Some(mut perturbed) = step.climb_gathered()? {
                for micro_batch in micro_batches {
                    perturbed.gather(micro_batch.share, &second(micro_batch)?)?;
                }
                perturbed.finish()?;
            }
        }
    }
    let grad_norm = sam.grad_norm();
    let outcome = |(logits, loss)| StepOutcome { logits, loss, grad_norm: grad_norm.clone() };
    Ok(seen.into_iter().map(outcome).collect())
}
