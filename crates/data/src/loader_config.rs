//! How a loader forms batches.

use wrn_sam_kernels::OutOfRange;

use crate::Result;

/// How a [`Loader`](crate::Loader) forms batches.
///
/// ```
/// use wrn_sam_data::LoaderConfig;
///
/// let config = LoaderConfig::default().with_batch_size(64).with_seed(3);
/// assert_eq!((config.batch_size, config.shuffle), (64, true));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoaderConfig {
    /// Images per batch, at least 1; an epoch's last batch has what is left.
    pub batch_size: usize,
    /// Worker threads. With 0, the caller's thread makes a batch when it asks for one.
    pub threads: usize,
    /// Whether each epoch has its own random order; otherwise all have the split's.
    pub shuffle: bool,
    /// What order, augmentation and mixing are drawn from.
    pub seed: u64,
}

impl Default for LoaderConfig {
    /// The reference's batches of 128 in random order, from seed 17, made by two threads.
    fn default() -> Self {
        Self { batch_size: 128, threads: 2, shuffle: true, seed: 17 }
    }
}

impl LoaderConfig {
    /// With this number of images per batch.
    #[must_use]
    pub fn with_batch_size(self, batch_size: usize) -> Self {
        Self { batch_size, ..self }
    }

    /// With this number of worker threads.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// With a random order in each epoch, or with the split's.
    #[must_use]
    pub fn with_shuffle(self, shuffle: bool) -> Self {
        Self { shuffle, ..self }
    }

    /// With another seed.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// A batch size of 0.
    pub fn validate(&self) -> Result<()> {
        Ok(OutOfRange::check("batch size", self.batch_size, self.batch_size > 0, "at least 1")?)
    }
}
