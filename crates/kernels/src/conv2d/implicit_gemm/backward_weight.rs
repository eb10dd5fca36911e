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
    dw: &mut [f32],
) {
    let Conv2dShape { batch, in_channels, out_channels, kernel, .. } = *shape;
    let source = source(shape, x, activation);
    let stride = out_channels.next_multiple_of(LANES);
    let taps = kernel * kernel;
    // Blocks of channels, and of output lines (of all images) where the former are few.
    let channels = in_channels.min(CHANNELS);
    let channel_blocks = in_channels.div_ceil(channels);
    let lines = batch * shape.out_height();
    let line_blocks = match channel_blocks {
        TASKS.. => 1,
        _ => (2 * TASKS).div_ceil(channel_blocks).min(lines.max(1)),
    };
    let mut partial = cpu.buffer(line_blocks * taps * in_channels * stride);
    let mut tasks = Vec::with_capacity(line_blocks * channel_blocks);
    for (block, sums) in partial.chunks_mut(taps * in_channels * stride).enumerate() {
        for (index, sums) in sums.chunks_mut(taps * channels * stride).enumerate() {
            let channels = index * channels..in_channels.min((index + 1) * channels);
            let lines = lines * block / line_blocks..lines * (block + 1) / line_blocks;
            tasks.push(Correlate { cpu, shape, source, channels, dy, lines, sums });
        }
    }
    for_each(cpu, tasks, Correlate::run);
    pack::sum_to_weights(cpu, &partial, shape, channels, dw);
}

/// The weight gradient's rows of some input channels, summed over some output lines of all images.
struct Correlate<'a> {
    cpu: &'a Cpu,
    shape: &'a Conv2dShape,
    source: PaddedImages<'a>,
    channels: Range<usize>,
    dy: &'a [f32],
    /// Of all images' output lines.
    lines: Range<usize>,
    /// `[tap][channel][O rounded up to 16]`.
    sums: &'a mut [f32],
}

impl Correlate<'_> {
    fn run(self) {
        let Self { cpu, shape, source, channels, dy, lines, sums } = self;
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
        let mut scratch = cpu.buffer(block * kernel.max(stride_in_window) * line);
        let mut padded = cpu.zeroed(if columns == out_channels { 0 } else { block * width * columns });
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
                source.copy(cpu, &window, &mut scratch[used..used + window.len()]);
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
            let product = BlockProduct {
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
            unsafe { cpu.instruction_set().dispatch_unchecked(product) };
            base = Some(to.cast_const());
        }
    }
}
