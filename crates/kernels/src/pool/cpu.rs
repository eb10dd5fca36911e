//! Average pooling with sixteen channels to a vector.

use super::PoolShape;
use crate::Cpu;
use crate::conv2d::Activation;
use crate::parallel::for_each;
use crate::simd::{Algorithm, F32x16, LANES, load, store};

pub(super) fn forward(
    cpu: &Cpu,
    shape: &PoolShape,
    x: &[f32],
    activation: Option<Activation>,
    y: &mut [f32],
) {
    let (input, output) = line_lens(shape);
    for_each(cpu, x.chunks(input).zip(y.chunks_mut(output)), |(x, y)| {
        cpu.instruction_set().dispatch(Forward { shape, x, activation, y });
    });
}

pub(super) fn backward(cpu: &Cpu, shape: &PoolShape, dy: &[f32], dx: &mut [f32]) {
    let (input, output) = line_lens(shape);
    let share = 1. / (shape.window * shape.window) as f32;
    for_each(cpu, dy.chunks(output).zip(dx.chunks_mut(input)), |(dy, dx)| {
        let PoolShape { channels, width, window, .. } = *shape;
        let (first, rest) = dx.split_at_mut(width * channels);
        for (dy, dx) in dy.chunks_exact(channels).zip(first.chunks_exact_mut(window * channels)) {
            for dx in dx.chunks_exact_mut(channels) {
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
            }
        }
        rest.chunks_exact_mut(first.len()).for_each(|line| line.copy_from_slice(first));
    });
}

/// Elements of the input lines under one line of windows, and of the output line they make.
fn line_lens(shape: &PoolShape) -> (usize, usize) {
    let line = shape.width * shape.channels;
    (shape.window * line, line / shape.window)
}

/// One line of windows.
struct Forward<'a> {
    shape: &'a PoolShape,
    x: &'a [f32],
    activation: Option<Activation<'a>>,
    y: &'a mut [f32],
}

impl Algorithm for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { shape, x, activation, y } = self;
        let PoolShape { width, channels, window, .. } = *shape;
        let share = V::splat(1. / (window * window) as f32);
        for (column, y) in y.chunks_exact_mut(channels).enumerate() {
            for channel in (0..channels).step_by(LANES) {
                let lanes = LANES.min(channels - channel);
                let mut affine: Option<(V, V)> = None;
                if let Some(Activation { scale, shift }) = activation {
                    affine = Some((load(scale, channel, lanes), load(shift, channel, lanes)));
                }
                let mut sum = V::zero();
                for row in 0..window {
                    let mut line = V::zero();
                    for j in 0..window {
                        let x: V = load(x, (row * width + column * window + j) * channels + channel, lanes);
                        line = match affine {
                            None => line + x,
                            Some((scale, shift)) => line + x.mul_add(scale, shift).relu(),
                        };
                    }
                    sum = sum + line;
                }
                store(sum * share, y, channel, lanes);
            }
        }
    }
}

/// The mean over the pixels of each image: `[N, pixels, channels]` to `[N, channels]`.
pub(super) fn global_mean(cpu: &Cpu, x: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / pixels];
    for_each(cpu, x.chunks(pixels * channels).zip(y.chunks_mut(channels)), |(x, y)| {
        cpu.instruction_set().dispatch(GlobalMean { x, y });
    });
    y
}

/// The gradient of [`global_mean`]: every pixel's share of its image's.
pub(super) fn spread_mean(cpu: &Cpu, dy: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let share = 1. / pixels as f32;
    let mut dx = vec![0.0; dy.len() * pixels];
    for_each(cpu, dx.chunks_mut(pixels * channels).zip(dy.chunks(channels)), |(dx, dy)| {
        for dx in dx.chunks_exact_mut(channels) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
        }
    });
    dx
}

/// The mean of the rows of `x`, which have the length of `y`.
struct GlobalMean<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Algorithm for GlobalMean<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        /// Rows that are summed by themselves, for the accuracy of the whole.
        const BLOCK: usize = 64;
        let Self { x, y } = self;
        let channels = y.len();
        let share = V::splat(channels as f32 / x.len() as f32);
        for channel in (0..channels).step_by(LANES) {
            let lanes = LANES.min(channels - channel);
            let mut sum = V::zero();
            for block in x.chunks(BLOCK * channels) {
                let mut part = V::zero();
                for row in block.chunks_exact(channels) {
                    part = part + load(row, channel, lanes);
                }
                sum = sum + part;
            }
            store(sum * share, y, channel, lanes);
        }
    }
}
