//! A fork-join pool for short parallel sections.
//!
//! A network's pass is some hundred parallel sections of a fraction of a millisecond to a few
//! milliseconds each. Waking a parked thread takes up to a millisecond, so an idle worker first watches
//! for the next section for a while, yielding its core to whoever else wants it, and only then parks. A
//! section ends when its tasks are done, whether or not a worker woke in time to take one.

//!
//! The model checker loom runs this file in every order of its atomic operations: see `loom/` in the repository.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;

use crate::sync::{
    Arc, AtomicBool, AtomicUsize, JoinHandle, Mutex, Ordering, UnsafeCell, Watch, spin_loop, thread,
    thread_local,
};

/// A parallel section's body, called with the index of each task.
type Body<'a> = dyn Fn(usize) + Sync + 'a;

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
    /// Whether this thread is inside a section, where a nested one runs inline.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no constant")]
    static INSIDE: Cell<bool> = Cell::new(false);
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
                thread::Builder::new()
                    .name(format!("wrn-sam-kernels-{worker}"))
                    .spawn(move || shared.work())
                    .ok()
            })
            .collect();
        Self { shared, section: Mutex::new(()), workers }
    }

    pub(crate) fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body` once for every index below `tasks`, and returns when all are done.
    ///
    /// # Panics
    /// If a task panics.
    pub(crate) fn run(&self, tasks: usize, body: &Body<'_>) {
        if INSIDE.with(Cell::get) || tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(body);
        }
        let _section = self.section.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: erases the lifetime of `body`. `Close` below closes the gate and waits for every worker
        // to leave before this function returns or unwinds, and no worker reads it outside the gate.
        let body = unsafe { std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body) };
        // SAFETY: the gate is closed and empty (the section's lock is held, and the previous section closed
        // it), so nobody reads the cell.
        shared.body.with_mut(|cell| unsafe { *cell = Some(std::ptr::from_ref(body)) });
        // A caller that unwound may have left its worker's panic behind.
        *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        shared.gate.store(OPEN, Ordering::Release);
        shared.generation.fetch_add(1, Ordering::SeqCst);
        if shared.parked.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
        {
            let _close = Close(shared);
            let _inside = Inside::enter();
            shared.take_tasks(body);
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // The last handle may be dropped by a worker itself; it ends by the flag.
            if worker.thread().id() != thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

/// Marks this thread as inside a section until dropped.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.with(|inside| inside.set(true));
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(false));
    }
}

impl Shared {
    fn take_tasks(&self, body: &Body<'_>) {
        let tasks = self.tasks.load(Ordering::Relaxed);
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            body(task);
        }
    }

    fn work(&self) {
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
            let body = self.body.with(|cell| unsafe { (*cell).map(|body| &*body) });
            if let Some(body) = body
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_tasks(body)))
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
        let mut watch = Watch::new();
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            if generation != seen {
                return generation;
            }
            if watch.is_over() {
                self.parked.fetch_add(1, Ordering::SeqCst);
                // Announced first, then checked, so that a section opened in between is seen here or unparks.
                if self.generation.load(Ordering::SeqCst) == seen {
                    thread::park();
                }
                self.parked.fetch_sub(1, Ordering::SeqCst);
                watch = Watch::new();
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
            if looks.is_multiple_of(256) { thread::yield_now() } else { spin_loop() }
        }
    }
}
