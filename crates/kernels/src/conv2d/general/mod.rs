//! Convolutions of every shape, as products of an implicit matrix.
//!
//! The convolution is the product of a matrix with one row for each output pixel, which holds the input pixels that
//! the kernel covers there (`taps * C` numbers), and the weights as a matrix of `O` columns. That matrix is never
//! stored: each task gathers a part of some hundred of its rows into cache, padded and activated, and multiplies.
//!
//! The input gradient is a convolution of `dy` by the transposed weights. With a stride `s`, an input pixel is reached
//! by those taps alone that agree with its row and its column modulo `s`: so the input pixels fall into `s * s`
//! phases, each a convolution of stride 1 with its own taps, and nothing is multiplied by the zeros that a dilated `dy`
//! would have.
//!
//! The weight gradient is the implicit matrix, transposed, times `dy`. Its sum runs over pixels, so pixels are split
//! between tasks where the weights alone are too few to go round, and the tasks' sums added at the end.

mod direct;
mod gather;
mod pack;

use gather::{Origin, Part, Source, Tap};

use super::{Activation, Conv2dShape};
use crate::gemm::Product;
use crate::microkernel::Operand;
use crate::parallel::{block_len, for_each};
use crate::simd::LANES;
use crate::Context;

/// Rows of the implicit matrix that a task works on: enough to reuse the weights it reads, few enough for the cache.
const ROWS: usize = 112;

