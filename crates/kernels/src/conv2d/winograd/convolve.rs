//! `y` and `dx`: transform, 36 matrix products, transform back, in one of two orders.
//!
//! - While the transformed weight is small, it is made first and whole; tasks then take blocks of tiles from
//!   input to output, whose transformed data stay in the core's own cache.
//! - A large one would have to be read from afar for every block of tiles. There the input is transformed whole,
//!   and tasks take sixteen output channels each, transforming these channels' weights just before their use.

use super::image::{Input, Output};
use super::product::{Blocks, Columns, rows_by_columns};
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
/// Tiles of a task that only transforms.
const TRANSFORM_TILES: usize = 4;

/// `output = conv(input, weight)`.
pub(super) fn convolve(ctx: &Context, input: &Input, weight: &Weight, output: &Output) {
    let weights = Layout { blocks: output.blocks(), rows: input.channels };
    if weights.len() <= WHOLE_WEIGHT {
        by_tiles(ctx, input, weight, output, weights);
    } else {
        by_channels(ctx, input, weight, output);
    }
}

/// The order for small weights.
fn by_tiles(ctx: &Context, input: &Input, weight: &Weight, output: &Output, weights: Layout) {
    let mut buffer = ctx.buffer(weights.len());
    let u = Shared(buffer.as_mut_ptr());
    ctx.run(output.blocks(), |out_block, _| {
        ctx.instruction_set().dispatch(TransformWeights { weight, blocks: (0, input.blocks()), out_block, u, weights });
    });

    let columns = if output.blocks() > 1 { Columns::Pairs } else { Columns::Single };
    let multiple = columns.rows(ctx.instruction_set());
    let tile_len = FREQUENCIES * (input.blocks() + output.blocks()) * LANES;
    let rows = (TILE_BLOCK / tile_len / multiple).max(1) * multiple;
    let (v, m) = (Layout { blocks: input.blocks(), rows }, Layout { blocks: output.blocks(), rows });
    let tiles = input.tiles.count;
    ctx.run(tiles.div_ceil(rows), |task, _| {
        let mut scratch = ctx.buffer(v.len() + m.len());
        let (transformed, products) = scratch.split_at_mut(v.len());
        let tiles = task * rows..tiles.min((task + 1) * rows);
        let block = TileBlock { input, output, columns, u: &buffer, weights, tiles, v, transformed, m, products };
        ctx.instruction_set().dispatch(block);
    });
}

/// Transforms the weights from some blocks of input channels to one block of output channels.
struct TransformWeights<'a> {
    weight: &'a Weight<'a>,
    blocks: (usize, usize),
    out_block: usize,
    u: Shared,
    weights: Layout,
}

impl Algorithm for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { weight, blocks, out_block, u, weights } = self;
        for block in blocks.0..blocks.1 {
            // SAFETY: rows within `u`, which has the layout `weights`; no other task writes this block of columns.
            unsafe {
                let to = u.at(weights.at(out_block, block * LANES));
                weight.transform::<V>(block, out_block, to, weights.frequency());
            }
        }
    }
}

/// A block of tiles, from input to output.
struct TileBlock<'a> {
    input: &'a Input<'a>,
    output: &'a Output<'a>,
    columns: Columns,
    u: &'a [f32],
    weights: Layout,
    tiles: std::ops::Range<usize>,
    v: Layout,
    transformed: &'a mut [f32],
    m: Layout,
    products: &'a mut [f32],
}

