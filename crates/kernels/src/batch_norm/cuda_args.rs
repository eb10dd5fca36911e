//! What the kernels of `cuda.cu` take, as they lay it out.

use crate::cuda_args::{Address, arguments};
use crate::dropout::cuda_args::Mask;

arguments! {
    /// `batch_norm_statistics_arguments`
    Statistics { x: Address, add: Address, partials: Address, counts: Address, rows: i64, pitch: i32 }
    /// `batch_norm_finish_arguments`
    Finish {
        partials: Address, counts: Address, gamma: Address, beta: Address, affine: Address, running_mean: Address,
        running_var: Address, tracked: Address, epsilon: f64, momentum: f64, rows: i64, blocks: i32, pitch: i32,
        channels: i32, moves: i32,
    }
    /// `batch_norm_running_arguments`
    Running {
        gamma: Address, beta: Address, mean: Address, var: Address, affine: Address, epsilon: f64, pitch: i32,
        channels: i32,
    }
    /// `batch_norm_apply_arguments`
    Apply {
        x: Address, add: Address, y: Address, affine: Address, rows: i64, mask: Mask, pitch: i32, channels: i32,
    }
    /// `batch_norm_backward_arguments`
    Backward {
        x: Address, grad: Address, add: Address, affine: Address, partials: Address, sums: Address, rows: i64,
        mask: Mask, pitch: i32, channels: i32, constant: i32,
    }
    /// `batch_norm_add_up_arguments`
    AddUp { partials: Address, sums: Address, blocks: i32, pitch: i32 }
}

/// How the kernels of a batch norm over `rows` of `pitch` channels are spread: blocks in x and y, of 256 threads. By the
/// shape alone, so that sums are added in the same order on every GPU.
pub(crate) fn blocks(rows: usize, pitch: usize) -> (usize, usize) {
    const THREADS: usize = 256;
    const ROWS_OF_A_THREAD: usize = 16;
    const MOST: usize = 528;
    let vectors = pitch / 8;
    let together = THREADS / vectors.min(THREADS);
    (rows.div_ceil(together * ROWS_OF_A_THREAD).clamp(1, MOST), vectors.div_ceil(THREADS))
}
