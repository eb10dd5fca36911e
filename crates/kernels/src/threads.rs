//! A fork-join pool for short parallel sections.
//!
//! A network's pass is some hundred parallel sections of a fraction of a millisecond to a few
//! milliseconds each. Waking a parked thread takes up to a millisecond, so an idle worker first watches
//! for the next section for a while, yielding its core to whoever else wants it, and only then parks. A
//! section ends when its tasks are done, whether or not a worker woke in time to take one.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker watches before it parks.
const WATCH: Duration = Duration::from_millis(2);

/// A parallel section's body: `(task, worker)`.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

pub(crate) struct Threads {
    shared: Arc<Shared>,
    /// Held by the thread whose section is running.
    section: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// What the caller and the workers share.
///
/// `gate` counts the workers inside the current section, plus [`OPEN`] while they may still enter. The
/// body is read only by a worker that entered through an open gate, and the caller takes it away only
/// after closing the gate and seeing the count fall to zero.
struct Shared {
    gate: AtomicUsize,
    /// Changes with every section, so that a worker enters each at most once.
    generation: AtomicUsize,
    next: AtomicUsize,
    tasks: AtomicUsize,
    body: UnsafeCell<Option<*const Body<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    parked: AtomicUsize,
    stop: AtomicBool,
}

const OPEN: usize = 1 << (usize::BITS - 1);

// SAFETY: `body` is written by the section's owner while the gate is closed and empty, and read by workers
// only after entering an open gate (see `Shared`); everything else is atomic or locked. The pointer's target
// is `Sync` and outlives the section.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

thread_local! {
    /// Whether this thread is inside a section, where a nested one runs inline, as its own worker 0.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Threads {
    pub(crate) fn new(count: usize) -> Self {
        let shared = Arc::new(Shared {
            gate: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            body: UnsafeCell::new(None),
            panic: Mutex::new(None),
            parked: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        // A worker that cannot be started is one helper fewer, never a different result.
        let workers = (1..count.max(1))
            .map_while(|worker| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("wrn-sam-kernels-{worker}"))
                    .spawn(move || shared.work(worker))
                    .ok()
            })
            .collect();
        Self { shared, section: Mutex::new(()), workers }
    }

    pub(crate) fn count(&self) -> usize {
        self.workers.len() + 1
    }

    pub(crate) fn run(&self, tasks: usize, body: &Body<'_>) {
        if INSIDE.get() || tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(|task| body(task, 0));
        }
        let _section = self.section.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.run(tasks, body, &self.workers);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // The last handle may be dropped by a worker itself; it ends by the flag.
            if worker.thread().id() != std::thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

/// Marks this thread as inside a section until dropped.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

impl Shared {
    fn run(&self, tasks: usize, body: &Body<'_>, workers: &[JoinHandle<()>]) {
        // SAFETY: erases the lifetime of `body`. `Close` below closes the gate and waits for every worker
        // to leave before this function returns or unwinds, and no worker reads it outside the gate.
        let body = unsafe { std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body) };
        // SAFETY: the gate is closed and empty (the section's lock is held, and the previous section closed
        // it), so nobody reads the cell.
        unsafe { *self.body.get() = Some(std::ptr::from_ref(body)) };
        // A caller that unwound may have left its worker's panic behind.
        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.tasks.store(tasks, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.gate.store(OPEN, Ordering::Release);
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            workers.iter().for_each(|worker| worker.thread().unpark());
        }
        {
            let _close = Close(self);
            let _inside = Inside::enter();
            self.take_tasks(body, 0);
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn take_tasks(&self, body: &Body<'_>, worker: usize) {
        let tasks = self.tasks.load(Ordering::Relaxed);
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            body(task, worker);
        }
    }

    fn work(&self, worker: usize) {
        let _inside = Inside::enter();
        let mut seen = 0;
        loop {
            seen = self.watch(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if !self.enter() {
                continue;
            }
            // SAFETY: inside the gate (see `Shared`): the cell was written before the gate opened and stays
            // as it is until this worker leaves; so does the body it points to.
            let body = unsafe { (*self.body.get()).map(|body| &*body) };
            if let Some(body) = body
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_tasks(body, worker)))
            {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Enters the section if its gate is still open.
    fn enter(&self) -> bool {
        let enter = |gate: usize| (gate & OPEN != 0).then(|| gate + 1);
        self.gate.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok()
    }

    /// Waits for a generation other than `seen`.
    fn watch(&self, seen: usize) -> usize {
        let mut start = Instant::now();
        let mut looks = 0u32;
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            if generation != seen {
                return generation;
            }
            looks += 1;
            if !looks.is_multiple_of(64) {
                std::hint::spin_loop();
            } else if start.elapsed() < WATCH {
                std::thread::yield_now();
            } else {
                self.parked.fetch_add(1, Ordering::SeqCst);
                // Announced first, then checked, so that a section opened in between is seen here or unparks.
                if self.generation.load(Ordering::SeqCst) == seen {
                    std::thread::park();
                }
                self.parked.fetch_sub(1, Ordering::SeqCst);
                start = Instant::now();
            }
        }
    }
}

/// Closes the gate and waits until every worker has left.
struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        // After a panic in the caller's own task, the rest need not run.
        shared.next.fetch_max(shared.tasks.load(Ordering::Relaxed), Ordering::Relaxed);
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0u32;
        while shared.gate.load(Ordering::Acquire) != 0 {
            looks += 1;
            if looks.is_multiple_of(256) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(threads: &Threads, tasks: usize) {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        threads.run(tasks, &|task, worker| {
            assert!(worker < threads.count());
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn every_task_runs_once() {
        for count in 1..5 {
            let threads = Threads::new(count);
            for tasks in (0..50).chain([1000]) {
                check(&threads, tasks);
            }
        }
    }

    #[test]
    fn parked_workers_do_not_hold_a_section_up() {
        let threads = Threads::new(3);
        for _ in 0..3 {
            std::thread::sleep(2 * WATCH);
            check(&threads, 100);
        }
    }

    #[test]
    fn sections_from_several_threads_and_nested_ones_complete() {
        let threads = Threads::new(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|tasks| check(&threads, tasks)));
            }
        });
        let total = AtomicUsize::new(0);
        threads.run(8, &|_, _| {
            threads.run(8, &|_, _| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let threads = Threads::new(2);
        for bad in [0, 50, 99] {
            let run = || threads.run(100, &|task, _| assert_ne!(task, bad, "task {task}"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            check(&threads, 100);
        }
    }
}
