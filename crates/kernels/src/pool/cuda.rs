//! Average pooling on CUDA: `cuda.cu` has the kernels.

use std::sync::Arc;

use super::PoolShape;
use super::cuda_args::Pool;
use crate::Result;
use crate::cuda::{Block, Cuda, Grid, Images, Module, module, typed};
use crate::cuda_args::pitch;

const MODULE: Module = module!("pool");
const OPERATION: &str = "pool";

fn arguments(shape: &PoolShape, images: &Images, features: &Block) -> Pool {
    Pool {
        images: images.block.address(),
        features: features.address(),
        batch: shape.batch as i32,
        height: shape.height as i32,
        width: shape.width as i32,
        window: shape.window as i32,
        channels: shape.channels as i32,
        pitch: pitch(shape.channels) as i32,
    }
}

fn pixels(shape: &PoolShape) -> usize {
    shape.batch * shape.height * shape.width
}

pub(crate) fn forward(cuda: &Cuda, shape: &PoolShape, x: &Images) -> Result<Arc<Block>> {
    x.check("x", pixels(shape), shape.channels)?;
    cuda.settled(x)?;
    let y = cuda.block(OPERATION, shape.output_len(), size_of::<f32>())?;
    let threads = shape.output_len() / shape.channels * x.pitch / 8;
    let grid = Grid::over(threads, 128, 4096);
    // SAFETY: images and features of the shape, whose lengths do not overflow.
    unsafe { cuda.launch_typed(&MODULE, typed!("pool_forward"), grid, &arguments(shape, x, &y)) }?;
    Ok(y)
}

pub(crate) fn backward(cuda: &Cuda, shape: &PoolShape, dy: &Block) -> Result<Images> {
    let dx = cuda.new_images(OPERATION, pixels(shape), shape.channels)?;
    let grid = Grid::over(dx.pixels * dx.pitch / 8, 256, 4096);
    // SAFETY: images and features of the shape, whose lengths do not overflow.
    unsafe { cuda.launch_typed(&MODULE, typed!("pool_backward"), grid, &arguments(shape, &dx, dy)) }?;
    Ok(dx)
}
