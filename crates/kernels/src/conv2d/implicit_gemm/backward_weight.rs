//! The weight gradient: the implicit matrix, transposed, times the output's gradient.

use std::ops::Range;

use super::partition::TASKS;
use super::window::{PaddedImages, Window};
use super::{pack, source, steps};
use crate::Cpu;
use crate::conv2d::{Activation, Conv2dShape};
use crate::gemm::BlockProduct;
use crate::microkernel::Operand;
use crate::parallel::for_each;
use crate::simd::LANES;
use crate::uninit::Uninit;

/// Input channels of a task.
const CHANNELS: usize = 2 * LANES;

/// Pixels summed over at a time: many for each reading and writing of the sums so far, few enough for the
/// cache.
const PIXELS: usize = 512;

/// `dw`; see [`conv2d::backward_weight`](crate::conv2d::backward_weight).
pub(in crate::conv2d) fn backward_weight(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut Uninit,
) {
    let group = shape.of_group();
    let source = source(shape, x, activation);
    let taps = group.kernel * group.kernel;
    let row = group.out_channels.next_multiple_of(LANES);
    // Blocks of channels, and of output lines (of all images) where the former are few.
    let channels = group.in_channels.min(CHANNELS);
    let channel_blocks = group.in_channels.div_ceil(channels) * shape.groups;
    let lines = shape.batch * shape.out_height();
    let line_blocks = match channel_blocks {
        TASKS.. => 1,
        _ => (2 * TASKS).div_ceil(channel_blocks).min(lines.max(1)),
    };
    let mut partial = cpu.buffer(shape.groups * line_blocks * taps * group.in_channels * row);
    let mut tasks = Vec::with_capacity(line_blocks * channel_blocks);
    for (block, sums) in partial.chunks_mut(taps * group.in_channels * row).enumerate() {
        let (index, block) = (block / line_blocks, block % line_blocks);
        let outputs = index * group.out_channels..(index + 1) * group.out_channels;
        let first = index * group.in_channels;
        for (i, sums) in sums.chunks_mut(taps * channels * row).enumerate() {
            let channels = first + i * channels..first + group.in_channels.min((i + 1) * channels);
            let lines = lines * block / line_blocks..lines * (block + 1) / line_blocks;
            let outputs = outputs.clone();
            tasks.push(Correlate { cpu, shape, source, channels, dy, outputs, lines, sums });
        }
    }
    for_each(cpu, tasks, Correlate::run);
    pack::sum_to_weights(cpu, &partial, &group, channels, dw);
}

/// The weight gradient's rows of some input channels of a group, summed over some output lines of all images.
struct Correlate<'a> {
    cpu: &'a Cpu,
    shape: &'a Conv2dShape,
    source: PaddedImages<'a>,
    channels: Range<usize>,
    dy: &'a [f32],
    /// The group's output channels.
    outputs: Range<usize>,
    /// Of all images' output lines.
    lines: Range<usize>,
    /// `[tap][channel][outputs rounded up to 16]`.
    sums: &'a mut [f32],
}

impl Correlate<'_> {
    fn run(self) {
        let Self { cpu, shape, source, channels, dy, outputs, lines, sums } = self;
        let Conv2dShape { out_channels, kernel, stride, padding, dilation, .. } = *shape;
        let (height, width, extent) = (shape.out_height(), shape.out_width(), shape.extent());
        let columns = outputs.len().next_multiple_of(LANES);
        let (step, stride_in_window) = steps(shape);
        let pixel = channels.len();
        assert_eq!(sums.len(), kernel * kernel * pixel * columns);
        if lines.is_empty() {
            sums.fill(0.0);
            return;
        }
        let block = PIXELS.div_ceil(width);
        let line = ((width - 1) * stride_in_window + extent) * pixel;
        let mut scratch = cpu.buffer(block * extent.max(stride_in_window) * line);
        // Sixteen output channels are read at a time.
        let whole = columns == outputs.len();
        let mut padded = cpu.zeroed(if whole { 0 } else { block * width * columns });
        // Neighboring taps of a line are one block of rows; dilated ones are not neighbors.
        let taps = if dilation == 1 { kernel } else { 1 };
        let mut add = false;
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
                    lines: (count - 1) * stride_in_window + extent,
                    columns: line / pixel,
                    step,
                    channels: channels.clone(),
                };
                source.copy(cpu, &window, &mut scratch[used..used + window.len()]);
                runs.extend((0..count).map(|i| used + i * stride_in_window * line));
                used += window.len();
                next += count;
            }
            let dy = &dy[start * width * out_channels..end * width * out_channels];
            let (right, right_step) = if whole {
                (dy[outputs.start..].as_ptr(), out_channels)
            } else {
                for (to, from) in padded.chunks_exact_mut(columns).zip(dy.chunks_exact(out_channels)) {
                    to[..outputs.len()].copy_from_slice(&from[outputs.clone()]);
                }
                (padded.as_ptr(), columns)
            };
            for tap in (0..kernel).step_by(taps) {
                let to = sums[tap * pixel * columns..].as_mut_ptr();
                let product = BlockProduct {
                    a: Operand {
                        start: scratch[tap * dilation * pixel..].as_ptr(),
                        stride: 1,
                        step: stride_in_window * pixel,
                    },
                    b: Operand { start: right, stride: LANES, step: right_step },
                    runs: &runs,
                    depth: width,
                    // The lines of the kernel.
                    groups: kernel,
                    rows: taps * pixel,
                    columns,
                    group: dilation * line,
                    to_group: kernel * pixel * columns,
                    to_row: columns,
                    base: add.then_some(to.cast_const()),
                    to,
                };
                // SAFETY: the window under each run has the kernel's extent of lines from there on, and in each that of
                // pixels from the last output pixel's first tap on; `b` has `width` rows for each run. `to` holds the
                // rows of all taps (asserted above) and is borrowed exclusively.
                unsafe { cpu.instruction_set().dispatch_unchecked(product) };
            }
            add = true;
        }
    }
}
