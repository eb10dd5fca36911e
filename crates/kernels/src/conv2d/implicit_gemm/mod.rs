//! Convolutions of every shape, as products of an implicit matrix.
//!
//! The convolution is the product of a matrix with one row for each output pixel, which holds the input
//! pixels that the kernel covers there (`kernel * kernel * C` numbers), and the weights as a matrix of `O`
//! columns. That matrix is never stored: channels-last, the pixels that one line of the kernel covers are
//! neighbors in memory, so that each of the matrix's rows is `kernel` runs of `kernel * C` numbers, and
//! those of the next output pixel start `stride * C` numbers further. A task copies the input lines it needs
//! into cache, padded and activated, and the products read their rows there, overlapping, in place.
//!
//! The input gradient is a convolution of `dy` by the turned and transposed weights. With a stride `s`, an
//! input pixel is reached by those taps alone that agree with its row and its column modulo `s`: so the input
//! pixels fall into `s * s` phases, each a convolution of stride 1 with its own taps, and nothing is
//! multiplied by the zeros that a dilated `dy` would have.
//!
//! Where the kernel's own taps are dilated, each is a run by itself. Groups are convolved one after the other, each reading
//! and writing its own channels.
//!
//! The weight gradient is the implicit matrix, transposed, times `dy`. Its sum runs over pixels, so pixels
//! are split between tasks where the weights alone are too few to go round, and the tasks' sums added at the
//! end.

mod backward_weight;
mod convolve;
mod pack;
mod partition;
mod phase;
mod window;

pub(super) use backward_weight::backward_weight;
pub(super) use partition::bands;

use convolve::{Convolve, PixelGrid};
use partition::{Part, Taps};
use phase::{phases, spacing};
use window::{PaddedImages, Window};

use super::{Activation, Conv2dShape};
use crate::Cpu;
use crate::parallel::for_each;
use crate::simd::LANES;
use crate::uninit::Uninit;

/// `y = conv(act(x), w) + add`; see [`conv2d::forward`](super::forward()).
pub(super) fn forward(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    w: &[f32],
    add: Option<&[f32]>,
    y: &mut Uninit,
) {
    let Conv2dShape { out_channels, kernel, stride, padding, dilation, .. } = *shape;
    let group = shape.of_group();
    let (height, width) = (shape.out_height(), shape.out_width());
    let weights = pack::by_output(cpu, w, &group, shape.groups);
    let source = source(shape, x, activation);
    let taps = Taps { lines: kernel, columns: kernel, channels: group.in_channels };
    let parts = Part::split(taps);
    let (step, stride_in_window) = steps(shape);
    for_each(cpu, bands(y, (height, width, out_channels), 1), |(band, y)| {
        for (index, weights) in weights.chunks_exact(weights.len() / shape.groups).enumerate() {
            let window = Window {
                image: band.image,
                top: (band.first * stride) as isize - padding as isize,
                left: -(padding as isize),
                lines: (band.lines - 1) * stride_in_window + shape.extent(),
                columns: (width - 1) * stride_in_window + shape.extent(),
                step,
                channels: index * group.in_channels..(index + 1) * group.in_channels,
            };
            let pixels = source.read(cpu, &window);
            Convolve {
                cpu,
                pixels: &pixels,
                taps,
                spacing: dilation,
                parts: &parts,
                weights,
                panel: kernel * kernel * group.in_channels * LANES,
                lines: band.lines,
                columns: width,
                from: PixelGrid {
                    start: 0,
                    line: stride_in_window * pixels.line,
                    pixel: stride_in_window * pixels.pixel,
                },
                to: PixelGrid {
                    start: index * group.out_channels,
                    line: width * out_channels,
                    pixel: out_channels,
                },
                out_channels: group.out_channels,
                add: add.map(|add| &add[band.start..][..y.len()]),
            }
            .run(y);
        }
    });
}

/// `dx = add +` the gradient of the input; see [`conv2d::backward_input`](super::backward_input).
pub(super) fn backward_input(
    cpu: &Cpu,
    shape: &Conv2dShape,
    dy: &[f32],
    w: &[f32],
    add: Option<&[f32]>,
    dx: &mut Uninit,
) {
    let Conv2dShape { height, width, in_channels, kernel, stride, padding, .. } = *shape;
    let group = shape.of_group();
    let (phases, slots) = phases(&group);
    let weights = pack::by_input(cpu, w, &group, shape.groups, &slots);
    let source = PaddedImages {
        data: dy,
        height: shape.out_height(),
        width: shape.out_width(),
        channels: shape.out_channels,
        activation: None,
    };
    // How far the taps reach back from the place of an input pixel in `dy`, and where the last place is.
    let reach = (shape.extent() - 1) / stride;
    let columns = reach + (width - 1 + padding) / stride + 1;
    for_each(cpu, bands(dx, (height, width, in_channels), stride), |(band, dx)| {
        let places = (band.first + padding) / stride..(band.first + band.lines - 1 + padding) / stride + 1;
        let add = add.map(|add| &add[band.start..][..dx.len()]);
        for (index, weights) in weights.chunks_exact(weights.len() / shape.groups).enumerate() {
            let window = Window {
                image: band.image,
                top: places.start as isize - reach as isize,
                left: -(reach as isize),
                lines: reach + places.len(),
                columns,
                step: 1,
                channels: index * group.out_channels..(index + 1) * group.out_channels,
            };
            let pixels = source.read(cpu, &window);
            for phase in &phases {
                // The phase's first line and column in the band, and how many there are.
                let first =
                    |from: usize, remainder: usize| (remainder + stride - (from + padding) % stride) % stride;
                let (i, j) = (first(band.first, phase.row), first(0, phase.column));
                let count = |first: usize, size: usize| size.saturating_sub(first).div_ceil(stride);
                let place = |at: usize, last: usize| (at + padding) / stride + reach - last;
                let top = place(band.first + i, phase.reach.0) - places.start;
                let left = place(j, phase.reach.1);
                Convolve {
                    cpu,
                    pixels: &pixels,
                    taps: phase.taps,
                    spacing: spacing(shape),
                    parts: &phase.parts,
                    weights: &weights[phase.first_slot * group.out_channels * LANES..],
                    panel: kernel * kernel * group.out_channels * LANES,
                    lines: count(i, band.lines),
                    columns: count(j, width),
                    from: PixelGrid {
                        start: top * pixels.line + left * pixels.pixel,
                        line: pixels.line,
                        pixel: pixels.pixel,
                    },
                    to: PixelGrid {
                        start: (i * width + j) * in_channels + index * group.in_channels,
                        line: stride * width * in_channels,
                        pixel: stride * in_channels,
                    },
                    out_channels: group.in_channels,
                    add,
                }
                .run(dx);
            }
        }
    });
}

fn source<'a>(shape: &Conv2dShape, x: &'a [f32], activation: Option<Activation<'a>>) -> PaddedImages<'a> {
    let Conv2dShape { height, width, in_channels: channels, .. } = *shape;
    PaddedImages { data: x, height, width, channels, activation }
}

/// The step between pixels copied into a window, and the convolution's stride there: a kernel of one pixel
/// needs no others than those it is applied to.
fn steps(shape: &Conv2dShape) -> (usize, usize) {
    if shape.kernel == 1 { (shape.stride, 1) } else { (1, shape.stride) }
}
