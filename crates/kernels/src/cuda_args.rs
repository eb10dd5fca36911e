//! What the CUDA kernels take. Each operation's `cuda_args.rs` has its structs, laid out as those of the same names in its
//! `cuda.cu`, which says what they mean. Pointers are addresses on the device (in the tests, where the kernels run as C++,
//! on the host).

/// Declares structs of the C layout.
macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default)]
            pub(crate) struct $name { $(pub(crate) $field: $kind),* }

            // SAFETY: plain numbers in the C layout.
            #[cfg(feature = "cuda")]
            unsafe impl candle_core::cuda_backend::cudarc::driver::DeviceRepr for $name {}
        )*
    };
}

pub(crate) use arguments;

/// An address, or 0 for none.
pub(crate) type Address = u64;

/// Channels with the padding that makes whole vectors of them.
pub(crate) fn pitch(channels: usize) -> usize {
    channels.next_multiple_of(8)
}
