//! What `threads.rs` synchronizes with: the standard library. The model checker's build of that file, in the folder
//! `loom` of the repository, has loom's types in this module's place.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex};
pub(crate) use std::thread::{self, JoinHandle};
pub(crate) use std::thread_local;

use std::time::{Duration, Instant};

/// A cell whose users see to it that nobody reads it while somebody writes it.
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// How long an idle worker watches before it parks.
const WATCH: Duration = Duration::from_millis(2);

/// An idle worker's watch. It spins, and now and then yields its core to whoever else wants it.
pub(crate) struct Watch {
    start: Instant,
    looks: u32,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), looks: 0 }
    }

    /// Waits a moment; whether the watch is over.
    pub(crate) fn is_over(&mut self) -> bool {
        self.looks += 1;
        if !self.looks.is_multiple_of(64) {
            spin_loop();
        } else if self.start.elapsed() < WATCH {
            thread::yield_now();
        } else {
            return true;
        }
        false
    }
}
