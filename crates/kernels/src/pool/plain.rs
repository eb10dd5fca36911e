//! Average pooling as plain loops in `f64`. The functions take the arguments of their fast counterparts,
//! unchecked.
//!
//! # Panics
//! Each function panics where a slice is shorter than the shape asks for.

use super::PoolShape;
use crate::conv2d::Activation;

/// As [`pool::forward`](super::forward()).
pub fn forward(shape: &PoolShape, x: &[f32], activation: Option<Activation>, y: &mut [f32]) {
    let area = (shape.window * shape.window) as f64;
    let mut sums = vec![0f64; y.len()];
    each_pixel(shape, |input, output, c| {
        sums[output] += match activation {
            None => f64::from(x[input]),
            Some(activation) => activation.apply(x[input], c),
        };
    });
    y.iter_mut().zip(sums).for_each(|(y, sum)| *y = (sum / area) as f32);
}

/// As [`pool::backward`](super::backward).
pub fn backward(shape: &PoolShape, dy: &[f32], dx: &mut [f32]) {
    let area = (shape.window * shape.window) as f64;
    each_pixel(shape, |input, output, _| dx[input] = (f64::from(dy[output]) / area) as f32);
}

/// Calls `pixel(index in the input, index in the output, channel)` for every element of the input.
fn each_pixel(shape: &PoolShape, mut pixel: impl FnMut(usize, usize, usize)) {
    let PoolShape { batch, height, width, channels, window } = *shape;
    for n in 0..batch {
        for i in 0..height {
            for j in 0..width {
                for c in 0..channels {
                    let input = ((n * height + i) * width + j) * channels + c;
                    let row = n * (height / window) + i / window;
                    pixel(input, (row * (width / window) + j / window) * channels + c, c);
                }
            }
        }
    }
}
