//! Weights `[O, C, 3, 3]`, whose channels are not innermost: into transformed rows and back.

use std::marker::PhantomData;
use std::ops::Range;

use super::transform::{
    Frequencies, Source, Target, WeightGradientTransform, WeightTransform, two_dimensional,
};
use super::{Conv2dShape, FREQUENCIES, FrequencyLayout, PATCH, TaskPointer, is_streamed};
use crate::simd::{F32x16, LANES, fence, prefetch};
use crate::uninit::Uninit;

/// Elements of a kernel.
const TAPS: usize = 9;
/// Rows of a transformed gradient between a prefetch and its use.
const AHEAD: usize = 4;

/// Which of the weight's channels are summed over, and which way the kernel is turned.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Direction {
    /// From `C` to `O` channels.
    Forward,
    /// From `O` to `C` channels, the kernel turned by 180 degrees.
    Backward,
}

/// A weight tensor that is read block by block.
pub(super) struct Weight<'a> {
    data: &'a [f32],
    out_channels: usize,
    in_channels: usize,
    direction: Direction,
}

/// The kernels from sixteen input channels to sixteen output channels. In memory, those of one output channel
/// are nine vectors in a row; here the nine 16 x 16 squares of all output channels are transposed, so that
/// element `i` is tap `i % 9` of input channel `i / 9`, and its lanes are the output channels.
type Kernels<V> = [[V; LANES]; TAPS];

impl<'a> Weight<'a> {
    pub fn new(shape: &Conv2dShape, data: &'a [f32], direction: Direction) -> Self {
        let (out_channels, in_channels) = (shape.out_channels, shape.in_channels);
        assert_eq!(data.len(), out_channels * in_channels * TAPS);
        Self { data, out_channels, in_channels, direction }
    }

    /// Writes `G g G^T` for some blocks of the channels that are summed over, whose channels become
    /// consecutive rows, and one block of the others, which become their lanes.
    ///
    /// # Safety
    /// `to` is the first of these rows in memory of this layout, which nobody else reads or writes meanwhile.
    #[inline(always)]
    pub unsafe fn transform<V: F32x16>(
        &self,
        from: Range<usize>,
        block: usize,
        to: *mut f32,
        layout: FrequencyLayout,
    ) {
        let first = from.start;
        for from in from {
            // SAFETY: rows of the caller's promise.
            unsafe {
                let to = to.add(layout.at(0, (from - first) * LANES));
                match self.direction {
                    Direction::Forward => self.transform_forward::<V>(from, block, to, layout),
                    Direction::Backward => self.transform_backward::<V>(block, from, to, layout),
                }
            }
        }
    }

    /// Hints that the weights of some blocks of the channels that are summed over and some of the others are read
    /// soon: one of 36 shares of them, to be called while each frequency's product runs, when memory has nothing
    /// else to do.
    #[inline(always)]
    pub fn prefetch(&self, (from, blocks): (Range<usize>, Range<usize>), share: usize) {
        let (ins, outs) = match self.direction {
            Direction::Forward => (from, blocks),
            Direction::Backward => (blocks, from),
        };
        let outs = outs.start * LANES..self.out_channels.min(outs.end * LANES);
        let line = ins.len() * LANES * TAPS;
        for row in outs.len() * share / FREQUENCIES..outs.len() * (share + 1) / FREQUENCIES {
            let first = ((outs.start + row) * self.in_channels + ins.start * LANES) * TAPS;
            for element in (0..line).step_by(LANES) {
                prefetch(self.data.as_ptr().wrapping_add(first + element));
            }
        }
    }

    /// One block of input channels, the rows, by one of output channels, the lanes.
    ///
    /// # Safety
    /// As [`Self::transform`].
    #[inline(always)]
    unsafe fn transform_forward<V: F32x16>(
        &self,
        in_block: usize,
        out_block: usize,
        to: *mut f32,
        layout: FrequencyLayout,
    ) {
        let kernels = self.read::<V>(in_block, out_block);
        for channel in 0..count(self.in_channels, in_block) {
            // SAFETY: a row of the caller's promise.
            let mut to = unsafe { Frequencies::new(to.add(channel * LANES), layout.frequency()) };
            two_dimensional(WeightTransform, &Kernel { kernels: &kernels, channel }, &mut to);
        }
    }

