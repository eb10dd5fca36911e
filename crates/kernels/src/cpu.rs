//! Where kernels run: a number of threads, an instruction set and an arena of buffers.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::buffer::{Arena, Buffer};
use crate::threads::Threads;
use crate::{Error, InstructionSet, Result};

/// Where kernels run: a number of threads, an [`InstructionSet`] and an arena of reused buffers. Cloning
/// is cheap and shares all three.
///
/// Results never depend on the number of threads.
///
/// ```
/// use wrn_sam_kernels::Cpu;
/// let cpu = Cpu::new(2);
/// let squares: Vec<std::sync::atomic::AtomicUsize> = (0..10).map(|_| Default::default()).collect();
/// cpu.run(10, |task| squares[task].store(task * task, std::sync::atomic::Ordering::Relaxed));
/// assert_eq!(squares[7].load(std::sync::atomic::Ordering::Relaxed), 49);
/// ```
#[derive(Clone)]
pub struct Cpu {
    threads: Arc<Threads>,
    arena: Arc<Arena>,
    instruction_set: InstructionSet,
}

impl Cpu {
    /// `threads` threads (at least one; the caller's is one of them) and the best instruction set of this
    /// processor.
    pub fn new(threads: usize) -> Self {
        Self::build(threads, InstructionSet::detect())
    }

    /// As [`Cpu::new`], with an instruction set of the caller's choice.
    ///
    /// # Errors
    /// [`Error::InstructionSet`] where the processor lacks it.
    pub fn with_instruction_set(threads: usize, instruction_set: InstructionSet) -> Result<Self> {
        if InstructionSet::available().contains(&instruction_set) {
            Ok(Self::build(threads, instruction_set))
        } else {
            Err(Error::InstructionSet(instruction_set))
        }
    }

    fn build(threads: usize, instruction_set: InstructionSet) -> Self {
        Self { threads: Arc::new(Threads::new(threads)), arena: Arc::default(), instruction_set }
    }

    /// What everything runs on that was not given another: all of the machine's cores.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cpu> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)))
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// The instruction set that kernels use here.
    pub fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// Runs `task(index)` once for every index below `tasks`, spread over the threads as they become free, and
    /// returns when all are done. A call from within a task runs on that task's thread only. A task must not wait
    /// for another thread's call.
    ///
    /// # Panics
    /// If a task panics.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.threads.run(tasks, &task);
    }

    /// Calls `task(index, chunk)` for every chunk of `chunk_len` elements of `values` (the last may be
    /// shorter), spread over the threads as [`run`](Self::run) does.
    ///
    /// # Panics
    /// If `chunk_len` is 0, or a task panics.
    pub fn for_each_chunk(
        &self,
        values: &mut [f32],
        chunk_len: usize,
        task: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let chunks: Vec<_> = values.chunks_mut(chunk_len).map(Mutex::new).collect();
        self.run(chunks.len(), |index| {
            // Each chunk is locked once, by the task that has its index.
            task(index, &mut chunks[index].lock().unwrap_or_else(PoisonError::into_inner));
        });
    }

    /// A buffer of `len` elements with arbitrary contents.
    ///
    /// # Panics
    /// As [`Vec::with_capacity`]: if `len` elements take more than `isize::MAX` bytes. Where memory for them cannot be
    /// had, the program ends by [`handle_alloc_error`](std::alloc::handle_alloc_error), as it does for a [`Vec`].
    pub fn buffer(&self, len: usize) -> Buffer {
        self.arena.take(len)
    }

    /// A buffer of `len` zeros.
    ///
    /// # Panics
    /// As [`buffer`](Self::buffer).
    pub fn zeroed(&self, len: usize) -> Buffer {
        let mut buffer = self.arena.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// Hands the memory of buffers not in use back to the system.
    pub fn trim(&self) {
        self.arena.trim();
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu")
            .field("threads", &self.threads())
            .field("instruction_set", &self.instruction_set)
            .finish_non_exhaustive()
    }
}
