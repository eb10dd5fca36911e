//! What the kernels of `cuda.cu` take, as they lay it out.

use crate::cuda_args::{Address, arguments};

arguments! {
    /// `pool_arguments`
    Pool {
        images: Address, features: Address, batch: i32, height: i32, width: i32, window: i32, channels: i32,
        pitch: i32,
    }
}
