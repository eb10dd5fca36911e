//! Making items on worker threads, a bounded number ahead, and handing them over in order.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::{Error, Result};

/// An iterator over `make(start)`, `make(start + 1)`, … whose items are made by worker threads.
///
/// At most two items per thread are made or being made ahead of the one that the caller waits for. After an
/// error it ends. Dropping it ends the threads, each after the item it is at.
pub(crate) struct Prefetch<T> {
    shared: Arc<PrefetchShared<T>>,
    workers: Vec<JoinHandle<()>>,
}

struct PrefetchShared<T> {
    make: Box<dyn Fn(usize) -> Result<T> + Send + Sync>,
    /// How many items may be claimed and not yet handed over.
    ahead: usize,
    state: Mutex<PrefetchState<T>>,
    /// Signals workers that an item was handed over, or that they must stop.
    room: Condvar,
    /// Signals the caller that an item is ready.
    ready: Condvar,
}

struct PrefetchState<T> {
    /// The next item to hand over, and the end.
    wanted: Range<usize>,
    /// The next item that a worker takes on.
    unclaimed: usize,
    made: BTreeMap<usize, Result<T>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts making the items of `range` on `threads` threads; on none, or where the system gives none, each
    /// item is made when it is asked for.
    pub(crate) fn new(
        range: Range<usize>,
        threads: usize,
        make: impl Fn(usize) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        let state = PrefetchState { unclaimed: range.start, wanted: range, made: BTreeMap::new() };
        let threads = threads.min(state.wanted.len());
        let shared = Arc::new(PrefetchShared {
            make: Box::new(make),
            ahead: 2 * threads,
            state: Mutex::new(state),
            room: Condvar::new(),
            ready: Condvar::new(),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("wrn-sam-data".into()).spawn(move || shared.work()).ok()
        };
        let workers = (0..threads).filter_map(spawn).collect();
        Self { shared, workers }
    }

    /// Ends the iteration; what is being made is not waited for.
    pub(crate) fn stop(&self) {
        self.shared.stop();
    }

    /// How many items are still to come.
    pub(crate) fn remaining(&self) -> usize {
        self.shared.lock().wanted.len()
    }
}

impl<T> PrefetchShared<T> {
    fn lock(&self) -> MutexGuard<'_, PrefetchState<T>> {
        // Nothing panics while it holds the lock, and the state is whole between any two of its changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(index) = self.claim() {
            let item = catch_unwind(AssertUnwindSafe(|| (self.make)(index)))
                .unwrap_or_else(|panic| Err(Error::Worker { batch: index, message: message(&*panic) }));
            self.lock().made.insert(index, item);
            self.ready.notify_one();
        }
    }

    /// The next item to make, when there is room for it; `None` at the end.
    fn claim(&self) -> Option<usize> {
        let full = |state: &mut PrefetchState<T>| {
            state.unclaimed < state.wanted.end && state.unclaimed - state.wanted.start >= self.ahead
        };
        let mut state = self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        (state.unclaimed < state.wanted.end).then(|| {
            state.unclaimed += 1;
            state.unclaimed - 1
        })
    }

    /// Ends the iteration: workers claim nothing more.
    fn stop(&self) {
        let mut state = self.lock();
        state.wanted.end = state.wanted.start;
        self.room.notify_all();
    }
}

impl<T: Send + 'static> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let shared = &self.shared;
        let index = Some(shared.lock().wanted.clone()).filter(|wanted| !wanted.is_empty())?.start;
        let item = if self.workers.is_empty() {
            shared.lock().wanted.start += 1;
            (shared.make)(index)
        } else {
            let missing = |state: &mut PrefetchState<T>| !state.made.contains_key(&index);
            let mut state =
                shared.ready.wait_while(shared.lock(), missing).unwrap_or_else(PoisonError::into_inner);
            state.wanted.start += 1;
            shared.room.notify_one();
            state.made.remove(&index)?
        };
        if item.is_err() {
            shared.stop();
        }
        Some(item)
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker catches what it runs, so there is no panic to pass on.
            let _ = worker.join();
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_come_in_order_for_any_number_of_threads() {
        for threads in 0..5 {
            let uneven = |index: usize| {
                thread::sleep(Duration::from_micros(if index.is_multiple_of(3) { 300 } else { 0 }));
                Ok(index)
            };
            let prefetch = Prefetch::new(5..40, threads, uneven);
            assert_eq!(prefetch.remaining(), 35);
            let items: Vec<usize> = prefetch.map(Result::unwrap).collect();
            assert_eq!(items, (5..40).collect::<Vec<_>>());
        }
        assert!(Prefetch::<()>::new(3..3, 2, |_| unreachable!()).next().is_none());
    }

    #[test]
    fn work_ahead_is_bounded() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let mut prefetch = Prefetch::new(0..1000, 2, move |index| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(index)
        });
        for taken in 1..50 {
            prefetch.next().unwrap().unwrap();
            thread::sleep(Duration::from_millis(1));
            let made = made.load(Ordering::SeqCst);
            assert!(made <= taken + 4, "{made} made with {taken} taken");
        }
    }

    #[test]
    fn dropping_ends_the_threads() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let mut prefetch = Prefetch::new(0..1_000_000, 3, move |_| Ok(Arc::strong_count(&held)));
        prefetch.next().unwrap().unwrap();
        drop(prefetch);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn stopping_ends_the_iteration() {
        for threads in 0..3 {
            let mut prefetch = Prefetch::new(0..9, threads, Ok);
            assert_eq!(prefetch.next().unwrap().unwrap(), 0);
            prefetch.stop();
            assert_eq!((prefetch.remaining(), prefetch.next().is_none()), (0, true));
        }
    }

    #[test]
    fn an_error_arrives_in_its_place_and_ends_the_iteration() {
        for threads in 0..3 {
            let mut prefetch =
                Prefetch::new(
                    0..9,
                    threads,
                    |index| if index == 4 { Err(Error::EmptySplit) } else { Ok(()) },
                );
            assert!(prefetch.by_ref().take(4).all(|item| item.is_ok()));
            assert!(matches!(prefetch.next(), Some(Err(Error::EmptySplit))));
            assert!(prefetch.next().is_none());
        }
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller_as_an_error() {
        for text in ["plain", "with a number"] {
            let mut prefetch = Prefetch::new(0..9, 2, move |index| {
                if index == 2 && text == "plain" {
                    panic!("plain");
                }
                if index == 2 {
                    panic!("{text} {index}");
                }
                Ok(())
            });
            assert!(prefetch.by_ref().take(2).all(|item| item.is_ok()));
            let message = prefetch.next().unwrap().unwrap_err().to_string();
            assert!(message.starts_with(&format!("making batch 2 panicked: {text}")), "{message}");
            assert!(prefetch.next().is_none());
        }
    }
}
