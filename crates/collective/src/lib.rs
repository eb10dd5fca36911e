//! Processes that train together.
//!
//! A [`Collective`] is one of several ranks that run the same program. [`Solo`] is the only one. A [`Ranks`] is several:
//! processes under MPI, or threads of one process. [`from_environment`] finds out which, so that one program runs by itself
//! and under `mpirun` or `srun`:
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use wrn_sam_collective::{Precision, from_environment};
//!
//! let ranks = from_environment()?;
//! let gradient = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
//! let sum = ranks.all_reduce(&[gradient], Precision::Exact)?.wait()?;
//! assert_eq!(sum[0].to_vec1::<f32>()?, [1., 2.].map(|value| value * ranks.world() as f32));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod engine;
mod error;
mod header;
mod launcher;
mod link;
#[cfg(feature = "mpi")]
mod mpi;
mod pending;
mod ranks;
mod solo;
mod threads;
mod traffic;
mod tree;
mod values;
mod watch;

use std::fmt;

use candle_core::Tensor;

pub use error::{Error, Result};
pub use launcher::from_environment;
pub use pending::Pending;
pub use ranks::Ranks;
pub use solo::Solo;
pub use traffic::Traffic;

/// One of several ranks that run the same program. All of them make the same calls in the same order.
///
/// Each call compares, with every message, which call the two ranks are in and how long it is. Ranks that are not at the same
/// point get [`Error::Mismatch`], not each other's numbers.
pub trait Collective: fmt::Debug + Send + Sync {
    /// The number of this rank, below [`world`](Self::world).
    fn rank(&self) -> usize;

    /// The number of ranks, at least 1.
    fn world(&self) -> usize;

    /// Begins to add each of `tensors`, all of type `f32` or all `f64`, over the ranks; [`Pending::wait`] gives the sums. The
    /// ranks give tensors of the same shapes in the same order. Sums that were begun first are there first.
    ///
    /// With [`Precision::Exact`] the order of the additions is a binary tree over the ranks: 0 + 1, 2 + 3, ..., then
    /// the sums of these pairs, and so on. All ranks get the same bits. A rank that adds 2^k parts of its own in the same
    /// way gets what one process gets from all parts.
    ///
    /// # Errors
    /// [`Error::Type`] for other types; other errors come from [`Pending::wait`].
    fn all_reduce(&self, tensors: &[Tensor], precision: Precision) -> Result<Pending>;

    /// What each rank gives, in the order of the ranks; lengths may differ.
    ///
    /// # Errors
    /// Those of [`Pending::wait`].
    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>>;

    /// What rank `root` gives. What the others give is dropped.
    ///
    /// # Errors
    /// Those of [`Pending::wait`].
    ///
    /// # Panics
    /// If there is no rank `root`.
    fn broadcast(&self, bytes: Vec<u8>, root: usize) -> Result<Vec<u8>> {
        let own = if self.rank() == root { bytes } else { Vec::new() };
        Ok(self.all_gather(own)?.swap_remove(root))
    }

    /// Returns when all ranks have called it.
    ///
    /// # Errors
    /// Those of [`Pending::wait`].
    fn barrier(&self) -> Result<()> {
        self.all_gather(Vec::new()).map(drop)
    }

    /// Tells the other ranks that this one stops, and why. Their next call, and every later one of all ranks, returns
    /// [`Error::Failed`] with this rank and the message. Waits until they have made it.
    fn fail(&self, message: &str);

    /// What this rank has sent so far.
    ///
    /// # Errors
    /// [`Error::Gone`] where the thread that exchanges messages has ended.
    fn traffic(&self) -> Result<Traffic> {
        Ok(Traffic::default())
    }
}

/// What of a sum's numbers travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// Every bit.
    #[default]
    Exact,
    /// Half of the bytes of an `f32`: every partial sum is rounded to bfloat16, which has 8 bits of precision, before it is
    /// sent, and added in `f32`. All ranks get the same bits, but other bits with another number of ranks. `f64` travels
    /// as it is.
    Bf16,
}
