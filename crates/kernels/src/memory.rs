//! What glibc does with memory that is given back.

/// Tells glibc's allocator to keep memory that is given back, instead of returning it to the system: allocations of up to
/// 32 MiB come from the heap, and the heap does not shrink. Gives whether it was told; on other systems and C libraries
/// this does nothing.
///
/// A network on tensors gives back and asks for some MB with every operation. By default each of these allocations is new
/// memory of the system's, which comes page by page, filled with zeros, at the first touch: where operations are quick, that
/// takes longer than they do. Call this once at the start of a program. The price is that the process keeps the most
/// memory that it ever had at once. The environment variables `MALLOC_MMAP_THRESHOLD_=33554432` and
/// `MALLOC_TRIM_THRESHOLD_=8589934592` do the same for a program that does not call this.
///
/// It is a setting of the whole process, so the library never makes it by itself. `WideResNet` does not need it: its
/// buffers are a [`Cpu`](crate::Cpu)'s.
///
/// ```
/// wrn_sam_kernels::keep_memory();
/// ```
pub fn keep_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: settings of the allocator, which any thread may make at any time.
    unsafe {
        // The largest threshold that glibc accepts.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX) == 1
            && libc::mallopt(libc::M_TOP_PAD, 64 << 20) == 1
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}
