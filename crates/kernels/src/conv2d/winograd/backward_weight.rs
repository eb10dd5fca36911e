//! `dw`: for each frequency a matrix of input by output channels, summed over tiles.
//!
//! - While that matrix is small, tasks take stretches of tiles, transform block after block of them and add their
//!   products to a matrix of their own; these parts, whose number depends on the shape alone, are added up in the
//!   transform back.
//! - Otherwise input and gradient are transformed whole, and tasks take blocks of channels, whose sums stay in the
//!   core's own cache until they are transformed back.

use std::ops::Range;

use super::convolve::TransformInput;
use super::image::Input;
use super::product::{Blocks, lanes_by_columns};
use super::weight::WeightGradient;
use super::{FREQUENCIES, Layout, Shared};
use crate::Context;
use crate::simd::{Algorithm, F32x16, LANES};

pub(super) fn backward_weight(ctx: &Context, input: &Input, gradient: &Input, dw: &mut [f32]) {
    if input.tiles.count == 0 {
        return dw.fill(0.0);
    }
    let sums = Layout { blocks: gradient.blocks(), rows: input.blocks() * LANES };
    let dw = WeightGradient::new(gradient.channels, input.channels, dw);
    let mode = std::env::var("DW").ok().and_then(|s| s.parse::<usize>().ok());
    let mode = mode.unwrap_or(if sums.len() < 1 << 20 { 1 } else if sums.len() < 8 << 20 { 2 } else { 3 });
    match mode {
        1 => by_tiles(ctx, input, gradient, &dw, sums),
        2 => by_frequencies(ctx, input, gradient, &dw, sums),
        _ => by_channels(ctx, input, gradient, &dw),
    }
}
fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|s| s.parse::<usize>().ok()).unwrap_or(default)
}

fn by_tiles(ctx: &Context, input: &Input, gradient: &Input, dw: &WeightGradient, sums: Layout) {
    let tiles = input.tiles.count;
    let tile_len = FREQUENCIES * (input.blocks() + gradient.blocks()) * LANES;
    let rows = (env("DW_LEN", 150 << 10) / tile_len).clamp(1, 256).next_multiple_of(16);
    let parts = (env("DW_PARTS", 4 << 20) / sums.len()).clamp(1, 16).min(tiles.div_ceil(rows)).max(1);
    let stretch = tiles.div_ceil(parts).next_multiple_of(rows);
    let parts = tiles.div_ceil(stretch);
    let (v, z) = (Layout { blocks: input.blocks(), rows }, Layout { blocks: gradient.blocks(), rows });
    let mut buffer = ctx.buffer(sums.len() * parts);
    let to = Shared(buffer.as_mut_ptr());
    ctx.run(parts, |part, _| {
        let mut scratch = ctx.buffer(v.len() + z.len());
        let (transformed, gradients) = scratch.split_at_mut(v.len());
        let tiles = part * stretch..tiles.min((part + 1) * stretch);
        ctx.instruction_set().dispatch(Stretch {
            input,
            gradient,
            tiles,
            v,
            transformed,
            z,
            gradients,
            sums,
            // SAFETY: one part of the buffer.
            to: unsafe { to.at(part * sums.len()) },
        });
    });
    back(ctx, dw, &buffer, sums, parts);
}

fn back(ctx: &Context, dw: &WeightGradient, buffer: &[f32], sums: Layout, parts: usize) {
    let in_blocks = sums.rows / LANES;
    ctx.run(in_blocks * sums.blocks, |task, _| {
        ctx.instruction_set().dispatch(Back { dw, block: (task % in_blocks, task / in_blocks), buffer, sums, parts });
    });
}

struct Back<'a> {
    dw: &'a WeightGradient<'a>,
    block: (usize, usize),
    buffer: &'a [f32],
    sums: Layout,
    parts: usize,
}

impl Algorithm for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { dw, block: (in_block, out_block), buffer, sums, parts } = self;
        unsafe {
            let from = buffer.as_ptr().add(sums.at(out_block, in_block * LANES));
            dw.transform::<V>(in_block, out_block, from, sums, parts);
        }
    }
}

struct Stretch<'a> {
    input: &'a Input<'a>,
    gradient: &'a Input<'a>,
    tiles: Range<usize>,
    v: Layout,
    transformed: &'a mut [f32],
    z: Layout,
    gradients: &'a mut [f32],
    sums: Layout,
    to: *mut f32,
}

impl Algorithm for Stretch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { input, gradient, tiles, v, transformed, z, gradients, sums, to } = self;
        for first in tiles.clone().step_by(v.rows) {
            let rows = v.rows.min(tiles.end - first);
            for row in 0..rows {
                for block in 0..v.blocks {
                    unsafe {
                        let to = transformed.as_mut_ptr().add(v.at(block, row));
                        input.transform_patch::<V>(first + row, block, to, v.frequency(), LANES);
                    }
                }
                for block in 0..z.blocks {
                    unsafe {
                        let to = gradients.as_mut_ptr().add(z.at(block, row));
                        gradient.transform_gradient::<V>(first + row, block, to, z.frequency(), LANES);
                    }
                }
            }
            for frequency in 0..FREQUENCIES {
                unsafe {
                    let v_ = Blocks { start: transformed.as_ptr().add(frequency * v.frequency()), stride: v.block() };
                    let z_ = Blocks { start: gradients.as_ptr().add(frequency * z.frequency()), stride: z.block() };
                    let u_ = Blocks { start: to.add(frequency * sums.frequency()), stride: sums.block() };
                    lanes_by_columns::<V>((v.blocks, z.blocks), rows, v_, z_, u_, first > tiles.start);
                }
            }
        }
    }
}

