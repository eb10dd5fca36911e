//! Convolutions of every shape, as products of an implicit matrix.
//!
//! The convolution is the product of a matrix with one row for each output pixel, which holds the input
//! pixels that the kernel covers there (`kernel * kernel * C` numbers), and the weights as a matrix of `O`
//! columns. That matrix is never stored: channels-last, the pixels that one line of the kernel covers are
//! neighbours in memory, so that each of the matrix's rows is `kernel` runs of `kernel * C` numbers, and
//! those of the next output pixel start `stride * C` numbers further. A task copies the input lines it needs
//! into cache, padded and activated, and the products read their rows there, overlapping, in place.
//!
//! The input gradient is a convolution of `dy` by the turned and transposed weights. With a stride `s`, an
//! input pixel is reached by those taps alone that agree with its row and its column modulo `s`: so the input
//! pixels fall into `s * s` phases, each a convolution of stride 1 with its own taps, and nothing is
//! multiplied by the zeros that a dilated `dy` would have.
//!
//! The weight gradient is the implicit matrix, transposed, times `dy`. Its sum runs over pixels, so pixels
//! are split between tasks where the weights alone are too few to go round, and the tasks' sums added at the
//! end.

mod pack;
mod window;

use std::ops::Range;

use window::{Pixels, Source, Window};

use super::{Activation, Conv2dShape};
use crate::Context;
use crate::gemm::Product;
use crate::microkernel::Operand;
use crate::parallel::for_each;
use crate::simd::LANES;

/// Rows of the implicit matrix that a task works on at a time: enough to reuse the weights it reads, few
/// enough for the cache.
const ROWS: usize = 128;
/// Pixels that the weight gradient sums over at a time: many for each reading and writing of the sums so far,
/// few enough for the cache.
const PIXELS: usize = 512;
/// Tasks to share out, at least, if that can be.
const TASKS: usize = 8;

pub(super) fn forward(
    ctx: &Context,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    w: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) {
    let Conv2dShape { in_channels, out_channels, kernel, stride, padding, .. } = *shape;
    let (height, width) = (shape.out_height(), shape.out_width());
    let weights = pack::by_output(ctx, w, out_channels, in_channels, kernel * kernel);
    let source = source(shape, x, activation);
    let parts = Part::split(kernel, kernel, in_channels);
    let (step, stride_in_window) = steps(shape);
    let line = width * out_channels;
    let bands = Bands::new(shape.batch, height, width, 1);
    for_each(ctx, bands.of(y, line), |(band, y)| {
        let window = Window {
            image: band.image,
            top: (band.first * stride) as isize - padding as isize,
            left: -(padding as isize),
            lines: (band.lines - 1) * stride_in_window + kernel,
            columns: (width - 1) * stride_in_window + kernel,
            step,
            channels: 0..in_channels,
        };
        let pixels = source.read(ctx, &window);
        Convolve {
            ctx,
            pixels: &pixels,
            start: 0,
            line: stride_in_window * pixels.line,
            pixel: stride_in_window * pixels.pixel,
            lines: band.lines,
            columns: width,
            parts: &parts,
            taps_in_line: kernel,
            channels: in_channels,
            weights: &weights,
            panel: kernel * kernel * in_channels * LANES,
            add: add.map(|add| &add[band.start(line)..][..y.len()]),
            out_channels,
            to_start: 0,
            to_line: line,
            to_pixel: out_channels,
        }
        .run(y);
    });
}