pub(super) fn forward(
    ctx: &Context,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    w: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) {
    let taps = all_taps(shape);
    let weights = pack::by_output(ctx, w, shape.out_channels, shape.in_channels, taps.len());
    let source = source(shape, x, activation);
    if direct::fits(shape) {
        return direct::forward(ctx, shape, &source, &weights, add, y);
    }
    let columns = shape.out_channels;
    let panel = taps.len() * shape.in_channels * LANES;
    let block = block_len(y.len() / columns, ROWS);
    for_each(ctx, y.chunks_mut(block * columns).enumerate(), |(index, y)| {
        let origins: Vec<_> = (0..y.len() / columns).map(|row| origin(shape, index * block + row)).collect();
        let rows: Vec<_> = (0..origins.len()).map(|row| row * columns).collect();
        let add = add.map(|add| &add[index * block * columns..][..y.len()]);
        let in_place = is_pointwise(shape);
        let matrix = Matrix { source, origins: &origins, taps: &taps, in_place };
        Convolve { ctx, matrix, weights: &weights, panel, rows: &rows, columns, add, to: y }.run();
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
    let Conv2dShape { height, width, in_channels, out_channels, stride, padding, .. } = *shape;
    let (phases, slots) = phases(shape);
    let weights = pack::by_input(ctx, w, out_channels, in_channels, &slots);
    let panel = slots.len() * out_channels * LANES;
    let source = Source {
        data: dy,
        height: shape.out_height(),
        width: shape.out_width(),
        channels: out_channels,
        activation: None,
    };
    // Whole image lines, a multiple of the stride, so that every task has as many pixels of each phase.
    let line = width * in_channels;
    let block = block_len(dx.len() / line, (ROWS * stride * stride).div_ceil(width)).next_multiple_of(stride);
    for_each(ctx, dx.chunks_mut(block * line).enumerate(), |(index, dx)| {
        let add = add.map(|add| &add[index * block * line..][..dx.len()]);
        for phase in &phases {
            let (mut origins, mut rows) = (Vec::new(), Vec::new());
            for line in 0..dx.len() / line {
                let (image, i) = ((index * block + line) / height, (index * block + line) % height + padding);
                if i % stride != phase.row {
                    continue;
                }
                for j in (padding..padding + width).filter(|j| j % stride == phase.column) {
                    origins.push(Origin { image, row: (i / stride) as isize, column: (j / stride) as isize });
                    rows.push((line * width + j - padding) * in_channels);
                }
            }
            let matrix = Matrix { source, origins: &origins, taps: &phase.taps, in_place: is_pointwise(shape) };
            let weights = &weights[phase.first_slot * out_channels * LANES..];
            let to = &mut *dx;
            Convolve { ctx, matrix, weights, panel, rows: &rows, columns: in_channels, add, to }.run();
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
    let Conv2dShape { in_channels, out_channels, .. } = *shape;
    let taps = all_taps(shape);
    let source = source(shape, x, activation);
    let pixels = dy.len() / out_channels;
    let stride = out_channels.next_multiple_of(LANES);
    let row = taps.len() * in_channels;
    let parts = Part::split(taps.len(), in_channels);
    // Enough tasks to go round.
    let blocks = 24usize.div_ceil(parts.len()).min(pixels.div_ceil(4 * ROWS)).max(1);
    let block = pixels.div_ceil(blocks).max(1);
    let mut partial = ctx.buffer(blocks * row * stride);
    let mut tasks = Vec::with_capacity(blocks * parts.len());
    for (index, mut sums) in partial.chunks_mut(row * stride).enumerate() {
        for part in &parts {
            let (sum, rest) = sums.split_at_mut(part.len() * stride);
            sums = rest;
            tasks.push((index * block..pixels.min((index + 1) * block), part, sum));
        }
    }
    for_each(ctx, tasks, |(pixels, part, to)| {
        let origins: Vec<_> = pixels.clone().map(|pixel| origin(shape, pixel)).collect();
        let dy = &dy[pixels.start * out_channels..pixels.end * out_channels];
        let matrix = Matrix { source, origins: &origins, taps: &taps, in_place: is_pointwise(shape) };
        Correlate { ctx, matrix, part, dy, columns: out_channels, to }.run();
    });
    pack::sum_to_weights(ctx, &partial, out_channels, in_channels, taps.len(), dw);
}

fn source<'a>(shape: &Conv2dShape, x: &'a [f32], activation: Option<Activation<'a>>) -> Source<'a> {
    let Conv2dShape { height, width, in_channels: channels, .. } = *shape;
    Source { data: x, height, width, channels, activation }
}

/// Whether the implicit matrix is the tensor itself, pixel by pixel.
fn is_pointwise(shape: &Conv2dShape) -> bool {
    (shape.kernel, shape.stride, shape.padding) == (1, 1, 0)
}

/// The taps of a kernel in their order in the weight.
fn all_taps(shape: &Conv2dShape) -> Vec<Tap> {
    let kernel = shape.kernel as isize;
    (0..kernel).flat_map(|rows| (0..kernel).map(move |columns| Tap { rows, columns })).collect()
}

/// The input pixel under the first tap at an output pixel.
fn origin(shape: &Conv2dShape, pixel: usize) -> Origin {
    let (width, height) = (shape.out_width(), shape.out_height());
    let place = |index: usize| (index * shape.stride) as isize - shape.padding as isize;
    Origin {
        image: pixel / (width * height),
        row: place(pixel / width % height),
        column: place(pixel % width),
    }
}

/// The input pixels whose padded row and column leave these remainders by the stride, and the taps that reach them.
struct Phase {
    row: usize,
    column: usize,
    /// As displacements in `dy` from the pixel's padded place divided by the stride.
    taps: Vec<Tap>,
    /// Where the phase's taps start in the order of all phases' taps.
    first_slot: usize,
}

/// All phases, and for each of the kernel's taps its place in the order of all phases' taps.
fn phases(shape: &Conv2dShape) -> (Vec<Phase>, Vec<usize>) {
    let Conv2dShape { kernel, stride, .. } = *shape;
    let mut slots = vec![0; kernel * kernel];
    let mut next = 0;
    let mut phases = Vec::with_capacity(stride * stride);
    for (row, column) in (0..stride).flat_map(|row| (0..stride).map(move |column| (row, column))) {
        let mut phase = Phase { row, column, taps: Vec::new(), first_slot: next };
        for a in (row..kernel).step_by(stride) {
            for b in (column..kernel).step_by(stride) {
                phase.taps.push(Tap { rows: -((a / stride) as isize), columns: -((b / stride) as isize) });
                slots[a * kernel + b] = next;
                next += 1;
            }
        }
        phases.push(phase);
    }
    (phases, slots)
}

/// Rows of the implicit matrix.
struct Matrix<'a> {
    source: Source<'a>,
    origins: &'a [Origin],
    taps: &'a [Tap],
    /// Whether the rows are neighbouring pixels of the source as they are, unless activated.
    in_place: bool,
}

impl Matrix<'_> {
    /// A part of the rows in memory: its start, and the distance from row to row. `scratch` is for the gathered rows.
    ///
    /// # Panics
    /// If `scratch` is too short for them, or there are none.
    fn rows(&self, ctx: &Context, origins: &[Origin], part: &Part, scratch: &mut [f32]) -> (*const f32, usize) {
        let Source { data, height, width, channels, activation } = self.source;
        if self.in_place && activation.is_none() {
            let Origin { image, row, column } = origins[0];
            let pixel = (image * height + row as usize) * width + column as usize;
            let rows = &data[pixel * channels..(pixel + origins.len()) * channels];
            (rows[part.channels.start..].as_ptr(), channels)
        } else {
            self.source.gather(ctx.instruction_set(), origins, self.taps, part, scratch);
            (scratch.as_ptr(), part.len())
        }
    }
}

/// `to[rows] = matrix * weights + add[rows]`.
struct Convolve<'a> {
    ctx: &'a Context,
    matrix: Matrix<'a>,
    /// Panels of sixteen columns, `panel` elements apart.
    weights: &'a [f32],
    panel: usize,
    /// Where the result's rows start in `to` and `add`.
    rows: &'a [usize],
    columns: usize,
    add: Option<&'a [f32]>,
    to: &'a mut [f32],
}

impl Convolve<'_> {
    fn run(self) {
        let Self { ctx, matrix, weights, panel, rows, columns, add, to } = self;
        let Some(last) = rows.iter().max() else { return };
        assert!(to.len() >= last + columns && add.is_none_or(|add| add.len() == to.len()));
        let channels = matrix.source.channels;
        let parts = Part::split(matrix.taps.len(), channels);
        if parts.is_empty() {
            // No tap reaches these pixels.
            for &row in rows {
                let to = &mut to[row..row + columns];
                match add {
                    None => to.fill(0.0),
                    Some(add) => to.copy_from_slice(&add[row..row + columns]),
                }
            }
            return;
        }
        let depth = parts.iter().map(Part::len).max().unwrap_or(0);
        let mut scratch = ctx.buffer(rows.len() * depth);
        let to = to.as_mut_ptr();
        let mut base = add.map(<[f32]>::as_ptr);
        for part in &parts {
            let (start, stride) = matrix.rows(ctx, matrix.origins, part, &mut scratch);
            let weights = &weights[part.start(channels) * LANES..];
            assert!(weights.len() >= (columns.div_ceil(LANES) - 1) * panel + part.len() * LANES);
            let product = Product {
                a: Operand { start, stride, step: 1 },
                b: Operand { start: weights.as_ptr(), stride: panel, step: LANES },
                depth: part.len(),
                segments: 1,
                segment: 0,
                rows,
                columns,
                base,
                to,
            };
            // SAFETY: `a` is `rows.len()` rows of at least `depth`, `b` the panels asserted above; `to` and `add` hold
            // `columns` elements from every row's start on (asserted above), and `to` is borrowed exclusively.
            unsafe { product.compute(ctx.instruction_set()) };
            base = Some(to);
        }
    }
}

/// `to = part of matrix, transposed, * dy`, with the rows of `to` padded to whole vectors.
struct Correlate<'a> {
    ctx: &'a Context,
    matrix: Matrix<'a>,
    part: &'a Part,
    dy: &'a [f32],
    columns: usize,
    to: &'a mut [f32],
}

