//! Batch norm and ReLU on CUDA: `cuda.cu` has the kernels.
//!
//! Forward, statistics are one pass over x (which also takes a residual sum, where one is due) and a small kernel that
//! joins the blocks' parts, moves the running statistics and makes the affine form; application is one pass. Backward, the
//! sums are one pass over x and the gradient, their joining a small kernel, and the gradient of x, with a residual's added,
//! another pass.

use std::sync::Arc;

use super::cuda_args::{AddUp, Apply, Backward, Finish, Running, Statistics, blocks};
use super::{BatchNormState, BatchStatistics};
use crate::cuda::{Block, Cuda, Grid, Images, Module, module, pointer, typed};
use crate::dropout::{self, cuda_args::Mask};
use crate::{Error, Result};

const MODULE: Module = module!("batch_norm");
const OPERATION: &str = "batch norm";

/// A batch norm and ReLU of given images.
pub struct Activated {
    /// The activated images.
    pub(crate) images: Images,
    /// The channels' factors, summands, means and inverse deviations, a pitch each.
    affine: Arc<Block>,
    mask: Mask,
    statistics: BatchStatistics,
}

/// The grid of the kernels that go over all rows.
fn grid(x: &Images) -> Grid {
    Grid { blocks: blocks(x.pixels, x.pitch), threads: 256, shared: 0 }
}

pub(crate) fn normalize(
    cuda: &Cuda,
    x: &Images,
    norm: &BatchNormState,
    statistics: BatchStatistics,
    mask: Option<dropout::Mask>,
) -> Result<Activated> {
    let (rows, pitch, channels) = (x.pixels, x.pitch, x.channels);
    let vector = |what: &'static str, tensor: &candle_core::Tensor| {
        if tensor.dims() == [channels] {
            return cuda.address(OPERATION, tensor);
        }
        let (expected, found) = (format!("[{channels}]"), format!("{:?}", tensor.dims()));
        Err(Error::Shape { what, expected, found })
    };
    let (gamma, beta) = (vector("weight", norm.weight)?, vector("bias", norm.bias)?);
    let (running_mean, running_var) =
        (vector("running mean", norm.running_mean)?, vector("running variance", norm.running_var)?);
    statistics.check(rows)?;
    let affine = cuda.block(OPERATION, 4 * pitch, size_of::<f32>())?;
    let grid = grid(x);
    let address = x.block.address();
    let mut addend = x.take_addend();
    match statistics {
        BatchStatistics::Batch { moves } => {
            let tracked = pointer::<i64>(OPERATION, cuda.device(), norm.num_batches_tracked)?;
            let (blocks, _) = grid.blocks;
            let partials = cuda.block(OPERATION, blocks * 3 * pitch, size_of::<f32>())?;
            let counts = cuda.block(OPERATION, blocks, size_of::<f32>())?;
            let arguments = Statistics {
                x: address,
                add: addend.as_ref().map_or(0, |addend| addend.address()),
                partials: partials.address(),
                counts: counts.address(),
                rows: rows as i64,
                pitch: pitch as i32,
            };
            // SAFETY: x and the addend are `rows` rows of `pitch` elements of the activations' type; every block writes its
            // part of the partials and its count.
            unsafe { cuda.launch_typed(&MODULE, typed!("batch_norm_statistics"), grid, &arguments) }?;
            addend = None;
            let arguments = Finish {
                partials: partials.address(),
                counts: counts.address(),
                gamma,
                beta,
                affine: affine.address(),
                running_mean,
                running_var,
                tracked,
                epsilon: norm.epsilon,
                momentum: norm.momentum,
                rows: rows as i64,
                blocks: blocks as i32,
                pitch: pitch as i32,
                channels: channels as i32,
                moves: moves.into(),
            };
            let finish = Grid { blocks: (pitch / 8, 1), threads: 256, shared: 0 };
            // SAFETY: vectors of `channels` floats, an i64, an affine form of four pitches, and the partials above. The
            // running statistics are this layer's own.
            unsafe { cuda.launch(&MODULE, "batch_norm_finish", finish, &arguments) }?;
        }
        BatchStatistics::Running => {
            let (mean, var) = (running_mean, running_var);
            let arguments = Running {
                gamma,
                beta,
                mean,
                var,
                affine: affine.address(),
                epsilon: norm.epsilon,
                pitch: pitch as i32,
                channels: channels as i32,
            };
            let running = Grid::over(pitch, 128, usize::MAX);
            // SAFETY: vectors of `channels` floats, and an affine form of four pitches.
            unsafe { cuda.launch(&MODULE, "batch_norm_running", running, &arguments) }?;
        }
    }
    let images = cuda.new_images(OPERATION, rows, channels)?;
    let mask = Mask::from(mask);
    let arguments = Apply {
        x: address,
        add: addend.as_ref().map_or(0, |addend| addend.address()),
        y: images.block.address(),
        affine: affine.address(),
        rows: rows as i64,
        mask,
        pitch: pitch as i32,
        channels: channels as i32,
    };
    // SAFETY: x, the addend and y are `rows` rows of `pitch` elements of the activations' type.
    unsafe { cuda.launch_typed(&MODULE, typed!("batch_norm_apply"), grid, &arguments) }?;
    Ok(Activated { images, affine, mask, statistics })
}

/// As [`Backend::backward_normalize`](crate::Backend::backward_normalize); dgamma and dbeta, a pitch each.
pub(crate) fn backward(
    cuda: &Cuda,
    x: &Images,
    activated: &Activated,
    grad: &mut Images,
    add: Option<&Images>,
) -> Result<Arc<Block>> {
    let (rows, pitch, channels) = (x.pixels, x.pitch, x.channels);
    activated.images.check("activated", rows, channels)?;
    grad.check("grad", rows, channels)?;
    add.map_or(Ok(()), |add| add.check("add", rows, channels))?;
    let grid = grid(x);
    let (blocks, _) = grid.blocks;
    let partials = cuda.block(OPERATION, blocks * 2 * pitch, size_of::<f32>())?;
    let sums = cuda.block(OPERATION, 2 * pitch, size_of::<f32>())?;
    let arguments = Backward {
        x: cuda.settled(x)?,
        grad: cuda.settled(grad)?,
        add: add.map_or(Ok(0), |add| cuda.settled(add))?,
        affine: activated.affine.address(),
        partials: partials.address(),
        sums: sums.address(),
        rows: rows as i64,
        mask: activated.mask,
        pitch: pitch as i32,
        channels: channels as i32,
        constant: (activated.statistics == BatchStatistics::Running).into(),
    };
    // SAFETY: x and grad are `rows` rows of `pitch` elements of the activations' type; every block writes its part of the
    // partials.
    unsafe { cuda.launch_typed(&MODULE, typed!("batch_norm_sums"), grid, &arguments) }?;
    let add_up = AddUp {
        partials: partials.address(),
        sums: sums.address(),
        blocks: blocks as i32,
        pitch: pitch as i32,
    };
    let small = Grid { blocks: (2 * pitch / 8, 1), threads: 256, shared: 0 };
    // SAFETY: the partials above, and two pitches of sums.
    unsafe { cuda.launch(&MODULE, "batch_norm_add_up", small, &add_up) }?;
    // SAFETY: as the first; `add` is like grad, and each element of grad is read and then written by one thread.
    unsafe { cuda.launch_typed(&MODULE, typed!("batch_norm_gradient"), grid, &arguments) }?;
    Ok(sums)
}
