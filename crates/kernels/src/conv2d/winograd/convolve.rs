//! `y` and `dx`: transform, 36 matrix products, transform back, in one of two orders.
//!
//! - Where the transformed weight is small and tiles are many, it is made first and whole; tasks then take
//!   blocks of tiles from input to output, whose transformed data stay in the core's own cache.
//! - A large one would have to be read from afar for every block of tiles. There the input is transformed
//!   whole, and tasks take panels of output channels each, which they go through for one chunk of input channels
//!   after the other, transforming the weights between chunk and channels just before their use.
//!
//! Both orders sum in the same order, so they give the same results.

use std::ops::Range;

use super::input::{InputTiles, TransformInput};
use super::output::OutputTiles;
use super::product::{Columns, rows_by_columns};
use super::tiles::Tiles;
use super::weight::{Direction, Weight};
use super::{Activation, Conv2dShape, FREQUENCIES, FrequencyLayout, Panels, TaskPointer};
use crate::Cpu;
use crate::simd::{F32x16, LANES, UncheckedAlgorithm};
use crate::uninit::Uninit;

/// Elements of transformed weight up to which it is made whole.
const WHOLE_WEIGHT: usize = 3 << 19;
/// Elements of transformed input and output that a task keeps in its core's cache.
const TILE_BLOCK: usize = 80 << 10;
/// Tiles whose transformed input is made whole; a larger batch is worked off in parts.
const PART: usize = 128;
/// Blocks of input channels whose weights are transformed at a time.
const CHUNK: usize = 3;
/// Blocks of output channels that are multiplied at a time.
const PAIR: usize = 2;
/// Blocks of output channels of a task, at most: the more, the less often the transformed input is read from afar, as long as their
/// products stay in the core's own cache.
const PANEL: usize = 10;
/// Tasks for each thread, from which on they are made of more than one block of tiles.
const TASKS: usize = 8;
/// Tiles of a task that only transforms.
const TRANSFORM_TILES: usize = 4;

/// `output = conv(input, weight)`.
pub(in crate::conv2d) struct Convolution<'a> {
    input: InputTiles<'a>,
    weight: Weight<'a>,
    output: OutputTiles<'a>,
}

impl<'a> Convolution<'a> {
    /// `y = conv(act(x), w) + add`; see [`conv2d::forward`](crate::conv2d::forward()).
    pub fn forward(
        shape: &Conv2dShape,
        x: &'a [f32],
        activation: Option<Activation<'a>>,
        w: &'a [f32],
        add: Option<&'a [f32]>,
        y: &'a mut Uninit,
    ) -> Self {
        let tiles = Tiles::new(shape);
        Self {
            input: InputTiles::new(tiles, shape.in_channels, x, activation),
            weight: Weight::new(shape, w, Direction::Forward),
            output: OutputTiles::new(tiles, shape.out_channels, add, y),
        }
    }

    /// `dx = add +` the gradient of the input; see [`conv2d::backward_input`](crate::conv2d::backward_input).
    pub fn backward_input(
        shape: &Conv2dShape,
        dy: &'a [f32],
        w: &'a [f32],
        add: Option<&'a [f32]>,
        dx: &'a mut Uninit,
    ) -> Self {
        let tiles = Tiles::new(shape);
        Self {
            input: InputTiles::new(tiles, shape.out_channels, dy, None),
            weight: Weight::new(shape, w, Direction::Backward),
            output: OutputTiles::new(tiles, shape.in_channels, add, dx),
        }
    }

    /// Writes the whole output.
    pub fn run(self, cpu: &Cpu) {
        let Self { input, weight, output } = &self;
        let columns = if output.blocks() > 1 { Columns::Pairs } else { Columns::Single };
        let multiple = columns.rows(cpu.instruction_set());
        let tile_len = FREQUENCIES * (input.blocks() + output.blocks()) * LANES;
        let rows = (TILE_BLOCK / tile_len / multiple).max(1) * multiple;
        let weights = FrequencyLayout { blocks: output.blocks(), rows: input.channels };
        // With fewer blocks of tiles than of channels, there is more to share out in the other order.
        if weights.len() > WHOLE_WEIGHT || input.tiles.count.div_ceil(rows) < output.blocks() {
            by_channels(cpu, input, weight, output);
        } else {
            by_tiles(cpu, input, weight, output, columns, rows);
        }
    }
}

