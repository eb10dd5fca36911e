//! The forward product for inputs of few channels, as images are.
//!
//! With `C` of 1 or 3 a tap is too short a run to gather. But the taps of one kernel row are neighbours in memory,
//! `kernel * C` numbers, wherever the image is padded; so a task copies the lines it needs with their padding, and the
//! product reads its rows there, overlapping, in place.

use super::gather::Source;
use crate::conv2d::Conv2dShape;
use crate::gemm::Product;
use crate::microkernel::Operand;
use crate::parallel::for_each;
use crate::simd::LANES;
use crate::Context;

/// Whether a shape is for this way.
pub(super) fn fits(shape: &Conv2dShape) -> bool {
    shape.in_channels < LANES / 2
}

/// Output pixels of one task.
const PIXELS: usize = 1024;

/// `weights` are `[O / 16][tap][C][16 of O]`.
pub(super) fn forward(
    ctx: &Context,
    shape: &Conv2dShape,
    source: &Source,
    weights: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) {
    let (height, line) = (shape.out_height(), shape.out_width() * shape.out_channels);
    let band = PIXELS.div_ceil(shape.out_width()).min(height);
    let bands = y.chunks_mut(height * line).enumerate().flat_map(|(image, y)| {
        y.chunks_mut(band * line).enumerate().map(move |(index, y)| (image, index * band, y))
    });
    for_each(ctx, bands.collect::<Vec<_>>(), |(image, first, y)| {
        let add = add.map(|add| &add[(image * height + first) * line..][..y.len()]);
        Band { ctx, shape, source, weights, image, first, add, y }.run();
    });
}

/// Lines of output from line `first` of an image on.
struct Band<'a> {
    ctx: &'a Context,
    shape: &'a Conv2dShape,
    source: &'a Source<'a>,
    weights: &'a [f32],
    image: usize,
    first: usize,
    add: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Band<'_> {
    fn run(self) {
        let Self { ctx, shape, source, weights, image, first, add, y } = self;
        let Conv2dShape { width, in_channels, out_channels, kernel, stride, padding, .. } = *shape;
        let (out_width, line) = (shape.out_width(), shape.out_width() * shape.out_channels);
        let lines = y.len() / line;
        let padded = (width + 2 * padding) * in_channels;
        let mut scratch = ctx.zeroed(((lines - 1) * stride + kernel) * padded);
        for (i, to) in scratch.chunks_exact_mut(padded).enumerate() {
            // Beyond the upper edge this wraps to beyond the lower.
            let row = (first * stride + i).wrapping_sub(padding);
            if row < source.height {
                let from = &source.data[(image * source.height + row) * width * in_channels..][..width * in_channels];
                pad(source, from, &mut to[padding * in_channels..][..from.len()]);
            }
        }
        let rows: Vec<_> = (0..out_width).map(|column| column * out_channels).collect();
        let panel = kernel * kernel * in_channels * LANES;
        assert!(weights.len() >= out_channels.div_ceil(LANES) * panel);
        assert!((out_width - 1) * stride + kernel <= width + 2 * padding);
        for (i, y) in y.chunks_exact_mut(line).enumerate() {
            let product = Product {
                a: Operand { start: scratch[i * stride * padded..].as_ptr(), stride: stride * in_channels, step: 1 },
                b: Operand { start: weights.as_ptr(), stride: panel, step: LANES },
                depth: kernel * in_channels,
                segments: kernel,
                segment: padded,
                rows: &rows,
                columns: out_channels,
                base: add.map(|add| add[i * line..][..line].as_ptr()),
                to: y.as_mut_ptr(),
            };
            // SAFETY: output column `j`'s kernel row `s` lies in padded line `i * stride + s`, of which the scratch has all,
            // from pixel `j * stride` on, and within it (asserted above); the panels are there (asserted above); `y` and
            // `add` hold a line of `out_width` pixels, and `y` is borrowed exclusively.
            unsafe { product.compute(ctx.instruction_set()) };
        }
    }
}

/// Copies a line of pixels, activated where the source says so.
fn pad(source: &Source, from: &[f32], to: &mut [f32]) {
    match source.activation {
        None => to.copy_from_slice(from),
        Some(activation) => {
            let affine = || activation.scale.iter().zip(activation.shift).cycle();
            for ((to, from), (scale, shift)) in to.iter_mut().zip(from).zip(affine()) {
                *to = (from * scale + shift).max(0.0);
            }
        }
    }
}
