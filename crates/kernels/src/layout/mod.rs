//! Between candle's layouts and those of the layers on CUDA: channels last in the activations' type, padded to whole
//! vectors. The CPU's counterpart is `tensor.rs`.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
pub(crate) mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;