/// The order for small weights, in blocks of `rows` tiles.
fn by_tiles(
    cpu: &Cpu,
    input: &InputTiles,
    weight: &Weight,
    output: &OutputTiles,
    columns: Columns,
    rows: usize,
) {
    let weights = FrequencyLayout { blocks: output.blocks(), rows: input.channels };
    let mut buffer = cpu.buffer(weights.len());
    let u = TaskPointer(buffer.as_mut_ptr());
    cpu.run(output.blocks(), |block| {
        // SAFETY: a block of columns within the buffer, which has the layout, and which no other task writes.
        unsafe {
            let to = u.at(weights.at(block, 0));
            cpu.instruction_set().dispatch_unchecked(TransformWeights { weight, block, to, layout: weights });
        }
    });

    let (v, m) =
        (FrequencyLayout { blocks: input.blocks(), rows }, FrequencyLayout { blocks: output.blocks(), rows });
    let tiles = input.tiles.count;
    // Several blocks in a row let each have the next one's pixels fetched; few enough that threads end
    // together.
    let stretch = rows * (tiles / (rows * TASKS * cpu.threads())).max(1);
    cpu.run(tiles.div_ceil(stretch), |task| {
        let mut scratch = cpu.buffer(v.len() + m.len());
        let (transformed, products) = scratch.split_at_mut(v.len());
        let tiles = task * stretch..tiles.min((task + 1) * stretch);
        let stretch = ConvolveStretch {
            input,
            output,
            columns,
            u: &buffer,
            weights,
            tiles,
            v,
            transformed,
            m,
            products,
        };
        // SAFETY: each buffer is as long as its layout, whose rows are whole register blocks; only this task has the
        // tiles.
        unsafe { cpu.instruction_set().dispatch_unchecked(stretch) };
    });
}

/// Transforms the weights to one block of output channels.
///
/// # Safety
/// `to` is this block's place in memory of this layout, which nobody else reads or writes meanwhile.
struct TransformWeights<'a> {
    weight: &'a Weight<'a>,
    block: usize,
    to: *mut f32,
    layout: FrequencyLayout,
}

impl UncheckedAlgorithm for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let Self { weight, block, to, layout } = self;
        let in_blocks = layout.rows.div_ceil(LANES);
        // SAFETY: the caller's promise.
        unsafe { weight.transform::<V>(0..in_blocks, block, to, layout) }
    }
}

/// A stretch of tiles, block by block from input to output.
///
/// # Safety
/// `u`, `transformed` and `products` are as long as their layouts `weights`, `v` and `m`, the latter two with whole
/// register blocks of rows ([`Columns::rows`]). The tiles are the input's and output's, and nobody else reads or writes
/// the output's meanwhile.
struct ConvolveStretch<'a> {
    input: &'a InputTiles<'a>,
    output: &'a OutputTiles<'a>,
    columns: Columns,
    u: &'a [f32],
    weights: FrequencyLayout,
    tiles: Range<usize>,
    v: FrequencyLayout,
    transformed: &'a mut [f32],
    m: FrequencyLayout,
    products: &'a mut [f32],
}

