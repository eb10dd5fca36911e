//! Mixup and CutMix: images mixed with others of their batch, and their labels with them.

use std::ops::Range;

use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};
use wrn_sam_kernels::OutOfRange;

use crate::{IMAGE_CHANNELS, Result};

/// How a batch's images are mixed with each other, after each has been augmented.
///
/// One draw serves a whole batch: image i is mixed with image i - 1, the first with the last. The order of the images
/// is random, so partners are too. (torchvision's `MixUp` and `CutMix`)
///
/// - Mixup (arXiv 1710.09412): λ x + (1 - λ) x', with λ from Beta(α, α).
/// - CutMix (arXiv 1905.04899): x with a box of x' in it, as large as 1 - λ of the image where nothing of it is clipped
///   and with its middle anywhere; λ is then the share of x that is left.
///
/// Where both have an α above 0, each batch gets one of them, at even odds.
///
/// ```
/// use wrn_sam_data::{Augmentation, Dataset, Loader, LoaderConfig, Mix, Statistics};
///
/// let train = Dataset::synthetic(17, 256, 0).train;
/// let augmentation = Augmentation::basic(Statistics::from_split(&train)?);
/// let loader = Loader::new(&train, augmentation, LoaderConfig::default())?.with_mix(Mix::cutmix(1.0))?;
/// for batch in loader.epoch(0) {
///     let mixed = batch?.mixed.expect("every batch is mixed");
///     assert_eq!(mixed.labels.dims(), [128]); // of what was mixed in, with the weight 1 - lambda
///     assert!((0.0..=1.0).contains(&mixed.lambda));
/// }
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mix {
    /// Mixup's α: 0 for no mixup, up to 1000. The paper's CIFAR runs have 1, ImageNet's 0.2.
    pub mixup_alpha: f64,
    /// CutMix's α: 0 for no CutMix, up to 1000. The paper has 1.
    pub cutmix_alpha: f64,
    /// The probability that a batch is mixed at all, 0 to 1. CutMix's paper has 0.5 on CIFAR.
    pub p: f64,
}

impl Mix {
    /// Mixup or CutMix of every batch; an α of 0 leaves one of them out.
    pub fn new(mixup_alpha: f64, cutmix_alpha: f64) -> Self {
        Self { mixup_alpha, cutmix_alpha, p: 1.0 }
    }

    /// Mixup of every batch.
    pub fn mixup(alpha: f64) -> Self {
        Self::new(alpha, 0.0)
    }

    /// CutMix of every batch.
    pub fn cutmix(alpha: f64) -> Self {
        Self::new(0.0, alpha)
    }

    /// With a probability that a batch is mixed.
    #[must_use]
    pub fn with_p(self, p: f64) -> Self {
        Self { p, ..self }
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), which names the setting.
    pub fn validate(&self) -> Result<()> {
        for (name, alpha) in [("mixup's alpha", self.mixup_alpha), ("CutMix's alpha", self.cutmix_alpha)] {
            OutOfRange::check(name, alpha, (0.0..=1000.0).contains(&alpha), "0 to 1000")?;
        }
        OutOfRange::check("mixing probability", self.p, (0.0..=1.0).contains(&self.p), "0 to 1")?;
        Ok(())
    }

    /// Draws what happens to one batch of images of `size` by `size` pixels; `None` leaves it as it is.
    pub fn sample(&self, size: usize, rng: &mut impl Rng) -> Option<MixDraw> {
        let mixed = rng.random::<f64>() < self.p;
        let cutmix = match (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0) {
            (true, true) => rng.random::<bool>(),
            (false, false) => return None,
            (_, cutmix) => cutmix,
        };
        mixed.then(|| {
            if cutmix {
                MixDraw::boxed(beta(self.cutmix_alpha, rng), size, rng)
            } else {
                MixDraw::Mixup { lambda: beta(self.mixup_alpha, rng) }
            }
        })
    }
}

/// The random choices for one batch, drawn by [`Mix::sample`].
#[derive(Clone, Debug, PartialEq)]
pub enum MixDraw {
    /// Mixup.
    Mixup {
        /// The weight of an image itself; its partner's is 1 - λ.
        lambda: f64,
    },
    /// CutMix.
    CutMix {
        /// The rows of the partner's box, within 0 to `size`.
        rows: Range<usize>,
        /// The columns of the partner's box, within 0 to `size`.
        columns: Range<usize>,
        /// The images' side in pixels.
        size: usize,
    },
}

