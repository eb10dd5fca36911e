//! Convolutions in groups of one, two, four or eight channels, from as many to as many: the depthwise convolution and its
//! near relatives.
//!
//! A vector of sixteen channels holds whole groups, so its sums need nothing but the same sixteen channels of the input.
//! For each tap, and for each `k` below the group's size, every lane takes element `k` of its own group
//! ([`F32x16::load_of_groups`]) and multiplies it by its own weight. No lane is idle and nothing is copied: pixels are read
//! where they are, and taps beyond the image's edges are left out.
//!
//! `y` and `dx` are one computation, in lines ([`line`]): what differs is which taps of which lines a result is summed
//! from. The weight gradient sums over pixels instead ([`backward_weight`]).

mod backward_weight;
mod line;

pub(super) use backward_weight::backward_weight;

use line::{ConvolveLine, Tap};

use super::implicit_gemm::bands;
use super::{Activation, Conv2dShape};
use crate::parallel::for_each;
use crate::simd::LANES;
use crate::uninit::Uninit;
use crate::{Buffer, Cpu, batch_norm};

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
    let Conv2dShape { height, width, out_channels, kernel, stride, padding, dilation, .. } = *shape;
    let group = shape.of_group().in_channels;
    let activated = activation.map(|activation| activated(cpu, x, activation));
    let x = activated.as_deref().unwrap_or(x);
    let weights = pack(cpu, shape, w, |channel, k, tap| {
        let at = (channel * group + k) * kernel * kernel + tap;
        w[at]
    });
    let out_width = shape.out_width();
    for_each(cpu, bands(y, (shape.out_height(), out_width, out_channels), 1), |(band, y)| {
        for (i, y) in y.chunks_mut(out_width * out_channels).enumerate() {
            let mut taps = Vec::with_capacity(kernel * kernel);
            for a in 0..kernel {
                let Some(row) = inside((band.first + i) * stride + a * dilation, padding, height) else {
                    continue;
                };
                taps.extend((0..kernel).map(|b| Tap {
                    line: (band.image * height + row) * width * out_channels,
                    column: (b * dilation) as isize - padding as isize,
                    weight: a * kernel + b,
                }));
            }
            let start = band.start + i * out_width * out_channels;
            ConvolveLine {
                from: x,
                width,
                channels: out_channels,
                step: stride,
                taps: &taps,
                weights: &weights,
                group,
                kernel_taps: kernel * kernel,
                add: add.map(|add| &add[start..start + y.len()]),
                to: y,
                first: 0,
                every: 1,
            }
            .run(cpu);
        }
    });
}

/// `dx = add +` the gradient of the input; see [`conv2d::backward_input`](super::backward_input).
///
/// The input pixels of a line whose padded column leaves one remainder by the stride are reached by the same taps, from
/// neighboring pixels of `dy`.
pub(super) fn backward_input(
    cpu: &Cpu,
    shape: &Conv2dShape,
    dy: &[f32],
    w: &[f32],
    add: Option<&[f32]>,
    dx: &mut Uninit,
) {
    let Conv2dShape { height, width, in_channels, kernel, stride, padding, dilation, .. } = *shape;
    let group = shape.of_group().in_channels;
    let weights = pack(cpu, shape, w, |channel, k, tap| {
        let output = channel / group * group + k;
        w[(output * group + channel % group) * kernel * kernel + tap]
    });
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    for_each(cpu, bands(dx, (height, width, in_channels), 1), |(band, dx)| {
        for (i, dx) in dx.chunks_mut(width * in_channels).enumerate() {
            for first in 0..stride.min(width) {
                let mut taps = Vec::with_capacity(kernel * kernel);
                for a in 0..kernel {
                    let Some(row) = divided(band.first + i + padding, a * dilation, stride) else { continue };
                    let Some(row) = inside_of(row, out_height) else { continue };
                    for b in 0..kernel {
                        let Some(column) = divided(first + padding, b * dilation, stride) else { continue };
                        let line = (band.image * out_height + row) * out_width * in_channels;
                        taps.push(Tap { line, column, weight: a * kernel + b });
                    }
                }
                let start = band.start + i * width * in_channels;
                ConvolveLine {
                    from: dy,
                    width: out_width,
                    channels: in_channels,
                    step: 1,
                    taps: &taps,
                    weights: &weights,
                    group,
                    kernel_taps: kernel * kernel,
                    add: add.map(|add| &add[start..start + dx.len()]),
                    to: dx,
                    first,
                    every: stride,
                }
                .run(cpu);
            }
        }
    });
}

/// `at - padding`, if it is inside of an image of this size.
fn inside(at: usize, padding: usize, size: usize) -> Option<usize> {
    at.checked_sub(padding).filter(|&at| at < size)
}

/// `at`, if it is inside of an image of this size.
fn inside_of(at: isize, size: usize) -> Option<usize> {
    usize::try_from(at).ok().filter(|&at| at < size)
}

/// `(a - b) / divisor`, if that is whole.
fn divided(a: usize, b: usize, divisor: usize) -> Option<isize> {
    let (difference, divisor) = (a as isize - b as isize, divisor as isize);
    (difference % divisor == 0).then_some(difference / divisor)
}

/// The activated images.
fn activated(cpu: &Cpu, x: &[f32], activation: Activation) -> Buffer {
    let mut activated = cpu.buffer(x.len());
    batch_norm::apply(cpu, x, activation, &mut activated).expect("checked by the caller");
    activated
}

/// The weights that sixteen channels' sums need, as vectors: `[C / 16][tap][k][16]`, zero beyond `C`. `weight` gives that
/// of a channel's sum for element `k` of its group and a tap.
fn pack(
    cpu: &Cpu,
    shape: &Conv2dShape,
    w: &[f32],
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
) -> Buffer {
    let group = shape.of_group().in_channels;
    let taps = shape.kernel * shape.kernel;
    debug_assert_eq!(w.len(), shape.in_channels * group * taps);
    let mut packed = cpu.zeroed(shape.in_channels.div_ceil(LANES) * taps * group * LANES);
    for_each(cpu, packed.chunks_mut(taps * group * LANES).enumerate(), |(block, packed)| {
        let lanes = LANES.min(shape.in_channels - block * LANES);
        for (i, lane) in packed.chunks_exact_mut(LANES).enumerate() {
            for (o, to) in lane[..lanes].iter_mut().enumerate() {
                *to = weight(block * LANES + o, i % group, i / group);
            }
        }
    });
    packed
}
