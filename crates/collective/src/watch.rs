//! Whom a rank waits for, and since when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the thread that exchanges messages and the one that waits for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch(Arc<Mutex<Option<(usize, Instant)>>>);

impl Watch {
    pub(crate) fn waits_for(&self, rank: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((rank, Instant::now()));
    }

    pub(crate) fn waits_no_more(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The rank that has been waited for longer than `deadline`.
    pub(crate) fn silent(&self, deadline: Duration) -> Option<usize> {
        let waiting = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.filter(|(_, since)| since.elapsed() > deadline).map(|(rank, _)| rank)
    }
}
