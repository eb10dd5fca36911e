//! An arena of reused `f32` buffers.
//!
//! A training step asks for the same few dozen large buffers again and again. Returning them to the
//! operating system in between costs a page fault per 4 KiB at the next use, which on a memory-bound
//! network is a noticeable part of the step; the arena keeps them instead, and asks for huge pages where
//! the system has them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Cache-line alignment, which is also what 512-bit vectors like.
const ALIGNMENT: usize = 64;
/// Blocks from this size on are aligned to, and sized in, huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// Memory blocks waiting for their next use, by capacity in elements.
#[derive(Default)]
pub(crate) struct Arena {
    free: Mutex<BTreeMap<usize, Vec<Block>>>,
}

impl Arena {
    /// A buffer of `len` elements with arbitrary (but initialized) contents.
    ///
    /// # Panics
    /// As [`Vec::with_capacity`]: if `len` elements overflow `isize::MAX` bytes.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let block = self.reuse(len).unwrap_or_else(|| Block::new(len));
        Buffer { block: Some(block), len, arena: self.clone() }
    }

    /// The smallest waiting block that holds `len` without wasting more than a quarter of itself.
    fn reuse(&self, len: usize) -> Option<Block> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = len.saturating_add(len / 3).max(1024);
        let capacity = *free.range(len..=limit).find(|(_, blocks)| !blocks.is_empty())?.0;
        free.get_mut(&capacity)?.pop()
    }

    fn give_back(&self, block: Block) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(block.capacity).or_default().push(block);
    }

    /// Hands every waiting block back to the system.
    pub(crate) fn trim(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One allocation.
struct Block {
    start: NonNull<f32>,
    capacity: usize,
}

// SAFETY: a block owns its memory, and only hands out references through the `Buffer` that owns it.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` gives no access to the memory.
unsafe impl Sync for Block {}

impl Block {
    fn new(len: usize) -> Self {
        let bytes = len.max(1).checked_next_multiple_of(16).and_then(|len| len.checked_mul(size_of::<f32>()));
        let bytes = bytes.and_then(|bytes| {
            if bytes >= HUGE_PAGE { bytes.checked_next_multiple_of(HUGE_PAGE / 8) } else { Some(bytes) }
        });
        let layout = bytes.and_then(Self::layout);
        let layout = layout.unwrap_or_else(|| panic!("capacity overflow: a buffer of {len} f32"));
        let bytes = layout.size();
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start.cast::<f32>()) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE {
            // SAFETY: the range is the allocation just made, and the advice changes no contents. Where the
            // system declines it, ordinary pages serve.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the allocation is `bytes` long and nobody else knows of it.
        unsafe { start.as_ptr().cast::<u8>().write_bytes(0, bytes) };
        Self { start, capacity: bytes / size_of::<f32>() }
    }

    /// The layout of a block of so many bytes; none if no allocation can be that large.
    fn layout(bytes: usize) -> Option<Layout> {
        let alignment = if bytes >= HUGE_PAGE { HUGE_PAGE } else { ALIGNMENT };
        Layout::from_size_align(bytes, alignment).ok()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let layout =
            Self::layout(self.capacity * size_of::<f32>()).expect("the layout it was allocated with");
        // SAFETY: allocated in `new` with this layout, and dropped once.
        unsafe { dealloc(self.start.as_ptr().cast(), layout) }
    }
}

/// A 64-byte aligned slice of `f32` from a [`Cpu`](crate::Cpu)'s arena, to which its memory
/// returns when it is dropped.
///
/// The contents of a fresh buffer are arbitrary: whatever its memory last held.
pub struct Buffer {
    /// `None` only while being dropped.
    block: Option<Block>,
    len: usize,
    arena: Arc<Arena>,
}

impl Buffer {
    fn start(&self) -> *mut f32 {
        self.block.as_ref().map_or(NonNull::dangling(), |block| block.start).as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the block holds at least `len` initialized elements (zeroed when allocated), aligned to
        // 64 bytes, and is borrowed as long as the buffer is.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; `&mut self` makes the access the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.arena.give_back(block);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} f32)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reused_for_the_same_and_slightly_smaller_lengths() {
        let arena = Arc::new(Arena::default());
        let first = arena.take(1000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(arena.take(1000).as_ptr(), address);
        assert_eq!(arena.take(900).as_ptr(), address);
        let (a, b) = (arena.take(1000), arena.take(1000));
        assert_ne!(a.as_ptr(), b.as_ptr());
    }

    #[test]
    fn buffers_have_their_length_and_alignment() {
        let arena = Arc::new(Arena::default());
        for len in [0, 1, 15, 16, 17, 1000, 1 << 20] {
            let mut buffer = arena.take(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
            buffer.fill(1.0);
        }
        arena.trim();
    }

    #[test]
    fn lengths_beyond_the_address_space_panic() {
        let arena = Arc::new(Arena::default());
        for len in [usize::MAX, usize::MAX / 4, (1 << 62) + 16, (1 << 61) - 1, isize::MAX as usize / 4] {
            let take = std::panic::catch_unwind(|| arena.take(len).len());
            assert!(take.is_err(), "a buffer of {len} elements");
        }
    }
}