pub(super) fn backward_input(
    ctx: &Context,
    shape: &Conv2dShape,
    dy: &[f32],
    w: &[f32],
    add: Option<&[f32]>,
    dx: &mut [f32],
) {
    let Conv2dShape { height, width, in_channels, out_channels, kernel, stride, padding, .. } = *shape;
    let (phases, slots) = phases(shape);
    let weights = pack::by_input(ctx, w, out_channels, in_channels, &slots);
    let source = Source {
        data: dy,
        height: shape.out_height(),
        width: shape.out_width(),
        channels: out_channels,
        activation: None,
    };
    // How far the taps reach back from the place of an input pixel in `dy`, and where the last place is.
    let reach = kernel.div_ceil(stride) - 1;
    let columns = reach + (width - 1 + padding) / stride + 1;
    let line = width * in_channels;
    let bands = Bands::new(shape.batch, height, width, stride);
    for_each(ctx, bands.of(dx, line), |(band, dx)| {
        let places = (band.first + padding) / stride..(band.first + band.lines - 1 + padding) / stride + 1;
        let window = Window {
            image: band.image,
            top: places.start as isize - reach as isize,
            left: -(reach as isize),
            lines: reach + places.len(),
            columns,
            step: 1,
            channels: 0..out_channels,
        };
        let pixels = source.read(ctx, &window);
        let add = add.map(|add| &add[band.start(line)..][..dx.len()]);
        for phase in &phases {
            // The phase's first line and column in the band, and how many there are.
            let first =
                |from: usize, remainder: usize| (remainder + stride - (from + padding) % stride) % stride;
            let (i, j) = (first(band.first, phase.row), first(0, phase.column));
            let count = |first: usize, size: usize| size.saturating_sub(first).div_ceil(stride);
            let place = |at: usize, taps: usize| (at + padding) / stride + reach + 1 - taps;
            let (top, left) = (place(band.first + i, phase.taps.0) - places.start, place(j, phase.taps.1));
            Convolve {
                ctx,
                pixels: &pixels,
                start: top * pixels.line + left * pixels.pixel,
                line: pixels.line,
                pixel: pixels.pixel,
                lines: count(i, band.lines),
                columns: count(j, width),
                parts: &phase.parts,
                taps_in_line: phase.taps.1,
                channels: out_channels,
                weights: &weights[phase.first_slot * out_channels * LANES..],
                panel: slots.len() * out_channels * LANES,
                add,
                out_channels: in_channels,
                to_start: (i * width + j) * in_channels,
                to_line: stride * line,
                to_pixel: stride * in_channels,
            }
            .run(dx);
        }
    });
}

pub(super) fn backward_weight(
    ctx: &Context,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut [f32],
) {
    let Conv2dShape { batch, in_channels, out_channels, kernel, .. } = *shape;
    let source = source(shape, x, activation);
    let stride = out_channels.next_multiple_of(LANES);
    let taps = kernel * kernel;
    // Blocks of channels, and of output lines (of all images) where the former do not go round.
    let channels =
        in_channels.div_ceil(in_channels.div_ceil(2 * LANES)).next_multiple_of(LANES).min(in_channels);
    let channel_blocks = in_channels.div_ceil(channels);
    let lines = batch * shape.out_height();
    let line_blocks =
        if channel_blocks >= TASKS { 1 } else { (2 * TASKS).div_ceil(channel_blocks).min(lines.max(1)) };
    let mut partial = ctx.buffer(line_blocks * taps * in_channels * stride);
    let mut tasks = Vec::with_capacity(line_blocks * channel_blocks);
    for (block, sums) in partial.chunks_mut(taps * in_channels * stride).enumerate() {
        for (index, sums) in sums.chunks_mut(taps * channels * stride).enumerate() {
            let channels = index * channels..in_channels.min((index + 1) * channels);
            let lines = lines * block / line_blocks..lines * (block + 1) / line_blocks;
            tasks.push(Correlate { ctx, shape, source, channels, dy, lines, sums });
        }
    }
    for_each(ctx, tasks, Correlate::run);
    pack::sum_to_weights(ctx, &partial, shape, channels, dw);
}

fn source<'a>(shape: &Conv2dShape, x: &'a [f32], activation: Option<Activation<'a>>) -> Source<'a> {
    let Conv2dShape { height, width, in_channels: channels, .. } = *shape;
    Source { data: x, height, width, channels, activation }
}

/// The step between pixels copied into a window, and the convolution's stride there: a kernel of one pixel
/// needs no others than those it is applied to.
fn steps(shape: &Conv2dShape) -> (usize, usize) {
    if shape.kernel == 1 { (shape.stride, 1) } else { (1, shape.stride) }
}

/// Some neighbouring lines of an image.
struct Band {
    image: usize,
    first: usize,
    lines: usize,
    /// Lines of a whole image.
    height: usize,
}

impl Band {
    /// Where the band starts in a batch of images with lines of `line` elements.
    fn start(&self, line: usize) -> usize {
        (self.image * self.height + self.first) * line
    }
}