    /// One block of output channels, the rows, by one of input channels, the lanes.
    ///
    /// # Safety
    /// As [`Self::transform`].
    #[inline(always)]
    unsafe fn transform_backward<V: F32x16>(
        &self,
        in_block: usize,
        out_block: usize,
        to: *mut f32,
        layout: FrequencyLayout,
    ) {
        let kernels = self.read::<V>(in_block, out_block);
        let mut taps = kernels;
        for (tap, rows) in taps.iter_mut().enumerate() {
            for (channel, row) in rows.iter_mut().enumerate() {
                *row = kernels[(channel * TAPS + tap) / LANES][(channel * TAPS + tap) % LANES];
            }
            V::transpose(rows);
        }
        for channel in 0..count(self.out_channels, out_block) {
            // SAFETY: a row of the caller's promise.
            let mut to = unsafe { Frequencies::new(to.add(channel * LANES), layout.frequency()) };
            two_dimensional(WeightTransform, &TurnedKernel { taps: &taps, channel }, &mut to);
        }
    }

    /// The kernels from a block of input channels to a block of output channels, the lanes.
    #[inline(always)]
    fn read<V: F32x16>(&self, in_block: usize, out_block: usize) -> Kernels<V> {
        let mut kernels = [[V::zero(); LANES]; TAPS];
        let len = count(self.in_channels, in_block) * TAPS;
        for channel in 0..count(self.out_channels, out_block) {
            let first = ((out_block * LANES + channel) * self.in_channels + in_block * LANES) * TAPS;
            for (part, square) in kernels.iter_mut().enumerate() {
                let len = len.saturating_sub(part * LANES);
                let from = self.data.as_ptr().wrapping_add(first + part * LANES);
                // SAFETY: the kernels of one output channel for a block of input channels lie one after the
                // other, and `len` elements of them from `from` on.
                square[channel] =
                    unsafe { if len >= LANES { V::load(from) } else { V::load_partial(from, len) } };
            }
        }
        for square in &mut kernels {
            V::transpose(square);
        }
        kernels
    }
}

/// The channels in a block.
#[inline(always)]
fn count(channels: usize, block: usize) -> usize {
    LANES.min(channels - block * LANES)
}

/// One input channel's kernels.
struct Kernel<'a, V> {
    kernels: &'a Kernels<V>,
    channel: usize,
}

impl<V: F32x16> Source<V> for Kernel<'_, V> {
    #[inline(always)]
    fn get(&self, row: usize, column: usize) -> V {
        let index = self.channel * TAPS + row * 3 + column;
        self.kernels[index / LANES][index % LANES]
    }
}

/// One output channel's kernels, turned by 180 degrees; its lanes are the input channels.
struct TurnedKernel<'a, V> {
    /// For each tap, a row for each output channel.
    taps: &'a [[V; LANES]; TAPS],
    channel: usize,
}

impl<V: F32x16> Source<V> for TurnedKernel<'_, V> {
    #[inline(always)]
    fn get(&self, row: usize, column: usize) -> V {
        self.taps[TAPS - 1 - (row * 3 + column)][self.channel]
    }
}

/// The gradient of a weight, written block by block.
pub(super) struct WeightGradient<'a> {
    data: TaskPointer,
    out_channels: usize,
    in_channels: usize,
    /// Written around the caches; see [`is_streamed`].
    streamed: bool,
    /// The gradient is borrowed as long as this lives.
    borrow: PhantomData<&'a mut Uninit>,
}

impl<'a> WeightGradient<'a> {
    pub fn new(shape: &Conv2dShape, data: &'a mut Uninit) -> Self {
        let (out_channels, in_channels) = (shape.out_channels, shape.in_channels);
        assert_eq!(data.len(), out_channels * in_channels * TAPS);
        let streamed = is_streamed(data, in_channels);
        Self {
            data: TaskPointer(data.as_mut_ptr().cast()),
            out_channels,
            in_channels,
            streamed,
            borrow: PhantomData,
        }
    }

