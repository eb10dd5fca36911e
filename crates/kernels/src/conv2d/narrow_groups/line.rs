//! One line of a result.

use std::ops::Range;

use crate::Cpu;
use crate::simd::{F32x16, LANES, UncheckedAlgorithm, load};
use crate::uninit::Uninit;

/// What a result is summed from: a tap of the kernel on a line of the images.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// The line's first element.
    pub line: usize,
    /// The column that the first result of the line takes; it may be beyond the edges.
    pub column: isize,
    /// The kernel's tap.
    pub weight: usize,
}

/// Sums over taps for results of one line.
pub(super) struct ConvolveLine<'a> {
    /// Images, channels last.
    pub from: &'a [f32],
    /// Columns of a line of them.
    pub width: usize,
    pub channels: usize,
    /// Columns of `from` from one result to the next.
    pub step: usize,
    pub taps: &'a [Tap],
    /// `[channels / 16][tap][k][16]`.
    pub weights: &'a [f32],
    /// Channels of a group.
    pub group: usize,
    /// Taps of the whole kernel.
    pub kernel_taps: usize,
    /// What is added, a line like `to`.
    pub add: Option<&'a [f32]>,
    /// The line of results: those of the columns from `first` on, every `every`-th, are written.
    pub to: &'a mut Uninit,
    pub first: usize,
    pub every: usize,
}

impl ConvolveLine<'_> {
    /// Writes the results.
    ///
    /// # Panics
    /// If a tap's line is not one of `from`, or a slice is shorter than it says.
    pub fn run(self, cpu: &Cpu) {
        let line = self.width * self.channels;
        assert!(
            self.taps.iter().all(|tap| tap.line + line <= self.from.len() && tap.weight < self.kernel_taps)
        );
        assert!(self.weights.len() >= self.channels.div_ceil(LANES) * self.kernel_taps * self.group * LANES);
        assert!(self.add.is_none_or(|add| add.len() == self.to.len()));
        assert!(self.to.len().is_multiple_of(self.channels));
        // SAFETY: the lines, weights and what is added are as long as the results need (asserted above).
        unsafe {
            match self.group {
                1 => cpu.instruction_set().dispatch_unchecked(ConvolveGroups::<1>(self)),
                2 => cpu.instruction_set().dispatch_unchecked(ConvolveGroups::<2>(self)),
                4 => cpu.instruction_set().dispatch_unchecked(ConvolveGroups::<4>(self)),
                8 => cpu.instruction_set().dispatch_unchecked(ConvolveGroups::<8>(self)),
                group => unreachable!("groups of {group} channels take another way"),
            }
        }
    }
}

/// [`ConvolveLine`] for groups of `GROUP` channels.
///
/// # Safety
/// Every tap's line is `width` pixels of `from`; the weights are those of all channels, taps and `k`; `add` has the length
/// of `to`, which is whole pixels.
struct ConvolveGroups<'a, const GROUP: usize>(ConvolveLine<'a>);

impl<const GROUP: usize> UncheckedAlgorithm for ConvolveGroups<'_, GROUP> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let mut line = self.0;
        let count = (line.to.len() / line.channels).saturating_sub(line.first).div_ceil(line.every);
        let whole = whole(&line, count);
        for block in 0..line.channels.div_ceil(LANES) {
            // SAFETY: the caller's promise. A constant where it matters, so that whole vectors get their own straight code.
            unsafe {
                match LANES.min(line.channels - block * LANES) {
                    LANES => self::block::<V, GROUP>(&mut line, block, LANES, count, whole.clone()),
                    lanes => self::block::<V, GROUP>(&mut line, block, lanes, count, whole.clone()),
                }
            }
        }
    }
}

