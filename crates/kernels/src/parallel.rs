//! Sharing disjoint pieces of work out to a context's threads.

use std::sync::{Mutex, PoisonError};

use crate::Context;

/// Runs `task` once for each of `items`, spread over the context's threads as they become free. Items may
/// own exclusive borrows, as those of `chunks_mut`.
pub(crate) fn for_each<T, I>(ctx: &Context, items: I, task: impl Fn(T) + Sync)
where
    I: IntoIterator<Item = T, IntoIter: ExactSizeIterator + Send>,
{
    let items = items.into_iter();
    let count = items.len();
    let items = Mutex::new(items);
    ctx.run(count, |_, _| {
        // Taken under the lock, worked on outside it.
        let item = items.lock().unwrap_or_else(PoisonError::into_inner).next();
        if let Some(item) = item {
            task(item);
        }
    });
}

/// How many of `total` rows go into one task, about `target`: a block count that divides evenly between
/// small numbers of threads, and depends on the shape alone.
pub(crate) fn block_len(total: usize, target: usize) -> usize {
    let blocks = total.div_ceil(target).next_multiple_of(8);
    total.div_ceil(blocks.max(1)).max(1)
}