struct TransformGradient<'a> {
    gradient: &'a Input<'a>,
    first: usize,
    rows: Range<usize>,
    to: Shared,
    z: Layout,
}

impl Algorithm for TransformGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { gradient, first, rows, to, z } = self;
        for row in rows {
            for block in 0..z.blocks {
                unsafe { gradient.transform_gradient::<V>(first + row, block, to.at(z.at(block, row)), z.frequency(), LANES) }
            }
        }
    }
}

fn whole(ctx: &Context, input: &Input, gradient: &Input, tiles: &Range<usize>, v: Layout, z: Layout, vb: Shared, zb: Shared) {
    let first = tiles.start;
    const T: usize = 4;
    ctx.run(tiles.len().div_ceil(T), |task, _| {
        let rows = task * T..tiles.len().min((task + 1) * T);
        ctx.instruction_set().dispatch(TransformInput { input, first, rows: rows.clone(), to: vb, v });
        ctx.instruction_set().dispatch(TransformGradient { gradient, first, rows, to: zb, z });
    });
}

fn by_frequencies(ctx: &Context, input: &Input, gradient: &Input, dw: &WeightGradient, sums: Layout) {
    let tiles = input.tiles.count;
    let most = 512;
    let mut buffer = ctx.buffer(sums.len());
    let u = Shared(buffer.as_mut_ptr());
    for first in (0..tiles).step_by(most) {
        let tiles = first..tiles.min(first + most);
        let rows = tiles.len();
        let (v, z) = (Layout { blocks: input.blocks(), rows }, Layout { blocks: gradient.blocks(), rows });
        let (mut vb, mut zb) = (ctx.buffer(v.len()), ctx.buffer(z.len()));
        let (vp, zp) = (Shared(vb.as_mut_ptr()), Shared(zb.as_mut_ptr()));
        whole(ctx, input, gradient, &tiles, v, z, vp, zp);
        ctx.run(FREQUENCIES, |frequency, _| {
            ctx.instruction_set().dispatch(Frequency { v, vp, z, zp, sums, u, frequency, add: first > 0 });
        });
    }
    back(ctx, dw, &buffer, sums, 1);
}

struct Frequency {
    v: Layout,
    vp: Shared,
    z: Layout,
    zp: Shared,
    sums: Layout,
    u: Shared,
    frequency: usize,
    add: bool,
}

impl Algorithm for Frequency {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { v, vp, z, zp, sums, u, frequency, add } = self;
        const T: usize = 128;
        for first in (0..v.rows).step_by(T) {
            unsafe {
                let v_ = Blocks { start: vp.at(frequency * v.frequency() + first * LANES).cast_const(), stride: v.block() };
                let z_ = Blocks { start: zp.at(frequency * z.frequency() + first * LANES).cast_const(), stride: z.block() };
                let u_ = Blocks { start: u.at(frequency * sums.frequency()), stride: sums.block() };
                lanes_by_columns::<V>((v.blocks, z.blocks), T.min(v.rows - first), v_, z_, u_, add || first > 0);
            }
        }
    }
}

fn by_channels(ctx: &Context, input: &Input, gradient: &Input, dw: &WeightGradient) {
    let tiles = input.tiles.count;
    // TODO several parts
    let tiles = 0..tiles;
    let rows = tiles.len();
    let (v, z) = (Layout { blocks: input.blocks(), rows }, Layout { blocks: gradient.blocks(), rows });
    let (mut vb, mut zb) = (ctx.buffer(v.len()), ctx.buffer(z.len()));
    let (vp, zp) = (Shared(vb.as_mut_ptr()), Shared(zb.as_mut_ptr()));
    whole(ctx, input, gradient, &tiles, v, z, vp, zp);
    let (bi, bo) = (env("BI", 2), env("BO", 2));
    let sums = Layout { blocks: bo, rows: bi * LANES };
    let (ni, no) = (v.blocks.div_ceil(bi), z.blocks.div_ceil(bo));
    ctx.run(ni * no, |task, _| {
        let mut scratch = ctx.buffer(sums.len());
        let (ib, ob) = (task / no * bi, task % no * bo);
        ctx.instruction_set().dispatch(Channels { dw, v, vp, z, zp, sums, scratch: &mut scratch,
            ins: ib..v.blocks.min(ib + bi), outs: ob..z.blocks.min(ob + bo) });
    });
}

struct Channels<'a> {
    dw: &'a WeightGradient<'a>,
    v: Layout,
    vp: Shared,
    z: Layout,
    zp: Shared,
    sums: Layout,
    scratch: &'a mut [f32],
    ins: Range<usize>,
    outs: Range<usize>,
}

impl Algorithm for Channels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { dw, v, vp, z, zp, sums, scratch, ins, outs } = self;
        const T: usize = 512;
        for first in (0..v.rows).step_by(T) {
            for frequency in 0..FREQUENCIES {
                unsafe {
                    let v_ = Blocks { start: vp.at(frequency * v.frequency() + v.at(ins.start, first)).cast_const(), stride: v.block() };
                    let z_ = Blocks { start: zp.at(frequency * z.frequency() + z.at(outs.start, first)).cast_const(), stride: z.block() };
                    let u_ = Blocks { start: scratch.as_mut_ptr().add(frequency * sums.frequency()), stride: sums.block() };
                    lanes_by_columns::<V>((ins.len(), outs.len()), T.min(v.rows - first), v_, z_, u_, first > 0);
                }
            }
        }
        for (o, out) in outs.clone().enumerate() {
            for (i, in_) in ins.clone().enumerate() {
                unsafe { dw.transform::<V>(in_, out, scratch.as_ptr().add(sums.at(o, i * LANES)), sums, 1) }
            }
        }
    }
}