impl Correlate<'_> {
    fn run(self) {
        let Self { ctx, matrix, part, dy, columns, to } = self;
        let stride = columns.next_multiple_of(LANES);
        let rows: Vec<_> = (0..part.len()).map(|row| row * stride).collect();
        assert!(to.len() >= rows.len() * stride && dy.len() >= matrix.origins.len() * columns);
        let mut scratch = ctx.buffer(ROWS * part.len());
        let mut padded = ctx.zeroed(if stride == columns { 0 } else { ROWS * stride });
        let to = to.as_mut_ptr();
        let mut base = None;
        for (origins, dy) in matrix.origins.chunks(ROWS).zip(dy.chunks(ROWS * columns)) {
            let (start, step) = matrix.rows(ctx, origins, part, &mut scratch);
            let right = if stride == columns {
                dy.as_ptr()
            } else {
                for (to, from) in padded.chunks_exact_mut(stride).zip(dy.chunks_exact(columns)) {
                    to[..columns].copy_from_slice(from);
                }
                padded.as_ptr()
            };
            let product = Product {
                a: Operand { start, stride: 1, step },
                b: Operand { start: right, stride: LANES, step: stride },
                depth: origins.len(),
                segments: 1,
                segment: 0,
                rows: &rows,
                columns: stride,
                base,
                to,
            };
            // SAFETY: `a` is `origins.len()` rows of at least `part.len()`, `b` as many of `stride`; `to` holds `stride`
            // elements from every row's start on (asserted above) and is borrowed exclusively.
            unsafe { product.compute(ctx.instruction_set()) };
            base = Some(to.cast_const());
        }
        if base.is_none() {
            // No pixels.
            // SAFETY: as above.
            unsafe { std::slice::from_raw_parts_mut(to, rows.len() * stride) }.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_rows_once_and_in_order() {
        for (taps, channels) in [(1, 1), (1, 16), (9, 3), (9, 32), (9, 64), (9, 160), (4, 640), (9, 1000), (25, 17)] {
            let parts = Part::split(taps, channels);
            let mut next = 0;
            for part in &parts {
                assert_eq!(part.start(channels), next);
                assert!(part.len() <= 320);
                next += part.len();
            }
            assert_eq!(next, taps * channels);
        }
    }

    #[test]
    fn phases_take_each_tap_once() {
        let mut shape = Conv2dShape {
            batch: 1, height: 8, width: 8, in_channels: 1, out_channels: 1, kernel: 3, stride: 2, padding: 1,
        };
        let counts = |shape: &Conv2dShape| phases(shape).0.iter().map(|phase| phase.taps.len()).collect::<Vec<_>>();
        assert_eq!(counts(&shape), [4, 2, 2, 1]);
        shape.kernel = 1;
        assert_eq!(counts(&shape), [1, 0, 0, 0]);
        shape.stride = 1;
        assert_eq!(counts(&shape), [1]);
        (shape.kernel, shape.stride) = (5, 3);
        let (_, mut slots) = phases(&shape);
        slots.sort_unstable();
        assert_eq!(slots, (0..25).collect::<Vec<_>>());
    }
}
