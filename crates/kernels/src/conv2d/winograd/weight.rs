//! Weights `[O, C, 3, 3]`, whose channels are not innermost: into transformed rows and back.

use std::marker::PhantomData;

use super::transform::{
    Frequencies, Source, Target, WeightGradientTransform, WeightTransform, two_dimensional,
};
use super::{Conv2dShape, Layout, PATCH, Shared};
use crate::simd::{F32x16, LANES};

/// Elements of a kernel.
const TAPS: usize = 9;

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

/// Sixteen output channels' kernels for sixteen input channels: element `i` is tap `i % 9` of input channel
/// `i / 9`, its lanes are the output channels. As rows of memory before, and after transposition of each of the
/// nine 16 x 16 squares.
type Kernels<V> = [[V; LANES]; TAPS];

impl<'a> Weight<'a> {
    pub fn new(shape: &Conv2dShape, data: &'a [f32], direction: Direction) -> Self {
        let (out_channels, in_channels) = (shape.out_channels, shape.in_channels);
        assert_eq!(data.len(), out_channels * in_channels * TAPS);
        Self { data, out_channels, in_channels, direction }
    }

    /// Writes `G g G^T` of sixteen by sixteen channels: a row of lanes `to[k]` for each channel of block `from`
    /// that is summed over, its lanes the channels of block `to_block`; frequencies are `stride` elements apart.
    ///
    /// # Safety
    /// `to` is valid for writes of sixteen elements at each row and frequency.
    #[inline(always)]
    pub unsafe fn transform<V: F32x16>(&self, from: usize, to_block: usize, to: *mut f32, stride: usize) {
        let forward = self.direction == Direction::Forward;
        let (in_block, out_block) = if forward { (from, to_block) } else { (to_block, from) };
        let in_count = LANES.min(self.in_channels - in_block * LANES);
        let out_count = LANES.min(self.out_channels - out_block * LANES);
        let kernels = self.read::<V>(in_block, out_block, in_count, out_count);
        if forward {
            for row in 0..in_count {
                // SAFETY: a row of the caller's promise.
                let mut to = unsafe { Frequencies::new(to.add(row * LANES), stride, LANES) };
                two_dimensional(WeightTransform, &Kernel { kernels: &kernels, channel: row }, &mut to);
            }
        } else {
            let mut taps = kernels;
            for (tap, rows) in taps.iter_mut().enumerate() {
                for (channel, row) in rows.iter_mut().enumerate() {
                    let index = channel * TAPS + tap;
                    *row = kernels[index / LANES][index % LANES];
                }
                V::transpose(rows);
            }
            for row in 0..out_count {
                // SAFETY: a row of the caller's promise.
                let mut to = unsafe { Frequencies::new(to.add(row * LANES), stride, LANES) };
                two_dimensional(WeightTransform, &TurnedKernel { taps: &taps, channel: row }, &mut to);
            }
        }
    }

    /// The kernels of a block of output channels (the lanes) for a block of input channels.
    #[inline(always)]
    fn read<V: F32x16>(&self, in_block: usize, out_block: usize, in_count: usize, out_count: usize) -> Kernels<V> {
        let mut kernels = [[V::zero(); LANES]; TAPS];
        for row in 0..out_count {
            let first = ((out_block * LANES + row) * self.in_channels + in_block * LANES) * TAPS;
            // SAFETY: `in_count` kernels of one output channel lie one after the other from `first` on.
            unsafe {
                let from = self.data.as_ptr().add(first);
                for (part, square) in kernels.iter_mut().enumerate() {
                    let len = LANES.min((in_count * TAPS).saturating_sub(part * LANES));
                    square[row] = if len == LANES {
                        V::load(from.add(part * LANES))
                    } else {
                        V::load_partial(from.wrapping_add(part * LANES), len)
                    };
                }
            }
        }
        for square in &mut kernels {
            V::transpose(square);
        }
        kernels
    }
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

/// One output channel's kernels, tap by tap, their lanes the input channels, turned by 180 degrees.
struct TurnedKernel<'a, V> {
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
    data: Shared,
    out_channels: usize,
    in_channels: usize,
    /// The gradient is borrowed as long as this lives.
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> WeightGradient<'a> {
    pub fn new(out_channels: usize, in_channels: usize, data: &'a mut [f32]) -> Self {
        assert_eq!(data.len(), out_channels * in_channels * TAPS);
        Self { data: Shared(data.as_mut_ptr()), out_channels, in_channels, borrow: PhantomData }
    }

    /// Writes `G^T u G` of sixteen input channels (rows of `from`) and sixteen output channels (their lanes),
    /// where `u` is the sum of `parts` transforms that lie `layout.len()` apart.
    ///
    /// # Safety
    /// `from` is valid for reads of all rows, frequencies and parts, `data` for writes of the whole weight, and no
    /// other thread reads or writes these channels' kernels at the same time.
    #[inline(always)]
    pub unsafe fn transform<V: F32x16>(
        &self,
        in_block: usize,
        out_block: usize,
        from: *const f32,
        layout: Layout,
        parts: usize,
    ) {
        let in_count = LANES.min(self.in_channels - in_block * LANES);
        let out_count = LANES.min(self.out_channels - out_block * LANES);
        let mut kernels = [[V::zero(); LANES]; TAPS];
        for row in 0..in_count {
            // SAFETY: a row of the caller's promise.
            let from = Parts { start: unsafe { from.add(row * LANES) }, layout, parts };
            two_dimensional(WeightGradientTransform, &from, &mut KernelTarget { kernels: &mut kernels, channel: row });
        }
        for square in &mut kernels {
            V::transpose(square);
        }
        for row in 0..out_count {
            let first = ((out_block * LANES + row) * self.in_channels + in_block * LANES) * TAPS;
            for (part, square) in kernels.iter().enumerate() {
                let len = LANES.min((in_count * TAPS).saturating_sub(part * LANES));
                // SAFETY: `in_count` kernels of one output channel lie one after the other from `first` on.
                unsafe {
                    let to = self.data.at(first).wrapping_add(part * LANES);
                    if len == LANES { square[row].store(to) } else { square[row].store_partial(to, len) }
                }
            }
        }
    }
}


/// The sum of several transforms.
struct Parts {
    start: *const f32,
    layout: Layout,
    parts: usize,
}

impl<V: F32x16> Source<V> for Parts {
    #[inline(always)]
    fn get(&self, row: usize, column: usize) -> V {
        // SAFETY: `WeightGradient::transform` was promised every frequency and part.
        unsafe {
            let place = self.start.add((row * PATCH + column) * self.layout.frequency());
            let mut sum = V::load(place);
            for part in 1..self.parts {
                sum = sum + V::load(place.add(part * self.layout.len()));
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
