//! `y` and `dx`: transform, 36 matrix products, transform back, in one of two orders.
//!
//! - Where the transformed weight is small and tiles are many, it is made first and whole; tasks then take
//!   blocks of tiles from input to output, whose transformed data stay in the core's own cache.
//! - A large one would have to be read from afar for every block of tiles. There the input is transformed
//!   whole, and tasks take sixteen output channels each, transforming these channels' weights just before
//!   their use.
//!
//! Both orders sum in the same order, so they give the same results.

use std::ops::Range;

use super::image::{Input, Output, TransformInput};
use super::product::{Columns, rows_by_columns};
use super::weight::Weight;
use super::{FREQUENCIES, Layout, Shared};
use crate::Context;
use crate::simd::{Algorithm, F32x16, LANES};

/// Elements of transformed weight up to which it is made whole.
const WHOLE_WEIGHT: usize = 3 << 19;
/// Elements of transformed input and output that a task keeps in its core's cache.
const TILE_BLOCK: usize = 80 << 10;
/// Elements of the whole transformed input; a larger batch is worked off in parts.
const WHOLE_INPUT: usize = 4 << 20;
/// Blocks of input channels whose weights are transformed at a time.
const CHUNK: usize = 10;
/// Tasks for each thread, from which on they are made of more than one block of tiles.
const TASKS: usize = 8;
/// Tiles of a task that only transforms.
const TRANSFORM_TILES: usize = 4;

/// `output = conv(input, weight)`.
pub(super) fn convolve(ctx: &Context, input: &Input, weight: &Weight, output: &Output) {
    let columns = if output.blocks() > 1 { Columns::Pairs } else { Columns::Single };
    let multiple = columns.rows(ctx.instruction_set());
    let tile_len = FREQUENCIES * (input.blocks() + output.blocks()) * LANES;
    let rows = (TILE_BLOCK / tile_len / multiple).max(1) * multiple;
    let weights = Layout { blocks: output.blocks(), rows: input.channels };
    // With fewer blocks of tiles than of channels, there is more to share out in the other order.
    if weights.len() > WHOLE_WEIGHT || input.tiles.count.div_ceil(rows) < output.blocks() {
        by_channels(ctx, input, weight, output);
    } else {
        by_tiles(ctx, input, weight, output, columns, rows);
    }
}

/// The order for small weights, in blocks of `rows` tiles.
fn by_tiles(ctx: &Context, input: &Input, weight: &Weight, output: &Output, columns: Columns, rows: usize) {
    let weights = Layout { blocks: output.blocks(), rows: input.channels };
    let mut buffer = ctx.buffer(weights.len());
    let u = Shared(buffer.as_mut_ptr());
    ctx.run(output.blocks(), |block, _| {
        // SAFETY: a block of columns within the buffer.
        let to = unsafe { u.at(weights.at(block, 0)) };
        ctx.instruction_set().dispatch(TransformWeights { weight, block, to, layout: weights });
    });

    let (v, m) = (Layout { blocks: input.blocks(), rows }, Layout { blocks: output.blocks(), rows });
    let tiles = input.tiles.count;
    // Several blocks in a row let each have the next one's pixels fetched; few enough that threads end
    // together.
    let stretch = rows * (tiles / (rows * TASKS * ctx.threads())).max(1);
    ctx.run(tiles.div_ceil(stretch), |task, _| {
        let mut scratch = ctx.buffer(v.len() + m.len());
        let (transformed, products) = scratch.split_at_mut(v.len());
        let tiles = task * stretch..tiles.min((task + 1) * stretch);
        let stretch =
            TileStretch { input, output, columns, u: &buffer, weights, tiles, v, transformed, m, products };
        ctx.instruction_set().dispatch(stretch);
    });
}

/// Transforms the weights to one block of output channels.
struct TransformWeights<'a> {
    weight: &'a Weight<'a>,
    block: usize,
    to: *mut f32,
    layout: Layout,
}

impl Algorithm for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { weight, block, to, layout } = self;
        let in_blocks = layout.rows.div_ceil(LANES);
        // SAFETY: a block of columns of a buffer with this layout, which no other task writes.
        unsafe { weight.transform::<V>(0..in_blocks, block, to, layout) }
    }
}

/// A stretch of tiles, block by block from input to output.
struct TileStretch<'a> {
    input: &'a Input<'a>,
    output: &'a Output<'a>,
    columns: Columns,
    u: &'a [f32],
    weights: Layout,
    tiles: Range<usize>,
    v: Layout,
    transformed: &'a mut [f32],
    m: Layout,
    products: &'a mut [f32],
}