/// Images in bands of equal height.
struct Bands {
    height: usize,
    lines: usize,
}

impl Bands {
    /// Bands of about [`ROWS`] pixels of each phase, of a multiple of `stride` lines where possible.
    fn new(batch: usize, height: usize, width: usize, stride: usize) -> Self {
        let pixels = height.div_ceil(stride) * width.div_ceil(stride);
        let bands = pixels.div_ceil(ROWS).max(TASKS.div_ceil(batch.max(1))).min(height);
        Self { height, lines: height.div_ceil(bands).next_multiple_of(stride) }
    }

    /// The bands of a batch of images with lines of `line` elements.
    fn of<'a>(&self, images: &'a mut [f32], line: usize) -> Vec<(Band, &'a mut [f32])> {
        let &Self { height, lines } = self;
        let bands = |(image, data): (usize, &'a mut [f32])| {
            data.chunks_mut(lines * line).enumerate().map(move |(index, data)| {
                (Band { image, first: index * lines, lines: data.len() / line, height }, data)
            })
        };
        images.chunks_mut(height * line).enumerate().flat_map(bands).collect()
    }
}

/// A part of the taps and channels, contiguous in the order of taps by line and column and their channels.
#[derive(Clone, Debug)]
struct Part {
    lines: Range<usize>,
    columns: Range<usize>,
    channels: Range<usize>,
}

impl Part {
    /// Splits all taps and channels into parts that products sum over at once: short enough for the cache and
    /// for the accuracy of an `f32` sum, long enough to hide loading the sums so far.
    fn split(lines: usize, columns: usize, channels: usize) -> Vec<Self> {
        const LEN: usize = 512;
        let pieces = |total: usize, size: usize| {
            (0..total.div_ceil(size)).map(move |i| i * size..total.min((i + 1) * size)).collect::<Vec<_>>()
        };
        let even = |total: usize, limit: usize| total.div_ceil(total.div_ceil(limit.max(1)).max(1)).max(1);
        let line_pieces = pieces(lines, even(lines, LEN / (columns * channels).max(1)));
        let column_pieces = pieces(
            columns,
            if columns * channels > LEN { even(columns, LEN / channels) } else { columns.max(1) },
        );
        let size = if channels > LEN { even(channels, LEN).next_multiple_of(LANES) } else { channels };
        let mut parts = Vec::new();
        for lines in line_pieces {
            for columns in &column_pieces {
                for channels in pieces(channels, size) {
                    parts.push(Self { lines: lines.clone(), columns: columns.clone(), channels });
                }
            }
        }
        parts
    }

    /// Where the part starts in the order of all.
    fn start(&self, taps_in_line: usize, channels: usize) -> usize {
        (self.lines.start * taps_in_line + self.columns.start) * channels + self.channels.start
    }

    /// The length of its run in each line.
    fn depth(&self) -> usize {
        self.columns.len() * self.channels.len()
    }
}

/// The input pixels whose padded row and column leave these remainders by the stride, and the taps that reach
/// them.
struct Phase {
    row: usize,
    column: usize,
    /// Lines and columns of taps.
    taps: (usize, usize),
    parts: Vec<Part>,
    /// Where the phase's taps start in the order of all phases' taps.
    first_slot: usize,
}

/// All phases, and for each of the kernel's taps its place in the order of all phases' taps.
///
/// Within a phase the taps go backwards, as the convolution by a turned kernel has them.
fn phases(shape: &Conv2dShape) -> (Vec<Phase>, Vec<usize>) {
    let Conv2dShape { out_channels, kernel, stride, .. } = *shape;
    let mut slots = vec![0; kernel * kernel];
    let mut next = 0;
    let mut phases = Vec::with_capacity(stride * stride);
    for (row, column) in (0..stride).flat_map(|row| (0..stride).map(move |column| (row, column))) {
        let taps = |remainder: usize| (remainder..kernel).step_by(stride);
        let (lines, columns) = (taps(row).len(), taps(column).len());
        let parts = Part::split(lines, columns, out_channels);
        phases.push(Phase { row, column, taps: (lines, columns), parts, first_slot: next });
        for a in taps(row).rev() {
            for b in taps(column).rev() {
                slots[a * kernel + b] = next;
                next += 1;
            }
        }
    }
    (phases, slots)
}

