//! What a loader gives: images and labels as tensors.

use candle_core::{Device, Tensor};

use crate::Result;

/// One batch of N images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// Normalized images, `[N, 3, S, S]`, f32. In memory the channels come last: this is a view of `[N, S, S, 3]`.
    pub images: Tensor,
    /// Fine labels, `[N]`, u32.
    pub labels: Tensor,
    /// What was mixed into the images, if anything.
    pub mixed: Option<Mixed>,
}

/// The other part of a batch that was mixed with itself. (See [`Mix`](crate::Mix).)
///
/// A target for such a batch is the labels' with the weight λ and these labels' with 1 - λ; so is a loss.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// The fine labels of the images mixed in, `[N]`, u32.
    pub labels: Tensor,
    /// λ, the weight of the batch's own labels, 0 to 1.
    pub lambda: f64,
}

impl Batch {
    /// A batch of images `[N, 3, S, S]` and labels `[N]` that are not mixed.
    pub fn new(images: Tensor, labels: Tensor) -> Self {
        Self { images, labels, mixed: None }
    }

    /// The same batch, mixed.
    #[must_use]
    pub fn with_mixed(self, mixed: Mixed) -> Self {
        Self { mixed: Some(mixed), ..self }
    }

    /// The batch on `device`; what is there already is not copied.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the device has no room.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let mixed = match &self.mixed {
            Some(Mixed { labels, lambda }) => {
                Some(Mixed { labels: labels.to_device(device)?, lambda: *lambda })
            }
            None => None,
        };
        Ok(Self { images: self.images.to_device(device)?, labels: self.labels.to_device(device)?, mixed })
    }

    /// The labels `[N]` with the larger weight, by which an accuracy on the batch is measured: the batch's own from
    /// λ = 0.5 on.
    pub fn dominant_labels(&self) -> &Tensor {
        match &self.mixed {
            Some(mixed) if mixed.lambda < 0.5 => &mixed.labels,
            _ => &self.labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heavier_labels_are_dominant() {
        let tensor = |values: &[u32]| Tensor::new(values, &Device::Cpu).unwrap();
        let plain = Batch::new(tensor(&[0]), tensor(&[1]));
        let dominant = |batch: &Batch| batch.dominant_labels().to_vec1::<u32>().unwrap();
        assert_eq!(dominant(&plain), [1]);
        for (lambda, expected) in [(0.0, 2), (0.499, 2), (0.5, 1), (0.501, 1), (1.0, 1)] {
            let batch = plain.clone().with_mixed(Mixed { labels: tensor(&[2]), lambda });
            assert_eq!(dominant(&batch), [expected], "{lambda}");
            assert_eq!(dominant(&batch.to_device(&Device::Cpu).unwrap()), [expected], "{lambda}");
        }
    }
}