impl Algorithm for TileBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { input, output, columns, u, weights, tiles, v, transformed, m, products } = self;
        for (row, tile) in tiles.clone().enumerate() {
            for block in 0..v.blocks {
                // SAFETY: a row of `transformed`, which has the layout `v`.
                unsafe {
                    let to = transformed.as_mut_ptr().add(v.at(block, row));
                    input.prefetch(tile + if v.blocks < 4 { 4 / v.blocks } else { 1 }, block);
                    input.transform_patch::<V>(tile, block, to, v.frequency(), LANES);
                }
            }
        }
        for frequency in 0..FREQUENCIES {
            // SAFETY: a frequency of each operand, in its layout; `v` and `m` have whole register blocks of rows.
            unsafe {
                let size = (tiles.len(), input.channels, m.blocks);
                let v = Blocks { start: transformed.as_ptr().add(frequency * v.frequency()), stride: v.block() };
                let u = Blocks { start: u.as_ptr().add(frequency * weights.frequency()), stride: weights.block() };
                let m = Blocks { start: products.as_mut_ptr().add(frequency * m.frequency()), stride: m.block() };
                rows_by_columns::<V>(size, columns, v, u, m, false);
            }
        }
        for (row, tile) in tiles.enumerate() {
            for block in 0..m.blocks {
                // SAFETY: a row of `products`, which has the layout `m`; the tile is this task's alone.
                unsafe {
                    let from = products.as_ptr().add(m.at(block, row));
                    output.transform::<V>(tile, block, from, m.frequency());
                }
            }
        }
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
            let rows = task * TRANSFORM_TILES..tiles.len().min((task + 1) * TRANSFORM_TILES);
            ctx.instruction_set().dispatch(TransformInput { input, first, rows, to, v });
        });
        let u = Layout { blocks: 1, rows: CHUNK * LANES };
        let m = Layout { blocks: 1, rows };
        ctx.run(output.blocks(), |block, _| {
            let mut scratch = ctx.buffer(u.len() + m.len());
            let (weights, products) = scratch.split_at_mut(u.len());
            let tiles = tiles.clone();
            let panel = ChannelBlock {
                input, weight, output, block, tiles, v, transformed: &buffer, u, weights, m, products,
            };
            ctx.instruction_set().dispatch(panel);
        });
    }
}

/// Transforms all channels of some tiles.
pub(super) struct TransformInput<'a> {
    pub input: &'a Input<'a>,
    /// The tile of row 0.
    pub first: usize,
    pub rows: std::ops::Range<usize>,
    pub to: Shared,
    pub v: Layout,
}

impl Algorithm for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { input, first, rows, to, v } = self;
        for row in rows {
            for block in 0..v.blocks {
                // SAFETY: a row of `to`, which has the layout `v`; no other task writes it.
                input.prefetch(first + row + 1, block);
                unsafe { input.transform_patch::<V>(first + row, block, to.at(v.at(block, row)), v.frequency(), LANES) }
            }
        }
    }
}

/// A block of output channels, from weight to output.
struct ChannelBlock<'a> {
    input: &'a Input<'a>,
    weight: &'a Weight<'a>,
    output: &'a Output<'a>,
    block: usize,
    tiles: std::ops::Range<usize>,
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
            for from in first..last {
                // SAFETY: rows of `weights`, which has the layout `u`.
                unsafe {
                    let to = weights.as_mut_ptr().add(u.at(0, (from - first) * LANES));
                    weight.transform::<V>(from, block, to, u.frequency());
                }
            }
            let depth = (input.channels - first * LANES).min(CHUNK * LANES);
            for frequency in 0..FREQUENCIES {
                // SAFETY: a frequency of each operand, in its layout; `v` and `m` have whole register blocks of rows.
                unsafe {
                    let v_start = transformed.as_ptr().add(frequency * v.frequency() + v.at(first, 0));
                    let v = Blocks { start: v_start, stride: v.block() };
                    let u = Blocks { start: weights.as_ptr().add(frequency * u.frequency()), stride: u.block() };
                    let m = Blocks { start: products.as_mut_ptr().add(frequency * m.frequency()), stride: m.block() };
                    rows_by_columns::<V>((tiles.len(), depth, 1), Columns::Single, v, u, m, first > 0);
                }
            }
        }
        for (row, tile) in tiles.enumerate() {
            // SAFETY: a row of `products`, which has the layout `m`; these channels are this task's alone.
            unsafe {
                let from = products.as_ptr().add(m.at(0, row));
                output.transform::<V>(tile, block, from, m.frequency());
            }
        }
    }
}
