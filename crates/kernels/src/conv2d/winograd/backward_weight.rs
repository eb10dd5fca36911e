//! `dw`: for each frequency a matrix of input by output channels, summed over tiles, in one of two orders.
//!
//! - Where these matrices are smaller than the transformed input and gradient, tasks take stretches of tiles,
//!   transform a few at a time and add their products to sums of their own; these parts, whose number
//!   depends on the shape alone, are added up in the transform back.
//! - Otherwise input and gradient are transformed whole, and tasks take panels of channels, in squares whose sums
//!   stay in the core's own cache until they are transformed back.

use std::ops::Range;

use super::input::{InputTiles, TransformInput};
use super::product::lanes_by_columns;
use super::weight::WeightGradient;
use super::{FREQUENCIES, FrequencyLayout, Panels, TaskPointer};
use crate::Cpu;
use crate::simd::{F32x16, LANES, UncheckedAlgorithm};

/// Elements of the parts' sums together, where there are more than two parts.
const PARTS_LEN: usize = 2 << 20;
/// Parts at most.
const PARTS: usize = 4;
/// Elements of transformed input and gradient that a task keeps in its core's cache.
const TILE_BLOCK: usize = 40 << 10;
/// Tiles that are summed before the next frequency's sums are begun.
const DEPTH: usize = 64;
/// Blocks of input and of output channels in a square, whose sums stay in the core's own cache.
const SQUARE: usize = 2;
/// The same where tiles are more than one depth, so that a square's sums are met again.
const LARGE_SQUARE: usize = 4;
/// Blocks of input and of output channels that a task works off square by square, where one depth is all and so
/// their tiles stay in the core's own cache.
const PANEL: usize = 8;
/// Tiles of a task that only transforms.
const TRANSFORM_TILES: usize = 4;

/// `dw`, with `input` the convolution's and `gradient` that of its output.
pub(super) fn backward_weight(cpu: &Cpu, input: &InputTiles, gradient: &InputTiles, dw: &WeightGradient) {
    let tiles = input.tiles.count;
    let sums = FrequencyLayout { blocks: gradient.blocks(), rows: input.blocks() * LANES };
    let v = FrequencyLayout { blocks: input.blocks(), rows: tiles };
    let z = FrequencyLayout { blocks: gradient.blocks(), rows: tiles };
    if 2 * sums.len() <= v.len() + z.len() {
        by_tiles(cpu, input, gradient, dw, sums);
    } else {
        by_channels(cpu, input, gradient, dw, v, z);
    }
}

/// The order for few channels and many tiles.
fn by_tiles(
    cpu: &Cpu,
    input: &InputTiles,
    gradient: &InputTiles,
    dw: &WeightGradient,
    sums: FrequencyLayout,
) {
    let tiles = input.tiles.count;
    let rows = (TILE_BLOCK / (FREQUENCIES * (input.blocks() + gradient.blocks()) * LANES)).clamp(1, tiles);
    let rows = rows.next_multiple_of(LANES);
    let parts = (PARTS_LEN / sums.len() / 2 * 2).clamp(2, PARTS);
    let stretch = tiles.div_ceil(parts).next_multiple_of(rows);
    let parts = tiles.div_ceil(stretch);
    // Of more threads than parts, several share a part's output channels. That changes no result.
    let columns = gradient.blocks().div_ceil(cpu.threads().div_ceil(parts));
    let groups = gradient.blocks().div_ceil(columns);

    let mut buffer = cpu.buffer(parts * sums.len());
    let to = TaskPointer(buffer.as_mut_ptr());
    cpu.run(parts * groups, |task| {
        let (part, group) = (task / groups, task % groups);
        let columns = group * columns..gradient.blocks().min((group + 1) * columns);
        let v = FrequencyLayout { blocks: input.blocks(), rows };
        let z = FrequencyLayout { blocks: columns.len(), rows };
        let mut scratch = cpu.buffer(v.len() + z.len());
        let (inputs, gradients) = scratch.split_at_mut(v.len());
        let tiles = part * stretch..tiles.min((part + 1) * stretch);
        // SAFETY: the scratch is as long as both layouts; `to` is a block within one part of the buffer, and only
        // this task has these columns of this part.
        unsafe {
            let to = to.at(part * sums.len() + sums.at(columns.start, 0));
            let stretch =
                WeightStretch { input, gradient, tiles, v, inputs, z, gradients, columns, to, sums };
            cpu.instruction_set().dispatch_unchecked(stretch);
        }
    });
    cpu.run(sums.blocks, |out_block| {
        // SAFETY: a block within the buffer, which holds `parts` of the layout; only this task has these output channels.
        unsafe {
            let from = to.at(sums.at(out_block, 0));
            cpu.instruction_set().dispatch_unchecked(TransformBack { dw, out_block, from, sums, parts });
        }
    });
}

