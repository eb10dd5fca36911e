//! The linear layer on CUDA: `cuda.cu` has the kernels.

use std::sync::Arc;

use super::LinearShape;
use super::cuda_args::{Product, Sums};
use crate::Result;
use crate::cuda::{Block, Cuda, Grid, Module, module};

const MODULE: Module = module!("linear");
const OPERATION: &str = "linear";

/// The product of two operands, each with its strides; see [`Product::new`].
fn product(
    cuda: &Cuda,
    size: [usize; 3],
    a: (u64, [usize; 2]),
    b: (u64, [usize; 2]),
    bias: u64,
) -> Result<Arc<Block>> {
    let y = cuda.block(OPERATION, size[0] * size[1], size_of::<f32>())?;
    let arguments = Product::new(size, a, b, bias, y.address());
    let grid = Grid { blocks: Product::blocks(size), threads: Product::TILE * Product::TILE, shared: 0 };
    // SAFETY: the callers' operands are as long as their strides and the three sizes reach.
    unsafe { cuda.launch(&MODULE, "linear_product", grid, &arguments) }?;
    Ok(y)
}

/// `x w^T + b`; addresses of `w` and `b` of the shape.
pub(crate) fn forward(cuda: &Cuda, shape: &LinearShape, x: &Block, w: u64, b: u64) -> Result<Arc<Block>> {
    let LinearShape { batch, inputs, outputs } = *shape;
    product(cuda, [batch, outputs, inputs], (x.address(), [inputs, 1]), (w, [inputs, 1]), b)
}

/// dx, dw and db.
pub(crate) fn backward(
    cuda: &Cuda,
    shape: &LinearShape,
    x: &Block,
    w: u64,
    dy: &Block,
) -> Result<[Arc<Block>; 3]> {
    let LinearShape { batch, inputs, outputs } = *shape;
    let (x, dy) = (x.address(), dy.address());
    let dx = product(cuda, [batch, inputs, outputs], (dy, [outputs, 1]), (w, [1, inputs]), 0)?;
    let dw = product(cuda, [outputs, inputs, batch], (dy, [1, outputs]), (x, [1, inputs]), 0)?;
    let db = cuda.block(OPERATION, outputs, size_of::<f32>())?;
    let arguments = Sums { x: dy, sums: db.address(), rows: batch as i32, columns: outputs as i32 };
    // SAFETY: `batch` rows of `outputs` floats, and as many sums.
    unsafe { cuda.launch(&MODULE, "linear_sums", Grid::over(outputs, 32, usize::MAX), &arguments) }?;
    Ok([dx, dw, db])
}