impl Algorithm for TileStretch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { input, output, columns, u, weights, tiles, v, transformed, m, products } = self;
        for first in tiles.clone().step_by(v.rows) {
            let block = first..tiles.end.min(first + v.rows);
            // SAFETY: `u`, `transformed` and `products` have the layouts `weights`, `v` and `m`, the latter
            // two with whole register blocks of rows; the tiles are this task's alone.
            unsafe {
                input.transform_patches::<V>(block.clone(), transformed.as_mut_ptr(), v);
                let next = block.end..tiles.end.min(block.end + v.rows);
                for frequency in 0..FREQUENCIES {
                    input.prefetch(next.clone(), frequency);
                    output.prefetch(block.clone(), frequency);
                    let size = (block.len(), input.channels, m.blocks);
                    let v = v.matrix(transformed.as_ptr(), frequency, 0, 0);
                    let u = weights.matrix(u.as_ptr(), frequency, 0, 0);
                    let m = m.matrix_mut(products.as_mut_ptr(), frequency, 0, 0);
                    rows_by_columns::<V>(size, columns, v, u, m, false);
                }
                output.transform_tiles::<V>(block, 0..m.blocks, products.as_ptr(), m);
            }
        }
        output.finish();
    }
}

/// The order for large weights.
fn by_channels(ctx: &Context, input: &Input, weight: &Weight, output: &Output) {
    let multiple = Columns::Single.rows(ctx.instruction_set());
    let most = (WHOLE_INPUT / (FREQUENCIES * input.blocks() * LANES) / multiple).max(1) * multiple;
    let tiles = input.tiles.count;
    for first in (0..tiles).step_by(most) {
        let tiles = first..tiles.min(first + most);
        let rows = tiles.len().next_multiple_of(multiple);
        let v = Layout { blocks: input.blocks(), rows };
        let mut buffer = ctx.buffer(v.len());
        let to = Shared(buffer.as_mut_ptr());
        ctx.run(tiles.len().div_ceil(TRANSFORM_TILES), |task, _| {
            let row = task * TRANSFORM_TILES;
            let tiles = first + row..tiles.end.min(first + row + TRANSFORM_TILES);
            // SAFETY: a row within the buffer.
            let to = unsafe { to.at(row * LANES) };
            ctx.instruction_set().dispatch(TransformInput { input, tiles, to, layout: v });
        });
        let u = Layout { blocks: 1, rows: CHUNK * LANES };
        let m = Layout { blocks: 1, rows };
        ctx.run(output.blocks(), |block, _| {
            let mut scratch = ctx.buffer(u.len() + m.len());
            let (weights, products) = scratch.split_at_mut(u.len());
            let tiles = tiles.clone();
            let panel = ChannelBlock {
                input,
                weight,
                output,
                block,
                tiles,
                v,
                transformed: &buffer,
                u,
                weights,
                m,
                products,
            };
            ctx.instruction_set().dispatch(panel);
        });
    }
}

/// A block of output channels, from weight to output.
struct ChannelBlock<'a> {
    input: &'a Input<'a>,
    weight: &'a Weight<'a>,
    output: &'a Output<'a>,
    block: usize,
    tiles: Range<usize>,
    v: Layout,
    transformed: &'a [f32],
    u: Layout,
    weights: &'a mut [f32],
    m: Layout,
    products: &'a mut [f32],
}

impl Algorithm for ChannelBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { input, weight, output, block, tiles, v, transformed, u, weights, m, products } = self;
        for first in (0..v.blocks).step_by(CHUNK) {
            let last = v.blocks.min(first + CHUNK);
            // SAFETY: `weights` has the layout `u`, with rows for a chunk.
            unsafe { weight.transform::<V>(first..last, block, weights.as_mut_ptr(), u) };
            let depth = (input.channels - first * LANES).min(CHUNK * LANES);
            for frequency in 0..FREQUENCIES {
                // SAFETY: the operands have these layouts, `v` and `m` with whole register blocks of rows.
                unsafe {
                    let v = v.matrix(transformed.as_ptr(), frequency, first, 0);
                    let u = u.matrix(weights.as_ptr(), frequency, 0, 0);
                    let m = m.matrix_mut(products.as_mut_ptr(), frequency, 0, 0);
                    rows_by_columns::<V>((tiles.len(), depth, 1), Columns::Single, v, u, m, first > 0);
                }
            }
        }
        // SAFETY: `products` has the layout `m`; these channels are this task's alone.
        unsafe { output.transform_tiles::<V>(tiles, block..block + 1, products.as_ptr(), m) };
        output.finish();
    }
}