/// Adds up the products of a stretch of tiles.
///
/// # Safety
/// `inputs` and `gradients` are as long as their layouts `v` and `z`, which have as many rows; `to` is the place of the
/// first of the columns in memory of the layout `sums`, of which nobody else reads or writes these columns meanwhile.
/// The tiles and columns are those of the input and gradient.
struct WeightStretch<'a> {
    input: &'a InputTiles<'a>,
    gradient: &'a InputTiles<'a>,
    tiles: Range<usize>,
    v: FrequencyLayout,
    inputs: &'a mut [f32],
    z: FrequencyLayout,
    gradients: &'a mut [f32],
    /// Blocks of output channels.
    columns: Range<usize>,
    /// The sums of the first of them.
    to: *mut f32,
    sums: FrequencyLayout,
}

impl UncheckedAlgorithm for WeightStretch<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let Self { input, gradient, tiles, v, inputs, z, gradients, columns, to, sums } = self;
        for first in tiles.clone().step_by(v.rows) {
            let block = first..tiles.end.min(first + v.rows);
            // SAFETY: the caller's promise, for a block of its tiles.
            unsafe {
                input.transform_patches::<V>(block.clone(), inputs.as_mut_ptr(), v);
                gradient.transform_gradients::<V>(block.clone(), columns.clone(), gradients.as_mut_ptr(), z);
                let next = block.end..tiles.end.min(block.end + v.rows);
                for frequency in 0..FREQUENCIES {
                    input.prefetch(next.clone(), frequency);
                    gradient.prefetch(next.clone(), frequency);
                    let v = v.matrix(inputs.as_ptr(), frequency, 0, 0);
                    let z = z.matrix(gradients.as_ptr(), frequency, 0, 0);
                    let u = sums.matrix_mut(to, frequency, 0, 0);
                    let size = (sums.rows / LANES, columns.len());
                    lanes_by_columns::<V>(size, block.len(), v, z, u, first > tiles.start);
                }
            }
        }
    }
}

/// Transforms the sum of all parts back, for one block of output channels.
///
/// # Safety
/// `from` is this block's place in the first of `parts` of the layout `sums`, which follow each other and which nobody
/// writes meanwhile; nobody else reads or writes the gradient of these output channels.
struct TransformBack<'a> {
    dw: &'a WeightGradient<'a>,
    out_block: usize,
    from: *const f32,
    sums: FrequencyLayout,
    parts: usize,
}

impl UncheckedAlgorithm for TransformBack<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let Self { dw, out_block, from, sums, parts } = self;
        let in_blocks = 0..sums.rows / LANES;
        // SAFETY: the caller's promise.
        unsafe { dw.transform::<V>(in_blocks, out_block, from, sums, parts) };
        dw.finish();
    }
}

