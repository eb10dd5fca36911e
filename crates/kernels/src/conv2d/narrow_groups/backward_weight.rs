//! The weight gradient: for each tap and each `k`, the sum over pixels of `dy` times element `k` of its group.

use std::ops::Range;

use super::line::{Tap, load_of_groups};
use super::{Activation, Conv2dShape, activated, inside};
use crate::Cpu;
use crate::parallel::for_each;
use crate::simd::{F32x16, LANES, UncheckedAlgorithm};
use crate::uninit::Uninit;

/// Tasks to share out, at least, where there is work for as many.
const TASKS: usize = 16;
/// Blocks of sixteen channels of a task.
const BLOCKS: usize = 4;

/// `dw`; see [`conv2d::backward_weight`](crate::conv2d::backward_weight).
pub(in crate::conv2d) fn backward_weight(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut Uninit,
) {
    let group = shape.of_group().in_channels;
    let taps = shape.kernel * shape.kernel;
    let activated = activation.map(|activation| activated(cpu, x, activation));
    let x = activated.as_deref().unwrap_or(x);
    let blocks = shape.in_channels.div_ceil(LANES);
    let lines = shape.batch * shape.out_height();
    let parts = TASKS.div_ceil(blocks.div_ceil(BLOCKS)).min(lines.max(1));
    // `[part][block][tap][k][16]`.
    let mut partial = cpu.zeroed(parts * blocks * taps * group * LANES);
    let mut tasks = Vec::with_capacity(parts * blocks.div_ceil(BLOCKS));
    for (part, sums) in partial.chunks_mut(blocks * taps * group * LANES).enumerate() {
        let lines = lines * part / parts..lines * (part + 1) / parts;
        for (i, sums) in sums.chunks_mut(BLOCKS * taps * group * LANES).enumerate() {
            tasks.push(CorrelateLines { shape, x, dy, lines: lines.clone(), first_block: i * BLOCKS, sums });
        }
    }
    for_each(cpu, tasks, |task| task.run(cpu, group));
    let part_len = blocks * taps * group * LANES;
    for_each(cpu, dw.chunks_mut(LANES * group * taps).enumerate(), |(block, dw)| {
        for (i, dw) in dw.iter_mut().enumerate() {
            let (lane, k, tap) = (i / (group * taps), i / taps % group, i % taps);
            let at = ((block * taps + tap) * group + k) * LANES + lane;
            dw.write(partial.chunks_exact(part_len).map(|part| part[at]).sum());
        }
    });
}

/// The weight gradient of some blocks of channels, summed over some output lines of all images.
struct CorrelateLines<'a> {
    shape: &'a Conv2dShape,
    x: &'a [f32],
    dy: &'a [f32],
    /// Of all images' output lines.
    lines: Range<usize>,
    first_block: usize,
    /// `[block][tap][k][16]`.
    sums: &'a mut [f32],
}

impl CorrelateLines<'_> {
    fn run(self, cpu: &Cpu, group: usize) {
        let set = cpu.instruction_set();
        // SAFETY: the operands' lengths are the shape's, which the caller has checked; the sums are whole blocks of it.
        unsafe {
            match group {
                1 => set.dispatch_unchecked(CorrelateGroups::<1>(self)),
                2 => set.dispatch_unchecked(CorrelateGroups::<2>(self)),
                4 => set.dispatch_unchecked(CorrelateGroups::<4>(self)),
                8 => set.dispatch_unchecked(CorrelateGroups::<8>(self)),
                group => unreachable!("groups of {group} channels take another way"),
            }
        }
    }
}

/// [`CorrelateLines`] for groups of `GROUP` channels.
///
/// # Safety
/// `x` and `dy` have the shape's lengths, the lines are its output's, and the sums are those of whole blocks of its
/// channels.
struct CorrelateGroups<'a, const GROUP: usize>(CorrelateLines<'a>);

