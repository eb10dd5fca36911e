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