/// All results of a block of `lanes` channels.
///
/// # Safety
/// As [`ConvolveGroups`]; every tap of the results in `whole` is inside the line.
#[inline(always)]
unsafe fn block<V: F32x16, const GROUP: usize>(
    line: &mut ConvolveLine,
    block: usize,
    lanes: usize,
    count: usize,
    whole: Range<usize>,
) {
    let mut at = 0;
    while at < count {
        // As many results at once as registers hold sums of; those with taps beyond the edges go one by one.
        let left = if whole.contains(&at) { whole.end - at } else { 1 };
        // SAFETY: the caller's promise.
        at += unsafe {
            match (V::NARROW_TILE.0, left) {
                (16, 8..) => sums::<V, GROUP, 8>(line, block, lanes, at),
                (6.., 4..) => sums::<V, GROUP, 4>(line, block, lanes, at),
                (_, 2..) => sums::<V, GROUP, 2>(line, block, lanes, at),
                _ => sums::<V, GROUP, 1>(line, block, lanes, at),
            }
        };
    }
}

/// The results all of whose taps are inside the line.
fn whole(line: &ConvolveLine, count: usize) -> Range<usize> {
    let mut range = 0..count;
    for tap in line.taps {
        let inside = tap.columns(line.width, line.step);
        range = range.start.max(inside.start)..range.end.min(inside.end);
    }
    range.start..range.end.max(range.start)
}

impl Tap {
    /// The results that find the tap inside a line of `width` columns.
    pub fn columns(&self, width: usize, step: usize) -> Range<usize> {
        let before = (-self.column).max(0) as usize;
        let after = (width as isize - self.column).max(0) as usize;
        before.div_ceil(step)..after.div_ceil(step)
    }
}

/// Writes `N` neighboring results from result `at` on, for one block of channels; gives their number. A single one leaves
/// out its taps beyond the edges.
///
/// # Safety
/// As [`ConvolveGroups`]; every tap of the results is inside the line, unless there is one result.
#[inline(always)]
unsafe fn sums<V: F32x16, const GROUP: usize, const N: usize>(
    line: &mut ConvolveLine,
    block: usize,
    lanes: usize,
    at: usize,
) -> usize {
    let mut sums = [V::zero(); N];
    for tap in line.taps {
        if N == 1 && !tap.columns(line.width, line.step).contains(&at) {
            continue;
        }
        // SAFETY: the tap of result `at`, and those of the results after it, `step` columns apart.
        unsafe {
            let column = (tap.column + (at * line.step) as isize) as usize;
            let from = line.from.as_ptr().add(tap.line + column * line.channels + block * LANES);
            let weights = line.weights.as_ptr();
            let weights = weights.add((block * line.kernel_taps + tap.weight) * GROUP * LANES);
            for k in 0..GROUP {
                let weight = V::load(weights.add(k * LANES));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let pixel = from.add(i * line.step * line.channels);
                    *sum = load_of_groups::<V, GROUP>(pixel, k, lanes).mul_add(weight, *sum);
                }
            }
        }
    }
    for (i, sum) in sums.into_iter().enumerate() {
        // SAFETY: a result of the line.
        unsafe { put(line, block, lanes, at + i, sum) };
    }
    N
}

/// For each group of the first `lanes` lanes its element `k`, in all of its lanes.
///
/// # Safety
/// `lanes` elements from `from` on are readable; they are whole groups, and at most sixteen.
#[inline(always)]
pub(super) unsafe fn load_of_groups<V: F32x16, const GROUP: usize>(
    from: *const f32,
    k: usize,
    lanes: usize,
) -> V {
    // SAFETY: sixteen elements in the first case; `lanes` in the second, and sixteen of the copy.
    unsafe {
        if lanes == LANES {
            V::load_of_groups::<GROUP>(from, k)
        } else {
            let mut copy = [0f32; LANES];
            V::load_partial(from, lanes).store(copy.as_mut_ptr());
            V::load_of_groups::<GROUP>(copy.as_ptr(), k)
        }
    }
}

/// Writes a sum, plus what is added to it, to result `at`.
///
/// # Safety
/// `block`, its `lanes` and `at` are of the line.
#[inline(always)]
unsafe fn put<V: F32x16>(line: &mut ConvolveLine, block: usize, lanes: usize, at: usize, mut sum: V) {
    let place = (line.first + at * line.every) * line.channels + block * LANES;
    if let Some(add) = line.add {
        sum = sum + load(add, place, lanes);
    }
    // SAFETY: `lanes` elements of the line.
    unsafe {
        let to = line.to.as_mut_ptr().cast::<f32>().add(place);
        if lanes == LANES { sum.store(to) } else { sum.store_partial(to, lanes) }
    }
}