impl UncheckedAlgorithm for ConvolveStretch<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let Self { input, output, columns, u, weights, tiles, v, transformed, m, products } = self;
        for first in tiles.clone().step_by(v.rows) {
            let block = first..tiles.end.min(first + v.rows);
            // SAFETY: the caller's promise, for a block of its tiles.
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
fn by_channels(cpu: &Cpu, input: &InputTiles, weight: &Weight, output: &OutputTiles) {
    let tiles = input.tiles.count;
    let multiple = Columns::ShortPairs.rows(cpu.instruction_set());
    let parts = tiles.div_ceil(PART);
    let most = tiles.div_ceil(parts.max(1)).max(1).next_multiple_of(multiple);
    for first in (0..tiles).step_by(most) {
        let tiles = first..tiles.min(first + most);
        let rows = tiles.len().next_multiple_of(multiple);
        let v = FrequencyLayout { blocks: input.blocks(), rows };
        let mut buffer = cpu.buffer(v.len());
        let to = TaskPointer(buffer.as_mut_ptr());
        cpu.run(tiles.len().div_ceil(TRANSFORM_TILES), |task| {
            let row = task * TRANSFORM_TILES;
            let tiles = first + row..tiles.end.min(first + row + TRANSFORM_TILES);
            // SAFETY: rows within the buffer, which has the layout, and which no other task writes.
            unsafe {
                let to = to.at(row * LANES);
                cpu.instruction_set().dispatch_unchecked(TransformInput { input, tiles, to, layout: v });
            }
        });
        let panels = Panels::new(output.blocks(), PAIR, PANEL, cpu.threads());
        cpu.run(panels.count, |panel| {
            let blocks = panels.blocks(panel);
            let u = FrequencyLayout { blocks: PAIR, rows: CHUNK.min(v.blocks) * LANES };
            let m = FrequencyLayout { blocks: blocks.len(), rows };
            let mut scratch = cpu.buffer(u.len() + m.len());
            let (weights, products) = scratch.split_at_mut(u.len());
            let tiles = tiles.clone();
            let transformed = &buffer;
            let panel = ChannelPanel {
                input,
                weight,
                output,
                blocks,
                tiles,
                v,
                transformed,
                u,
                weights,
                m,
                products,
            };
            // SAFETY: each buffer is as long as its layout, and `v` and `m` have whole register blocks of rows; only
            // this task has these channels.
            unsafe { cpu.instruction_set().dispatch_unchecked(panel) };
        });
    }
}

/// A panel of output channels, from weight to output.
///
/// # Safety
/// `transformed`, `weights` and `products` are as long as their layouts `v`, `u` and `m`, the first and last with whole
/// register blocks of rows ([`Columns::rows`]). Tiles and blocks are the output's, and nobody else reads or writes these
/// meanwhile.
struct ChannelPanel<'a> {
    input: &'a InputTiles<'a>,
    weight: &'a Weight<'a>,
    output: &'a OutputTiles<'a>,
    /// Of output channels.
    blocks: Range<usize>,
    tiles: Range<usize>,
    v: FrequencyLayout,
    transformed: &'a [f32],
    /// A pair of blocks, with rows for a chunk of input channels.
    u: FrequencyLayout,
    weights: &'a mut [f32],
    m: FrequencyLayout,
    products: &'a mut [f32],
}

impl UncheckedAlgorithm for ChannelPanel<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let Self { input, weight, output, blocks, tiles, v, transformed, u, weights, m, products } = self;
        let chunk = u.rows / LANES;
        for first in (0..v.blocks).step_by(chunk) {
            let chunk = first..v.blocks.min(first + chunk);
            let depth = (input.channels - first * LANES).min(u.rows);
            for pair in blocks.clone().step_by(PAIR) {
                let pair = pair..blocks.end.min(pair + PAIR);
                for (column, block) in pair.clone().enumerate() {
                    // SAFETY: the caller's promise; `u` has a column for each of a pair and rows for a chunk.
                    unsafe {
                        let to = weights.as_mut_ptr().add(u.at(column, 0));
                        weight.transform::<V>(chunk.clone(), block, to, u);
                    }
                }
                // The weights that come next: of the next pair, or of the first pair and the next chunk.
                let next = match pair.end < blocks.end {
                    true => (chunk.clone(), pair.end..blocks.end.min(pair.end + PAIR)),
                    false => {
                        let next = chunk.end..v.blocks.min(chunk.end + chunk.len());
                        (next, blocks.start..blocks.end.min(blocks.start + PAIR))
                    }
                };
                for frequency in 0..FREQUENCIES {
                    weight.prefetch(next.clone(), frequency);
                    // SAFETY: the caller's promise.
                    unsafe {
                        let v = v.matrix(transformed.as_ptr(), frequency, chunk.start, 0);
                        let u = u.matrix(weights.as_ptr(), frequency, 0, 0);
                        let m = m.matrix_mut(products.as_mut_ptr(), frequency, pair.start - blocks.start, 0);
                        let size = (tiles.len(), depth, pair.len());
                        rows_by_columns::<V>(size, Columns::ShortPairs, v, u, m, first > 0);
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { output.transform_tiles::<V>(tiles, blocks, products.as_ptr(), m) };
        output.finish();
    }
}
