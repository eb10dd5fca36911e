//! The rows of the implicit matrix: for every output pixel, the input pixels its kernel covers.

use std::ops::Range;

use crate::conv2d::Activation;
use crate::InstructionSet;
use crate::simd::{Algorithm, F32x16, LANES};

/// A batch of images, `[N, height, width, channels]`, that is zero beyond its edges.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub data: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// What is applied to each pixel read.
    pub activation: Option<Activation<'a>>,
}

/// The place in a [`Source`] from which a row's taps are counted. It may lie beyond the edges.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub image: usize,
    pub row: isize,
    pub column: isize,
}

/// The displacement of one of the kernel's places from the origin, in rows and columns of the source.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    pub rows: isize,
    pub columns: isize,
}

/// A part of a row of the implicit matrix: some taps, and some channels of each.
#[derive(Clone)]
pub(super) struct Part {
    pub taps: Range<usize>,
    pub channels: Range<usize>,
}

impl Part {
    pub fn len(&self) -> usize {
        self.taps.len() * self.channels.len()
    }

    /// Where the part starts in a row of `channels` for each tap.
    pub fn start(&self, channels: usize) -> usize {
        self.taps.start * channels + self.channels.start
    }

    /// Splits rows of `taps` times `channels` into contiguous parts that products sum over at once: short enough
    /// for the cache and for the accuracy of an `f32` sum, long enough to hide loading the sums so far.
    pub fn split(taps: usize, channels: usize) -> Vec<Self> {
        const LEN: usize = 320;
        let pieces = |total: usize, size: usize| {
            (0..total.div_ceil(size)).map(move |i| i * size..total.min((i + 1) * size))
        };
        if channels > LEN {
            let size = channels.div_ceil(channels.div_ceil(LEN)).next_multiple_of(LANES);
            let of_tap = |tap| pieces(channels, size).map(move |channels| Self { taps: tap..tap + 1, channels });
            (0..taps).flat_map(of_tap).collect()
        } else {
            let size = taps.div_ceil((taps * channels).div_ceil(LEN).max(1)).max(1);
            pieces(taps, size).map(|taps| Self { taps, channels: 0..channels }).collect()
        }
    }
}

impl Source<'_> {
    /// Writes a part of the matrix's rows at `origins` to `to`, one after another.
    ///
    /// # Panics
    /// If `to` does not hold these rows, or the part is none of the source's and taps'.
    pub fn gather(
        &self,
        instruction_set: InstructionSet,
        origins: &[Origin],
        taps: &[Tap],
        part: &Part,
        to: &mut [f32],
    ) {
        let taps = &taps[part.taps.clone()];
        assert!(to.len() >= origins.len() * part.len() && part.channels.end <= self.channels);
        instruction_set.dispatch(Gather { source: self, origins, taps, channels: part.channels.clone(), to });
    }

    /// The index of the pixel under a tap, or none beyond the edges.
    #[inline(always)]
    fn pixel(&self, origin: &Origin, tap: &Tap) -> Option<usize> {
        // Negative places wrap to beyond every size.
        let row = (origin.row + tap.rows) as usize;
        let column = (origin.column + tap.columns) as usize;
        let inside = row < self.height && column < self.width;
        inside.then(|| (origin.image * self.height + row) * self.width + column)
    }
}

/// Made by [`Source::gather`] alone, which checks the lengths.
struct Gather<'a> {
    source: &'a Source<'a>,
    origins: &'a [Origin],
    taps: &'a [Tap],
    channels: Range<usize>,
    to: &'a mut [f32],
}

impl Algorithm for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { source, origins, taps, channels, to } = self;
        let mut to = to.as_mut_ptr();
        for origin in origins {
            for tap in taps {
                let pixel = source.pixel(origin, tap).map(|pixel| {
                    let start = pixel * source.channels;
                    &source.data[start + channels.start..start + channels.end]
                });
                // SAFETY: `channels` elements of the `origins * taps * channels` that `to` holds; the channels are the
                // source's, and so the activation's.
                unsafe {
                    match (pixel, source.activation) {
                        (None, _) => zero::<V>(channels.len(), to),
                        (Some(pixel), None) => copy::<V>(pixel, to),
                        (Some(pixel), Some(activation)) => {
                            activate::<V>(pixel, activation, channels.start, to);
                        }
                    }
                    to = to.add(channels.len());
                }
            }
        }
    }
}

/// # Safety
/// `to` is writable for `len` elements.
#[inline(always)]
unsafe fn zero<V: F32x16>(len: usize, to: *mut f32) {
    // SAFETY: the caller's promise, within `len`.
    unsafe { by_vector::<V>(len, |i| V::zero().store(to.add(i)), |i, n| V::zero().store_partial(to.add(i), n)) }
}

/// # Safety
/// `to` is writable for `from.len()` elements that are not `from`'s.
#[inline(always)]
unsafe fn copy<V: F32x16>(from: &[f32], to: *mut f32) {
    let start = from.as_ptr();
    // SAFETY: the caller's promise, within `from.len()`.
    unsafe {
        by_vector::<V>(
            from.len(),
            |i| V::load(start.add(i)).store(to.add(i)),
            |i, n| V::load_partial(start.add(i), n).store_partial(to.add(i), n),
        );
    }
}

/// # Safety
/// `to` is writable for `from.len()` elements that are not `from`'s; the activation has as many from `first` on.
#[inline(always)]
unsafe fn activate<V: F32x16>(from: &[f32], activation: Activation, first: usize, to: *mut f32) {
    let start = from.as_ptr();
    let (scale, shift) = (activation.scale[first..].as_ptr(), activation.shift[first..].as_ptr());
    // SAFETY: the caller's promise, within `from.len()`.
    unsafe {
        by_vector::<V>(
            from.len(),
            |i| {
                let a = V::load(start.add(i)).mul_add(V::load(scale.add(i)), V::load(shift.add(i)));
                a.max(V::zero()).store(to.add(i));
            },
            |i, n| {
                let (scale, shift) = (V::load_partial(scale.add(i), n), V::load_partial(shift.add(i), n));
                let a = V::load_partial(start.add(i), n).mul_add(scale, shift);
                a.max(V::zero()).store_partial(to.add(i), n);
            },
        );
    }
}

/// Covers `len` elements with calls of `whole(start)` for sixteen and, at the end, `partial(start, count)`.
#[inline(always)]
fn by_vector<V: F32x16>(len: usize, whole: impl Fn(usize), partial: impl Fn(usize, usize)) {
    let vectors = len / LANES * LANES;
    for i in (0..vectors).step_by(LANES) {
        whole(i);
    }
    if vectors < len {
        partial(vectors, len - vectors);
    }
}
