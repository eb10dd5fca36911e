//! Sharing disjoint pieces of work out to threads.

use std::sync::{Mutex, PoisonError};

use crate::Cpu;
use crate::uninit::written;

/// A copy of values, made by all threads.
pub(crate) fn copied(cpu: &Cpu, from: &[f32]) -> Vec<f32> {
    const CHUNK: usize = 1 << 15;
    // SAFETY: every chunk is written.
    let copy = unsafe {
        written(from.len(), |to| {
            for_each(cpu, to.chunks_mut(CHUNK).zip(from.chunks(CHUNK)), |(to, from)| {
                to.write_copy_of_slice(from);
            });
            Ok(())
        })
    };
    copy.expect("copying cannot fail")
}

/// Runs `task` once for each of `items`, spread over the threads as they become free. Items may
/// own exclusive borrows, as those of `chunks_mut`.
pub(crate) fn for_each<T, I>(cpu: &Cpu, items: I, task: impl Fn(T) + Sync)
where
    I: IntoIterator<Item = T, IntoIter: ExactSizeIterator + Send>,
{
    let items = items.into_iter();
    let count = items.len();
    let items = Mutex::new(items);
    cpu.run(count, |_| {
        // Taken under the lock, worked on outside it.
        let item = items.lock().unwrap_or_else(PoisonError::into_inner).next();
        if let Some(item) = item {
            task(item);
        }
    });
}