/// The order for many channels and few tiles.
fn by_channels(
    cpu: &Cpu,
    input: &InputTiles,
    gradient: &InputTiles,
    dw: &WeightGradient,
    v: FrequencyLayout,
    z: FrequencyLayout,
) {
    let tiles = input.tiles.count;
    let mut inputs = cpu.buffer(v.len());
    let mut gradients = cpu.buffer(z.len());
    let (to_v, to_z) = (TaskPointer(inputs.as_mut_ptr()), TaskPointer(gradients.as_mut_ptr()));
    cpu.run(tiles.div_ceil(TRANSFORM_TILES), |task| {
        let tiles = task * TRANSFORM_TILES..tiles.min((task + 1) * TRANSFORM_TILES);
        // SAFETY: rows within the buffers, which have these layouts, and which no other task writes.
        unsafe {
            let (to, tiles_of_input) = (to_v.at(tiles.start * LANES), tiles.clone());
            let input = TransformInput { input, tiles: tiles_of_input, to, layout: v };
            cpu.instruction_set().dispatch_unchecked(input);
            let gradient = TransformGradient { gradient, to: to_z.at(tiles.start * LANES), tiles, layout: z };
            cpu.instruction_set().dispatch_unchecked(gradient);
        }
    });
    let (square, panel) = if tiles <= DEPTH { (SQUARE, PANEL) } else { (LARGE_SQUARE, LARGE_SQUARE) };
    let sums = FrequencyLayout { blocks: square, rows: square * LANES };
    let down = Panels::new(v.blocks, square, panel, 1);
    let across = Panels::new(z.blocks, square, panel, cpu.threads());
    cpu.run(down.count * across.count, |task| {
        let panel = WeightPanel {
            dw,
            in_blocks: down.blocks(task / across.count),
            out_blocks: across.blocks(task % across.count),
            v,
            inputs: &inputs,
            z,
            gradients: &gradients,
            sums,
            scratch: &mut cpu.buffer(sums.len()),
        };
        // SAFETY: each buffer is as long as its layout; no two panels share a pair of input and output channels.
        unsafe { cpu.instruction_set().dispatch_unchecked(panel) };
    });
}

/// Transforms all channels of some tiles' gradients.
///
/// # Safety
/// As [`InputTiles::transform_gradients`].
struct TransformGradient<'a> {
    gradient: &'a InputTiles<'a>,
    tiles: Range<usize>,
    to: *mut f32,
    layout: FrequencyLayout,
}

impl UncheckedAlgorithm for TransformGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let Self { gradient, tiles, to, layout } = self;
        // SAFETY: the caller's promise.
        unsafe { gradient.transform_gradients::<V>(tiles, 0..layout.blocks, to, layout) }
    }
}

/// The gradient of the weights from a panel of input channels to a panel of output channels, square by square.
///
/// # Safety
/// `inputs`, `gradients` and `scratch` are as long as their layouts `v`, `z` and `sums`, the first two with as many rows.
/// The blocks are the weight's, and nobody else reads or writes its gradient there meanwhile.
struct WeightPanel<'a> {
    dw: &'a WeightGradient<'a>,
    in_blocks: Range<usize>,
    out_blocks: Range<usize>,
    v: FrequencyLayout,
    inputs: &'a [f32],
    z: FrequencyLayout,
    gradients: &'a [f32],
    /// Of one square.
    sums: FrequencyLayout,
    scratch: &'a mut [f32],
}

impl UncheckedAlgorithm for WeightPanel<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let Self { dw, in_blocks, out_blocks, v, inputs, z, gradients, sums, scratch } = self;
        let square = sums.blocks;
        for out_first in out_blocks.clone().step_by(square) {
            let out_blocks = out_first..out_blocks.end.min(out_first + square);
            for in_first in in_blocks.clone().step_by(square) {
                let in_blocks = in_first..in_blocks.end.min(in_first + square);
                let size = (in_blocks.len(), out_blocks.len());
                for first in (0..v.rows).step_by(DEPTH) {
                    let depth = DEPTH.min(v.rows - first);
                    for frequency in 0..FREQUENCIES {
                        // SAFETY: the caller's promise.
                        unsafe {
                            let v = v.matrix(inputs.as_ptr(), frequency, in_first, first);
                            let z = z.matrix(gradients.as_ptr(), frequency, out_first, first);
                            let u = sums.matrix_mut(scratch.as_mut_ptr(), frequency, 0, 0);
                            lanes_by_columns::<V>(size, depth, v, z, u, first > 0);
                        }
                    }
                }
                for (column, out_block) in out_blocks.clone().enumerate() {
                    // SAFETY: a block of `scratch`; the rest is the caller's promise.
                    unsafe {
                        let from = scratch.as_ptr().add(sums.at(column, 0));
                        dw.transform::<V>(in_blocks.clone(), out_block, from, sums, 1);
                    }
                }
            }
        }
        dw.finish();
    }
}
