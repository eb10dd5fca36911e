//! Between candle's layouts and those of the CUDA layers: the kernels of `cuda.cu`, which
//! [`Cuda`](crate::cuda::Cuda) launches.

#[cfg(all(test, unix))]
mod cuda_tests;