    /// Writes `G^T u G` for some blocks of input channels, which are consecutive rows of `u`, and one block
    /// of output channels, their lanes. `u` is the sum of `parts` that follow each other.
    ///
    /// # Safety
    /// `from` is the first of these rows in memory of this layout, in the first part; no other thread reads
    /// or writes the gradient of these channels' kernels meanwhile.
    #[inline(always)]
    pub unsafe fn transform<V: F32x16>(
        &self,
        in_blocks: Range<usize>,
        out_block: usize,
        from: *const f32,
        layout: FrequencyLayout,
        parts: usize,
    ) {
        let first = in_blocks.start;
        for in_block in in_blocks {
            let mut kernels = [[V::zero(); LANES]; TAPS];
            for channel in 0..count(self.in_channels, in_block) {
                let row = (in_block - first) * LANES + channel;
                // SAFETY: a row of the caller's promise.
                let from = Parts { start: unsafe { from.add(layout.at(0, row)) }, layout, parts };
                let mut to = KernelTarget { kernels: &mut kernels, channel };
                two_dimensional(WeightGradientTransform, &from, &mut to);
            }
            // SAFETY: the caller's promise.
            unsafe { self.write(in_block, out_block, kernels) };
        }
    }

    /// Writes the kernels from a block of input channels to a block of output channels, the lanes.
    ///
    /// # Safety
    /// No other thread reads or writes them meanwhile.
    #[inline(always)]
    unsafe fn write<V: F32x16>(&self, in_block: usize, out_block: usize, mut kernels: Kernels<V>) {
        for square in &mut kernels {
            V::transpose(square);
        }
        let len = count(self.in_channels, in_block) * TAPS;
        for channel in 0..count(self.out_channels, out_block) {
            let first = ((out_block * LANES + channel) * self.in_channels + in_block * LANES) * TAPS;
            for (part, square) in kernels.iter().enumerate() {
                let len = len.saturating_sub(part * LANES);
                let to = self.data.0.wrapping_add(first + part * LANES);
                // SAFETY: the kernels of one output channel for a block of input channels lie one after the
                // other, and `len` elements of them from `to` on. With whole blocks of input channels, these
                // are 64 bytes times an integer from the weight's start.
                unsafe {
                    match len {
                        LANES.. if self.streamed => square[channel].store_streaming(to),
                        LANES.. => square[channel].store(to),
                        _ => square[channel].store_partial(to, len),
                    }
                }
            }
        }
    }

    /// Makes what this thread wrote visible to those that it tells so.
    #[inline(always)]
    pub fn finish(&self) {
        if self.streamed {
            fence();
        }
    }
}

/// A row of the sum of several parts.
struct Parts {
    start: *const f32,
    layout: FrequencyLayout,
    parts: usize,
}

impl<V: F32x16> Source<V> for Parts {
    #[inline(always)]
    fn get(&self, row: usize, column: usize) -> V {
        // SAFETY: `WeightGradient::transform` was promised every frequency and part.
        unsafe {
            let mut place = self.start.add((row * PATCH + column) * self.layout.frequency());
            let mut sum = V::load(place);
            if self.parts > 1 {
                // More than the caches hold.
                prefetch(place.wrapping_add(AHEAD * LANES));
            }
            for _ in 1..self.parts {
                place = place.add(self.layout.len());
                sum = sum + V::load(place);
                prefetch(place.wrapping_add(AHEAD * LANES));
            }
            sum
        }
    }
}

/// One input channel's kernels, to be written.
struct KernelTarget<'a, V> {
    kernels: &'a mut Kernels<V>,
    channel: usize,
}

impl<V: F32x16> Target<V> for KernelTarget<'_, V> {
    #[inline(always)]
    fn put(&mut self, row: usize, column: usize, value: V) {
        let index = self.channel * TAPS + row * 3 + column;
        self.kernels[index / LANES][index % LANES] = value;
    }
}
