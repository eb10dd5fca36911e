//! The fork-join pool of the kernels, `threads.rs`, under the model checker loom: every test runs once for every order
//! of atomic operations that the memory model allows, up to a bound on preemptions.
//!
//! What is checked: each task of a section runs once, what it wrote is seen by the section's caller, a worker that comes
//! late never runs the body of a section that has ended, a worker that is about to park misses no section, and the pool's
//! end wakes and joins every worker. Panics of tasks are left to the kernels' own tests: loom's mutex cannot be unlocked by
//! one.
#![cfg(test)]

#[path = "../../crates/kernels/src/threads.rs"]
#[allow(dead_code, reason = "the number of threads is the kernels' business")]
mod threads;

/// loom's types instead of those in `crates/kernels/src/sync.rs`.
mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex};
    pub(crate) use loom::thread::{self, JoinHandle};
    pub(crate) use loom::thread_local;

    /// A watch that is over at once: every look ends in parking, where the care is needed.
    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn is_over(&mut self) -> bool {
            true
        }
    }
}

use loom::cell::UnsafeCell;
use loom::model::Builder;

use threads::Threads;

/// A place that one task writes and the section's caller reads. loom reports where these are not ordered.
struct Place(UnsafeCell<usize>);

// SAFETY: loom checks each access.
unsafe impl Sync for Place {}

impl Place {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn add(&self, value: usize) {
        // SAFETY: loom checks the access.
        self.0.with_mut(|place| unsafe { *place += value });
    }

    fn get(&self) -> usize {
        // SAFETY: loom checks the access.
        self.0.with(|place| unsafe { *place })
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Runs a section of two tasks, each of which adds its number and `value`.
fn section(threads: &Threads, value: usize) {
    let places = [Place::new(), Place::new()];
    threads.run(2, &|task| places[task].add(task + value));
    assert_eq!(places.map(|place| place.get()), [value, value + 1]);
}

#[test]
fn every_task_of_a_section_runs_once_and_its_writes_are_seen() {
    check(4, || section(&Threads::new(2), 1));
}

#[test]
fn a_late_worker_runs_no_body_of_an_ended_section() {
    check(2, || {
        let threads = Threads::new(2);
        section(&threads, 1);
        section(&threads, 10);
    });
}

#[test]
fn two_workers_share_a_section() {
    check(1, || section(&Threads::new(3), 1));
}

#[test]
fn sections_of_two_callers_do_not_mix() {
    check(1, || {
        let threads = loom::sync::Arc::new(Threads::new(2));
        let other = threads.clone();
        let caller = loom::thread::spawn(move || section(&other, 1));
        section(&threads, 10);
        caller.join().expect("the other section succeeds");
    });
}

#[test]
fn a_nested_section_runs_on_its_task_s_thread() {
    check(2, || {
        let threads = Threads::new(2);
        let places = [Place::new(), Place::new()];
        threads.run(2, &|outer| threads.run(2, &|inner| places[outer].add(1 + inner)));
        assert_eq!(places.map(|place| place.get()), [3, 3]);
    });
}
