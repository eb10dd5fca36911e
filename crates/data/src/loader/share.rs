//! An epoch shared by ranks that train together.

use std::ops::Range;

use wrn_sam_kernels::OutOfRange;

use super::Loader;
use crate::Result;

/// The micro-batches of each step that one of several ranks takes. The loader's batches are the micro-batches: step s has
/// those from s·M on, M of them, or what an epoch's end leaves of them. A rank takes one block of neighbors.
///
/// ```
/// use wrn_sam_data::Share;
///
/// let share = Share::of_rank(8, 1, 4)?; // rank 1 of 4
/// assert_eq!(share.own(), 2..4);
/// assert_eq!(share.batches_of_step(5, 100), 42..44); // of an epoch of 100 micro-batches
/// assert_eq!(share.batches_of_step(12, 99), 98..99); // the last step has three, of which rank 1 has one
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    micro_batches: usize,
    own: Range<usize>,
}

impl Share {
    /// All micro-batches of each step.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for none.
    pub fn whole(micro_batches: usize) -> Result<Self> {
        Self::of_rank(micro_batches, 0, 1)
    }

    /// Those of rank `rank` of `world`, of `micro_batches` in a step.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a number of micro-batches that is not a multiple of `world`, and
    /// for a rank that is not below it.
    pub fn of_rank(micro_batches: usize, rank: usize, world: usize) -> Result<Self> {
        let divisible = micro_batches > 0 && world > 0 && micro_batches.is_multiple_of(world);
        OutOfRange::check("micro_batches", micro_batches, divisible, "a multiple of the number of ranks")?;
        OutOfRange::check("rank", rank, rank < world, "below the number of ranks")?;
        let block = micro_batches / world;
        Ok(Self { micro_batches, own: rank * block..(rank + 1) * block })
    }

    /// Micro-batches in a step.
    pub fn micro_batches(&self) -> usize {
        self.micro_batches
    }

    /// Which of a step's micro-batches are this rank's.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Steps in an epoch of `batches` micro-batches.
    pub fn steps(&self, batches: usize) -> usize {
        batches.div_ceil(self.micro_batches)
    }

    /// The numbers of this rank's micro-batches in step `step` of an epoch of `batches`; none where the epoch has ended.
    pub fn batches_of_step(&self, step: usize, batches: usize) -> Range<usize> {
        let first = step * self.micro_batches;
        batches.min(first + self.own.start)..batches.min(first + self.own.end)
    }
}

impl Loader {
    /// A number for the images of epoch `epoch` from batch `first_batch` on: the sum of a hash of each, modulo 2^64. The sums
    /// that [`Batches::fingerprint`](super::Batches::fingerprint) gives on several ranks add up to it if each image was
    /// handed over once.
    pub fn fingerprint(&self, epoch: usize, first_batch: usize) -> u64 {
        let first = self.len().min(first_batch.saturating_mul(self.config.batch_size));
        sum_of_hashes(&self.order(epoch)[first..])
    }
}

/// The sum over images of the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), modulo 2^64.
pub(super) fn sum_of_hashes(images: &[usize]) -> u64 {
    let hash = |image: &usize| {
        let mut z = (*image as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    images.iter().map(hash).fold(0, u64::wrapping_add)
}
