//! What can go wrong between ranks.

use candle_core::DType;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between ranks.
///
/// After any of [`Failed`](Self::Failed), [`Mismatch`](Self::Mismatch), [`Silent`](Self::Silent) and [`Gone`](Self::Gone)
/// the ranks are of no more use: every later call returns the same error at once.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The number of ranks is not a power of two, which the tree of sums needs.
    #[error(
        "{world} ranks: start a power of two (1, 2, 4, 8, ...), so that the sums have the same order for any number"
    )]
    WorldSize {
        /// The number of ranks.
        world: usize,
    },
    /// A rank reported an error by [`Collective::fail`](crate::Collective::fail), and all ranks stop.
    #[error("rank {rank} has stopped: {message}")]
    Failed {
        /// The rank; of several, the lowest.
        rank: usize,
        /// What it reported, cut to 200 bytes.
        message: String,
    },
    /// Two ranks are not at the same point of the same program.
    #[error("ranks {rank} and {other} do not match: rank {rank} is at {found}, rank {other} at {expected}")]
    Mismatch {
        /// One rank.
        rank: usize,
        /// Another.
        other: usize,
        /// The call that `rank` is in.
        found: String,
        /// The call that `other` is in.
        expected: String,
    },
    /// A rank has not answered before the deadline.
    #[error(
        "rank {rank} has not answered for {seconds} s: it hangs, its machine is gone, or the deadline is too short"
    )]
    Silent {
        /// The rank that was waited for.
        rank: usize,
        /// The deadline.
        seconds: f64,
    },
    /// A rank has ended, or dropped its end, while another waited for it.
    #[error("rank {rank} is gone")]
    Gone {
        /// The rank that was waited for.
        rank: usize,
    },
    /// The process was started as one of several, but cannot talk to the others.
    #[error("this process was started as one of {world} ranks by {launcher}, {reason}")]
    Launcher {
        /// The number of ranks that the launcher announced.
        world: usize,
        /// The launcher, and the variable that says so.
        launcher: &'static str,
        /// What is missing, and what to do.
        reason: &'static str,
    },
    /// MPI refused to start.
    #[error("MPI: {0}")]
    Mpi(&'static str),
    /// A tensor that cannot be summed over ranks.
    #[error("tensors of {found:?} cannot be summed over ranks together: all must be f32, or all f64")]
    Type {
        /// The first type that does not fit.
        found: DType,
    },
    /// candle reported an error, whose text this is.
    #[error("{0}")]
    Candle(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error.to_string())
    }
}
