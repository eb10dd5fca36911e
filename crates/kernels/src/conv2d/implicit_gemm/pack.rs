//! Weights between PyTorch's order, `[O, C, taps]`, and the one products read: panels of sixteen columns, in
//! which the columns of one step lie together.

use crate::conv2d::Conv2dShape;
use crate::simd::{Algorithm, F32x16, LANES, load, store};
use crate::uninit::Uninit;
use crate::{Buffer, Cpu, parallel};

/// `w` as the right-hand matrices of the forward product, one for each of `groups` of the shape `group`:
/// `[O / 16][tap][C][16 of O]`, rounded up and zero beyond `O`.
pub(super) fn by_output(cpu: &Cpu, w: &[f32], group: &Conv2dShape, groups: usize) -> Buffer {
    let taps = group.kernel * group.kernel;
    let row = group.in_channels * taps;
    let panels = group.out_channels.div_ceil(LANES);
    let mut packed = cpu.buffer(groups * panels * LANES * row);
    parallel::for_each(cpu, packed.chunks_mut(row * LANES).enumerate(), |(index, to)| {
        let w = &w[index / panels * group.weight_len()..][..group.weight_len()];
        let first = index % panels * LANES * row;
        let rows = &w[first..w.len().min(first + LANES * row)];
        let place = |i: usize| i % taps * group.in_channels + i / taps;
        cpu.instruction_set().dispatch(Transpose { from: rows, row, place, to });
    });
    packed
}

/// `w` as the right-hand matrices of the input gradient, one for each of `groups` of the shape `group`:
/// `[C / 16][slot][O][16 of C]`, rounded up and zero beyond `C`, where `slots` says which slot each tap takes.
pub(super) fn by_input(cpu: &Cpu, w: &[f32], group: &Conv2dShape, groups: usize, slots: &[usize]) -> Buffer {
    let Conv2dShape { in_channels, out_channels, .. } = *group;
    let taps = slots.len();
    let panels = in_channels.div_ceil(LANES);
    let panel_len = taps * out_channels * LANES;
    let mut packed = cpu.buffer(groups * panels * panel_len);
    parallel::for_each(cpu, packed.chunks_mut(panel_len).enumerate(), |(index, to)| {
        let w = &w[index / panels * group.weight_len()..][..group.weight_len()];
        let first = index % panels * LANES;
        let channels = first..in_channels.min(first + LANES);
        if taps == 1 {
            // Sixteen input channels lie together already.
            for (to, w) in to.chunks_exact_mut(LANES).zip(w.chunks_exact(in_channels)) {
                let (filled, rest) = to.split_at_mut(channels.len());
                filled.copy_from_slice(&w[channels.clone()]);
                rest.fill(0.0);
            }
            return;
        }
        for o in 0..out_channels {
            let rows = &w[(o * in_channels + channels.start) * taps..(o * in_channels + channels.end) * taps];
            let place = |tap: usize| slots[tap] * out_channels + o;
            cpu.instruction_set().dispatch(Transpose { from: rows, row: taps, place, to });
        }
    });
    packed
}

/// Reads up to sixteen rows of `row` elements as columns: element `i` of all rows goes to the vector
/// `place(i)` of `to`, zero in the lanes of missing rows.
struct Transpose<'a, P> {
    from: &'a [f32],
    row: usize,
    place: P,
    to: &'a mut [f32],
}

impl<P: Fn(usize) -> usize> Algorithm for Transpose<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { from, row, place, to } = self;
        for first in (0..row).step_by(LANES) {
            let count = (row - first).min(LANES);
            let mut block = [V::zero(); LANES];
            for (lane, from) in block.iter_mut().zip(from.chunks_exact(row)) {
                let from = &from[first..first + count];
                // SAFETY: `count <= 16` elements.
                *lane = unsafe { V::load_partial(from.as_ptr(), count) };
            }
            V::transpose(&mut block);
            for (i, vector) in block.into_iter().take(count).enumerate() {
                let to = &mut to[place(first + i) * LANES..][..LANES];
                // SAFETY: sixteen elements.
                unsafe { vector.store(to.as_mut_ptr()) };
            }
        }
    }
}

/// Adds the partial weight gradients in `partial` into `dw`: for each group those of its parts, which follow each other.
/// Each is `[tap][channel][O rounded up to 16]` for a block of `channels` input channels after another.
pub(super) fn sum_to_weights(
    cpu: &Cpu,
    partial: &[f32],
    group: &Conv2dShape,
    channels: usize,
    dw: &mut Uninit,
) {
    let row = group.in_channels * group.kernel * group.kernel;
    let partial_len = partial.len() / (dw.len() / group.weight_len());
    let panels = dw.chunks_mut(group.weight_len()).zip(partial.chunks_exact(partial_len));
    let panels: Vec<_> = panels
        .flat_map(|(dw, partial)| {
            dw.chunks_mut(row * LANES).enumerate().map(move |(panel, to)| (partial, panel * LANES, to))
        })
        .collect();
    parallel::for_each(cpu, panels, |(partial, first, to)| {
        cpu.instruction_set().dispatch(Sum { partial, group, channels, first, to });
    });
}

/// Sixteen rows of a group's weight gradient (fewer at its end), from output channel `first` on.
struct Sum<'a> {
    partial: &'a [f32],
    group: &'a Conv2dShape,
    channels: usize,
    first: usize,
    to: &'a mut Uninit,
}

impl Algorithm for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { partial, group, channels, first, to } = self;
        let taps = group.kernel * group.kernel;
        let row = group.in_channels * taps;
        let stride = group.out_channels.next_multiple_of(LANES);
        for start in (0..row).step_by(LANES) {
            let count = (row - start).min(LANES);
            let mut block = [V::zero(); LANES];
            for (i, sum) in block.iter_mut().enumerate().take(count) {
                let (channel, tap) = ((start + i) / taps, (start + i) % taps);
                let block = channel / channels * channels;
                let place = block * taps + tap * channels.min(group.in_channels - block) + channel - block;
                for partial in partial.chunks_exact(row * stride) {
                    *sum = *sum + load(partial, place * stride + first, LANES);
                }
            }
            V::transpose(&mut block);
            for (to, vector) in to.chunks_exact_mut(row).zip(block) {
                store(vector, to, start, count);
            }
        }
    }
}