/// A convolution of pixels in cache.
struct Convolve<'a> {
    ctx: &'a Context,
    pixels: &'a Pixels<'a>,
    /// Where the first output pixel's first tap is, and the distances to those of the next line and the next
    /// pixel.
    start: usize,
    line: usize,
    pixel: usize,
    /// Output lines, and pixels in each.
    lines: usize,
    columns: usize,
    parts: &'a [Part],
    taps_in_line: usize,
    channels: usize,
    /// Panels of sixteen output channels, `panel` elements apart.
    weights: &'a [f32],
    panel: usize,
    add: Option<&'a [f32]>,
    out_channels: usize,
    /// Where the first output pixel goes, and the distances to the next line's and the next pixel's.
    to_start: usize,
    to_line: usize,
    to_pixel: usize,
}

impl Convolve<'_> {
    /// Writes the convolution, plus `add`, to `to`.
    fn run(self, to: &mut [f32]) {
        let Self { ctx, pixels, mut lines, mut columns, parts, channels, out_channels, .. } = self;
        if lines == 0 || columns == 0 {
            return;
        }
        let end = self.to_start + (lines - 1) * self.to_line + (columns - 1) * self.to_pixel + out_channels;
        assert!(to.len() >= end && self.add.is_none_or(|add| add.len() >= end));
        let last = self.start + (lines - 1) * self.line + (columns - 1) * self.pixel;
        // Lines that follow each other everywhere are one.
        if self.line == columns * self.pixel && self.to_line == columns * self.to_pixel {
            (lines, columns) = (1, lines * columns);
        }
        let to = to[self.to_start..].as_mut_ptr();
        let mut base = self.add.map(|add| add[self.to_start..].as_ptr());
        // Without taps, what is added is all there is.
        let nothing = [Part { lines: 0..0, columns: 0..0, channels: 0..0 }];
        for part in if parts.is_empty() { &nothing } else { parts } {
            let start =
                part.lines.start * pixels.line + part.columns.start * pixels.pixel + part.channels.start;
            let runs: Vec<_> = (0..part.lines.len()).map(|line| line * pixels.line).collect();
            let (depth, taps) = (part.depth(), part.start(self.taps_in_line, channels) * LANES);
            if let Some(run) = runs.last() {
                assert!(pixels.len() >= last + start + run + depth);
                let panels = (out_channels.div_ceil(LANES) - 1) * self.panel;
                assert!(self.weights.len() >= panels + taps + runs.len() * depth * LANES);
            }
            let product = Product {
                a: Operand {
                    start: pixels.as_ptr().wrapping_add(self.start + start),
                    stride: self.pixel,
                    step: 1,
                },
                b: Operand {
                    start: self.weights.as_ptr().wrapping_add(taps),
                    stride: self.panel,
                    step: LANES,
                },
                runs: &runs,
                depth,
                groups: lines,
                rows: columns,
                columns: out_channels,
                group: self.line,
                to_group: self.to_line,
                to_row: self.to_pixel,
                base,
                to,
            };
            // SAFETY: without runs no operand is read; otherwise the last element read of either is within it
            // (asserted above). The last one written is within `to`, and read within `add` (asserted above);
            // `to` is borrowed exclusively, and its pixels are `out_channels` or more apart.
            unsafe { product.compute(ctx.instruction_set()) };
            base = Some(to);
        }
    }
}

/// The weight gradient's rows of some input channels, summed over some output lines of all images.
struct Correlate<'a> {
    ctx: &'a Context,
    shape: &'a Conv2dShape,
    source: Source<'a>,
    channels: Range<usize>,
    dy: &'a [f32],
    /// Of all images' output lines.
    lines: Range<usize>,
    /// `[tap][channel][O rounded up to 16]`.
    sums: &'a mut [f32],
}