impl MixDraw {
    /// The box for a share of 1 - λ with its middle anywhere, clipped to the image.
    fn boxed(lambda: f64, size: usize, rng: &mut impl Rng) -> Self {
        let half = (0.5 * (1.0 - lambda).max(0.0).sqrt() * size as f64) as usize;
        let mut side = || {
            let middle = rng.random_range(0..size);
            middle.saturating_sub(half)..size.min(middle + half)
        };
        Self::CutMix { columns: side(), rows: side(), size }
    }

    /// The weight of an image's own label, 0 to 1; that of its partner's is the rest.
    pub fn lambda(&self) -> f64 {
        match self {
            Self::Mixup { lambda } => *lambda,
            Self::CutMix { rows, columns, size } => {
                1.0 - (rows.len() * columns.len()) as f64 / (size * size) as f64
            }
        }
    }

    /// The image that image `index` of `len` is mixed with.
    pub(crate) fn partner(index: usize, len: usize) -> usize {
        (index + len - 1) % len
    }

    /// Mixes a batch in place: images `[S, S, 3]` end to end, of `size` by `size` pixels.
    pub fn apply(&self, size: usize, images: &mut [f32]) {
        let image = IMAGE_CHANNELS * size * size;
        let Some(last) = images.len().checked_sub(image).map(|start| images[start..].to_vec()) else {
            return;
        };
        // From the last to the first, so that each partner is still as it was.
        for start in (image..images.len()).step_by(image.max(1)).rev() {
            let (before, rest) = images.split_at_mut(start);
            self.mix(&mut rest[..image], &before[start - image..]);
        }
        self.mix(&mut images[..image], &last);
    }

    fn mix(&self, image: &mut [f32], partner: &[f32]) {
        match self {
            Self::Mixup { lambda } => {
                let (own, others) = (*lambda as f32, (1.0 - lambda) as f32);
                for (value, partner) in image.iter_mut().zip(partner) {
                    *value = partner * others + *value * own;
                }
            }
            Self::CutMix { rows, columns, size } => {
                let columns = IMAGE_CHANNELS * columns.start..IMAGE_CHANNELS * columns.end;
                let row = IMAGE_CHANNELS * size;
                let images = image.chunks_exact_mut(row).zip(partner.chunks_exact(row));
                for (row, partner) in images.take(rows.end).skip(rows.start) {
                    row[columns.clone()].copy_from_slice(&partner[columns.clone()]);
                }
            }
        }
    }
}

/// A value of Beta(α, α).
fn beta(alpha: f64, rng: &mut impl Rng) -> f64 {
    // It refuses what is not above 0, which does not come here, and NaN, which `validate` refuses.
    Beta::new(alpha, alpha).map_or(1.0, |beta| beta.sample(rng))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// As in torchvision: of the box's half side, `int(0.5 * sqrt(1 - lam) * W)`, only whole pixels count, and its middle
    /// is uniform over all pixels; the rest is clipped.
    #[test]
    fn a_box_has_the_side_that_the_paper_gives_it_rounded_down() {
        // The half side before rounding is 15.6, 14.3, 12.9, 11.3, 9.6, 8 (exactly), 5.06, 3.6, 1.6 and 0.5.
        for (lambda, half) in [
            (0.05, 15),
            (0.2, 14),
            (0.35, 12),
            (0.5, 11),
            (0.64, 9),
            (0.75, 8),
            (0.9, 5),
            (0.95, 3),
            (0.99, 1),
            (0.999, 0),
            (1.0, 0),
        ] {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut middles = rng.clone();
            for _ in 0..100 {
                let draw = MixDraw::boxed(lambda, 32, &mut rng);
                let mut side = || {
                    let middle = middles.random_range(0..32_usize);
                    middle.saturating_sub(half)..32.min(middle + half)
                };
                let (columns, rows) = (side(), side());
                assert_eq!(draw, MixDraw::CutMix { rows, columns, size: 32 }, "{lambda}");
            }
        }
    }
}