impl<const GROUP: usize> UncheckedAlgorithm for CorrelateGroups<'_, GROUP> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let CorrelateLines { shape, x, dy, lines, first_block, sums } = self.0;
        let Conv2dShape { height, width, in_channels: channels, kernel, stride, padding, dilation, .. } =
            *shape;
        let (out_height, out_width) = (shape.out_height(), shape.out_width());
        for out_line in lines {
            let (image, i) = (out_line / out_height, out_line % out_height);
            for a in 0..kernel {
                let Some(row) = inside(i * stride + a * dilation, padding, height) else { continue };
                let tap = |b: usize| Tap {
                    line: (image * height + row) * width * channels,
                    column: (b * dilation) as isize - padding as isize,
                    weight: a * kernel + b,
                };
                for (block, sums) in sums.chunks_exact_mut(kernel * kernel * GROUP * LANES).enumerate() {
                    let dy = &dy[out_line * out_width * channels..][..out_width * channels];
                    let block = first_block + block;
                    let lanes = LANES.min(channels - block * LANES);
                    let line = LineProducts { x, dy, width, channels, step: stride, block, lanes };
                    // SAFETY: a line of each, and sums of every tap. A constant where it matters, so that whole vectors get
                    // their own straight code.
                    unsafe {
                        if lanes == LANES {
                            LineProducts { lanes: LANES, ..line }.add_all::<V, GROUP>(kernel, tap, sums);
                        } else {
                            line.add_all::<V, GROUP>(kernel, tap, sums);
                        }
                    }
                }
            }
        }
    }
}

/// A line of `dy`, and the images that its products are with.
struct LineProducts<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    width: usize,
    channels: usize,
    step: usize,
    block: usize,
    /// Channels of the block.
    lanes: usize,
}

impl LineProducts<'_> {
    /// Adds a line's products for all taps of one line of the kernel, three at a time.
    ///
    /// # Safety
    /// As [`add`](Self::add).
    #[inline(always)]
    unsafe fn add_all<V: F32x16, const GROUP: usize>(
        &self,
        kernel: usize,
        tap: impl Fn(usize) -> Tap,
        sums: &mut [f32],
    ) {
        let mut b = 0;
        while b < kernel {
            // SAFETY: the caller's promise.
            unsafe {
                if b + 3 <= kernel {
                    self.add::<V, GROUP, 3>([tap(b), tap(b + 1), tap(b + 2)], sums);
                    b += 3;
                } else {
                    self.add::<V, GROUP, 1>([tap(b)], sums);
                    b += 1;
                }
            }
        }
    }

    /// Adds a line's products for `N` neighboring taps of one line to their sums, `[tap][k][16]`.
    ///
    /// # Safety
    /// The taps' line is one of `x`; there are sums for each.
    #[inline(always)]
    unsafe fn add<V: F32x16, const GROUP: usize, const N: usize>(&self, taps: [Tap; N], sums: &mut [f32]) {
        let outputs = self.dy.len() / self.channels;
        let inside = |tap: &Tap| {
            let columns = tap.columns(self.width, self.step);
            columns.start.min(outputs)..columns.end.min(outputs)
        };
        // Taps are in order: the first is the last to come inside, the last the first to leave.
        let (first, last) = (inside(&taps[0]), inside(&taps[N - 1]));
        let all = first.start..last.end.max(first.start);
        for k in 0..GROUP {
            let mut products = [V::zero(); N];
            // SAFETY: the caller's promise; each output in these ranges finds its tap inside the line.
            unsafe {
                for at in all.clone() {
                    self.products::<V, GROUP, N>(&taps, k, at, &mut products);
                }
                for (tap, product) in taps.iter().zip(&mut products) {
                    let inside = inside(tap);
                    let mut alone = [*product];
                    for at in
                        (inside.start..inside.end.min(all.start)).chain(inside.start.max(all.end)..inside.end)
                    {
                        self.products::<V, GROUP, 1>(&[*tap], k, at, &mut alone);
                    }
                    let sum = sums[(tap.weight * GROUP + k) * LANES..][..LANES].as_mut_ptr();
                    (V::load(sum) + alone[0]).store(sum);
                }
            }
        }
    }

    /// Adds the products of one output for element `k` of its groups.
    ///
    /// # Safety
    /// The taps of the output are inside the line.
    #[inline(always)]
    unsafe fn products<V: F32x16, const GROUP: usize, const N: usize>(
        &self,
        taps: &[Tap; N],
        k: usize,
        at: usize,
        products: &mut [V; N],
    ) {
        let lanes = self.lanes;
        // SAFETY: `lanes` channels of a pixel of each.
        unsafe {
            let dy = self.dy.as_ptr().add(at * self.channels + self.block * LANES);
            let dy = if lanes == LANES { V::load(dy) } else { V::load_partial(dy, lanes) };
            for (tap, product) in taps.iter().zip(products) {
                let column = (tap.column + (at * self.step) as isize) as usize;
                let x = self.x.as_ptr().add(tap.line + column * self.channels + self.block * LANES);
                *product = load_of_groups::<V, GROUP>(x, k, lanes).mul_add(dy, *product);
            }
        }
    }
}