impl Correlate<'_> {
    fn run(self) {
        let Self { ctx, shape, source, channels, dy, lines, sums } = self;
        let Conv2dShape { out_channels, kernel, stride, padding, .. } = *shape;
        let (height, width) = (shape.out_height(), shape.out_width());
        let columns = out_channels.next_multiple_of(LANES);
        let (step, stride_in_window) = steps(shape);
        let pixel = channels.len();
        assert_eq!(sums.len(), kernel * kernel * pixel * columns);
        if lines.is_empty() {
            sums.fill(0.0);
            return;
        }
        let block = PIXELS.div_ceil(width);
        let line = ((width - 1) * stride_in_window + kernel) * pixel;
        let mut scratch = ctx.buffer(block * kernel.max(stride_in_window) * line);
        let mut padded = ctx.zeroed(if columns == out_channels { 0 } else { block * width * columns });
        let to = sums.as_mut_ptr();
        let mut base = None;
        for start in lines.clone().step_by(block) {
            let end = lines.end.min(start + block);
            // The input lines under these output lines, image by image, and where each output line's first
            // tap is.
            let mut runs = Vec::with_capacity(block);
            let (mut used, mut next) = (0, start);
            while next < end {
                let (image, first) = (next / height, next % height);
                let count = (end - next).min(height - first);
                let window = Window {
                    image,
                    top: (first * stride) as isize - padding as isize,
                    left: -(padding as isize),
                    lines: (count - 1) * stride_in_window + kernel,
                    columns: line / pixel,
                    step,
                    channels: channels.clone(),
                };
                source.copy(ctx, &window, &mut scratch[used..used + window.len()]);
                runs.extend((0..count).map(|i| used + i * stride_in_window * line));
                used += window.len();
                next += count;
            }
            let dy = &dy[start * width * out_channels..end * width * out_channels];
            let right = if columns == out_channels {
                dy.as_ptr()
            } else {
                for (to, from) in padded.chunks_exact_mut(columns).zip(dy.chunks_exact(out_channels)) {
                    to[..out_channels].copy_from_slice(from);
                }
                padded.as_ptr()
            };
            let product = Product {
                a: Operand { start: scratch.as_ptr(), stride: 1, step: stride_in_window * pixel },
                b: Operand { start: right, stride: LANES, step: columns },
                runs: &runs,
                depth: width,
                // The lines of the kernel.
                groups: kernel,
                rows: kernel * pixel,
                columns,
                group: line,
                to_group: kernel * pixel * columns,
                to_row: columns,
                base,
                to,
            };
            // SAFETY: the window under each run has `kernel` lines from there on, and in each `kernel` pixels
            // from the last output pixel's first tap on; `b` has `width` rows for each run. `to` holds the
            // rows of all taps (asserted above) and is borrowed exclusively.
            unsafe { product.compute(ctx.instruction_set()) };
            base = Some(to.cast_const());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once_and_in_order() {
        for (lines, columns, channels) in [
            (1, 1, 1),
            (1, 1, 16),
            (3, 3, 3),
            (3, 3, 32),
            (3, 3, 64),
            (3, 3, 160),
            (2, 2, 640),
            (3, 3, 1000),
            (5, 5, 17),
        ] {
            let mut next = 0;
            for part in Part::split(lines, columns, channels) {
                assert_eq!(part.start(columns, channels), next);
                // Contiguous in the order of all.
                assert!(
                    part.channels.len() == channels || (part.columns.len() == 1 && part.lines.len() == 1)
                );
                assert!(part.columns.len() == columns || part.lines.len() == 1);
                let len = part.lines.len() * part.depth();
                assert!(len <= 512);
                next += len;
            }
            assert_eq!(next, lines * columns * channels);
        }
        assert!(Part::split(0, 3, 16).is_empty() && Part::split(2, 0, 16).is_empty());
    }

    #[test]
    fn phases_take_each_tap_once() {
        let mut shape = Conv2dShape {
            batch: 1,
            height: 8,
            width: 8,
            in_channels: 1,
            out_channels: 1,
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let counts = |shape: &Conv2dShape| phases(shape).0.iter().map(|phase| phase.taps).collect::<Vec<_>>();
        assert_eq!(counts(&shape), [(2, 2), (2, 1), (1, 2), (1, 1)]);
        shape.kernel = 1;
        assert_eq!(counts(&shape), [(1, 1), (1, 0), (0, 1), (0, 0)]);
        shape.stride = 1;
        assert_eq!(counts(&shape), [(1, 1)]);
        (shape.kernel, shape.stride) = (5, 3);
        let (_, mut slots) = phases(&shape);
        slots.sort_unstable();
        assert_eq!(slots, (0..25).collect::<Vec<_>>());
    }
}
