//! What is counted on a pass through images: how many, their losses, and the right answers.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use wrn_sam_kernels::tally::{DeviceTally, TallySums};

use crate::error::{Error, Result};

/// TallySums over images: exact counts, and the loss in `f64`, so that a mean is that of the images whatever the batches.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Images counted.
    pub images: u64,
    /// Sum of their losses. Stored as its bits, which no reader rounds.
    #[serde(with = "bits")]
    pub loss_sum: f64,
    /// How many had their label as the likeliest class.
    pub top1: u64,
    /// How many had their label among the five likeliest.
    pub top5: u64,
}

impl Tally {
    /// Adds a batch: `loss` `[N]` and `logits` `[N, K]` of a float type, `labels` `[N]` of an integer type.
    ///
    /// Of equal logits the lower class counts as the likelier one; NaN counts as likelier than the label.
    ///
    /// # Errors
    /// [`Error::Metrics`] for lengths that do not fit, or labels outside 0 to K - 1; [`Error::Candle`] for other ranks.
    pub fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &Tensor) -> Result<()> {
        let losses = loss.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let logits = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let labels = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        if losses.len() != labels.len() || logits.len() != labels.len() {
            return Err(Error::Metrics {
                what: "of a batch".into(),
                found: format!("{} losses and {} rows of logits", losses.len(), logits.len()),
                expected: format!("one of each for {} labels", labels.len()),
            });
        }
        for ((loss, logits), label) in losses.iter().zip(&logits).zip(labels) {
            let rank = rank(logits, label as usize).ok_or_else(|| Error::Metrics {
                what: "of a batch".into(),
                found: format!("label {label}"),
                expected: format!("a class below {}", logits.len()),
            })?;
            self.images += 1;
            self.loss_sum += f64::from(*loss);
            self.top1 += u64::from(rank < 1);
            self.top5 += u64::from(rank < 5);
        }
        Ok(())
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn join(&mut self, other: &Self) {
        self.images += other.images;
        self.loss_sum += other.loss_sum;
        self.top1 += other.top1;
        self.top5 += other.top5;
    }

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let numbers = [self.images, self.loss_sum.to_bits(), self.top1, self.top5];
        for (to, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let (numbers, _) = bytes.as_chunks();
        let [images, loss_sum, top1, top5] = std::array::from_fn(|at| u64::from_le_bytes(numbers[at]));
        Self { images, loss_sum: f64::from_bits(loss_sum), top1, top5 }
    }

    /// What was added since `earlier`, a tally of the first of these images.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            images: self.images - earlier.images,
            loss_sum: self.loss_sum - earlier.loss_sum,
            top1: self.top1 - earlier.top1,
            top5: self.top5 - earlier.top5,
        }
    }

    /// The mean loss; NaN of no images.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.images as f64
    }

    /// Top-1 accuracy in [0, 1]; NaN of no images.
    pub fn top1(&self) -> f64 {
        self.top1 as f64 / self.images as f64
    }

    /// Top-5 accuracy in [0, 1]; NaN of no images.
    pub fn top5(&self) -> f64 {
        self.top5 as f64 / self.images as f64
    }
}

/// A [`Tally`] of batches that may be on an NVIDIA GPU: sums made there stay there until they are asked for.
#[derive(Debug, Default)]
pub struct Meter {
    tally: Tally,
    on_gpu: DeviceTally,
}

impl Meter {
    /// Adds a batch, as [`Tally::add`] does. `f32` losses and logits and `u32` labels on one NVIDIA GPU are added there,
    /// without waiting; a label outside 0 to K - 1 is then no error, but never right.
    ///
    /// # Errors
    /// Those of [`Tally::add`]; a GPU that fails.
    pub fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &Tensor) -> Result<()> {
        if DeviceTally::supports(loss, logits, labels) {
            return Ok(self.on_gpu.add(loss, logits, labels)?);
        }
        self.tally.add(loss, logits, labels)
    }

    /// All that was added. Waits for a GPU.
    ///
    /// # Errors
    /// A GPU that fails.
    pub fn tally(&mut self) -> Result<Tally> {
        let TallySums { images, loss, top1, top5 } = self.on_gpu.take()?;
        self.tally.images += images;
        self.tally.loss_sum += loss;
        self.tally.top1 += top1;
        self.tally.top5 += top5;
        Ok(self.tally)
    }
}

/// Goes on from a tally.
impl From<Tally> for Meter {
    fn from(tally: Tally) -> Self {
        Self { tally, on_gpu: DeviceTally::default() }
    }
}

/// A number in a text file that must come back exactly.
pub(crate) mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(x.to_bits())
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// How many classes are likelier than `label`.
fn rank(logits: &[f32], label: usize) -> Option<usize> {
    let own = *logits.get(label)?;
    let behind = |class, logit: f32| logit < own || (logit == own && class > label);
    Some(logits.iter().enumerate().filter(|&(class, &logit)| class != label && !behind(class, logit)).count())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn tally_counts_ranks_and_sums_losses() {
        let device = Device::Cpu;
        let logits: Vec<Vec<f32>> = vec![
            vec![0.1, 0.9, 0.2, 0.3, 0.4, 0.5], // label 1: first
            vec![0.6, 0.1, 0.2, 0.3, 0.4, 0.5], // label 2: fifth
            vec![0.6, 0.1, 0.2, 0.3, 0.4, 0.5], // label 1: sixth
        ];
        let logits = Tensor::new(logits, &device).unwrap();
        let mut tally = Tally::default();
        let loss = Tensor::new(&[1f32, 2.0, 4.5], &device).unwrap();
        tally.add(&loss, &logits, &Tensor::new(&[1u32, 2, 1], &device).unwrap()).unwrap();
        assert_eq!(tally, Tally { images: 3, loss_sum: 7.5, top1: 1, top5: 2 });
        assert_eq!(tally.loss(), 2.5);

        let error = tally.add(&loss, &logits, &Tensor::new(&[1u32, 6, 1], &device).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "metrics of a batch: found `label 6`, expected a class below 6");
    }

    #[test]
    fn a_tally_comes_back_from_its_bytes() {
        let tally = Tally { images: 3, loss_sum: -0.1, top1: u64::MAX, top5: 1 << 40 };
        assert_eq!(Tally::from_bytes(&tally.to_bytes()), tally);
        let mut sum = Tally { images: 1, loss_sum: 0.5, top1: 0, top5: 1 };
        sum.join(&Tally { images: 2, loss_sum: 1.0, top1: 1, top5: 2 });
        assert_eq!(sum, Tally { images: 3, loss_sum: 1.5, top1: 1, top5: 3 });
    }

    #[test]
    fn ties_go_to_the_lower_class_and_nan_is_never_right() {
        assert_eq!(rank(&[0.0; 4], 0), Some(0));
        assert_eq!(rank(&[0.0; 4], 3), Some(3));
        assert_eq!(rank(&[f32::NAN; 4], 0), Some(3));
        assert_eq!(rank(&[f32::NAN, 1.0, 0.0], 1), Some(1));
        assert_eq!(rank(&[0.0; 4], 4), None);
    }
}
