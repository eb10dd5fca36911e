//! The mean and standard deviation of each channel.

use wrn_sam_kernels::OutOfRange;

use crate::{Error, IMAGE_CHANNELS, Result, Split};

/// Mean and unbiased standard deviation of each channel (red, green, blue), for pixels scaled to `[0, 1]`.
///
/// ```
/// use wrn_sam_data::{Dataset, Statistics};
///
/// let statistics = Statistics::from_split(&Dataset::synthetic(17, 200, 0).train)?;
/// assert!(statistics.mean.iter().all(|mean| (0.3..0.7).contains(mean)));
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The mean of each channel.
    pub mean: [f64; IMAGE_CHANNELS],
    /// The standard deviation of each channel: the root of the squared deviations' sum divided by n - 1.
    pub std: [f64; IMAGE_CHANNELS],
}

impl Statistics {
    /// The statistics of all pixels of `split`.
    ///
    /// The sums are integers, so they are exact and do not depend on the order of the images.
    ///
    /// # Errors
    /// [`Error::EmptySplit`] where there are no pixels.
    pub fn from_split(split: &Split) -> Result<Self> {
        if split.is_empty() {
            return Err(Error::EmptySplit);
        }
        let mut sum = [0_u64; IMAGE_CHANNELS];
        let mut square_sum = [0_u64; IMAGE_CHANNELS];
        let plane = split.image_size() * split.image_size();
        for image in split.images() {
            for ((plane, sum), square_sum) in image.chunks_exact(plane).zip(&mut sum).zip(&mut square_sum) {
                // The squares of 1024 bytes sum to less than 2^27.
                for bytes in plane.chunks(1024) {
                    *sum += u64::from(bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>());
                    *square_sum += u64::from(bytes.iter().map(|&byte| u32::from(byte).pow(2)).sum::<u32>());
                }
            }
        }
        let count = (split.len() * plane) as f64;
        let mean = sum.map(|sum| sum as f64 / (255.0 * count));
        let mut std = [0.0; IMAGE_CHANNELS];
        for ((std, &sum), &square_sum) in std.iter_mut().zip(&sum).zip(&square_sum) {
            // n (n - 1) 255^2 variance = n sum(x^2) - sum(x)^2, which is never negative.
            let scaled = (split.len() * plane) as u128 * u128::from(square_sum) - u128::from(sum).pow(2);
            *std = (scaled as f64 / (count * (count - 1.0))).sqrt() / 255.0;
        }
        Ok(Self { mean, std })
    }

    /// Checks that pixels can be normalized by them.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a mean that is not finite, and for a standard deviation that is not finite and above
    /// zero, as that of a channel of one color.
    pub fn validate(&self) -> Result<()> {
        for mean in self.mean {
            OutOfRange::check("a channel's mean", mean, mean.is_finite(), "a finite number")?;
        }
        for std in self.std {
            let usable = std.is_finite() && std > 0.0;
            OutOfRange::check("a channel's standard deviation", std, usable, "a finite number above 0")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{IMAGE_BYTES, IMAGE_SIZE};

    const PLANE: usize = IMAGE_SIZE * IMAGE_SIZE;

    fn split(images: Vec<u8>) -> Split {
        let len = images.len() / IMAGE_BYTES;
        Split::new(images, vec![0; len], None).unwrap()
    }

    #[test]
    fn of_nothing_is_an_error() {
        assert_eq!(
            Statistics::from_split(&split(vec![])).unwrap_err().to_string(),
            "the split has no images, at least one expected"
        );
    }

    #[test]
    fn of_one_color() {
        let mut image = vec![51; IMAGE_BYTES];
        image[2 * PLANE..].fill(255);
        let statistics = Statistics::from_split(&split(image)).unwrap();
        assert_eq!(statistics, Statistics { mean: [0.2, 0.2, 1.0], std: [0.0; 3] });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn equal_the_definition(bytes in prop::collection::vec(any::<u8>(), 64), images in 1..4_usize) {
            let pixels: Vec<u8> = bytes.iter().copied().cycle().take(images * IMAGE_BYTES).collect();
            let statistics = Statistics::from_split(&split(pixels.clone())).unwrap();
            for channel in 0..IMAGE_CHANNELS {
                let values: Vec<f64> = pixels
                    .chunks(PLANE)
                    .skip(channel)
                    .step_by(IMAGE_CHANNELS)
                    .flatten()
                    .map(|&byte| f64::from(byte) / 255.0)
                    .collect();
                let count = values.len() as f64;
                let mean = values.iter().sum::<f64>() / count;
                let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
                prop_assert!((statistics.mean[channel] - mean).abs() < 1e-12);
                prop_assert!((statistics.std[channel] - variance.sqrt()).abs() < 1e-12);
            }
        }
    }
}
