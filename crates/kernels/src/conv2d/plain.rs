//! The convolution products as plain loops with `f64` sums: slow, and short enough to be seen to be right.
//! They take the arguments of their fast counterparts, unchecked.
//!
//! # Panics
//! Each function panics where a slice is shorter than the shape asks for.

use super::{Activation, Conv2dShape};

/// As [`conv2d::forward`](super::forward()).
pub fn forward(
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    w: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) {
    let mut sums: Vec<f64> = y.iter().enumerate().map(|(i, _)| add.map_or(0., |add| add[i].into())).collect();
    let a = activated(shape, x, activation);
    each_product(shape, |input, weight, output| sums[output] += a[input] * f64::from(w[weight]));
    narrow(&sums, y);
}

/// As [`conv2d::backward_input`](super::backward_input).
pub fn backward_input(shape: &Conv2dShape, dy: &[f32], w: &[f32], add: Option<&[f32]>, dx: &mut [f32]) {
    let mut sums: Vec<f64> =
        dx.iter().enumerate().map(|(i, _)| add.map_or(0., |add| add[i].into())).collect();
    each_product(shape, |input, weight, output| sums[input] += f64::from(dy[output]) * f64::from(w[weight]));
    narrow(&sums, dx);
}

/// As [`conv2d::backward_weight`](super::backward_weight).
pub fn backward_weight(
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut [f32],
) {
    let mut sums = vec![0.; dw.len()];
    let a = activated(shape, x, activation);
    each_product(shape, |input, weight, output| sums[weight] += a[input] * f64::from(dy[output]));
    narrow(&sums, dw);
}

/// Calls `product` with the indices of `x`, `w` and `y` for every product in a convolution's definition.
fn each_product(shape: &Conv2dShape, mut product: impl FnMut(usize, usize, usize)) {
    let Conv2dShape { batch, height, width, in_channels, out_channels, kernel, stride, padding, .. } = *shape;
    let Conv2dShape { in_channels: group_inputs, out_channels: group_outputs, .. } = shape.of_group();
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    for n in 0..batch {
        for i in 0..out_height {
            for j in 0..out_width {
                for a in 0..kernel {
                    for b in 0..kernel {
                        let (row, column) =
                            (i * stride + a * shape.dilation, j * stride + b * shape.dilation);
                        let inside = (padding..padding + height).contains(&row)
                            && (padding..padding + width).contains(&column);
                        if !inside {
                            continue;
                        }
                        let pixel = (n * height + row - padding) * width + column - padding;
                        for o in 0..out_channels {
                            let first = o / group_outputs * group_inputs;
                            for c in 0..group_inputs {
                                let weight = ((o * group_inputs + c) * kernel + a) * kernel + b;
                                let output = ((n * out_height + i) * out_width + j) * out_channels + o;
                                product(pixel * in_channels + first + c, weight, output);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn activated(shape: &Conv2dShape, x: &[f32], activation: Option<Activation>) -> Vec<f64> {
    let activate = |(i, &x): (usize, &f32)| match activation {
        None => f64::from(x),
        Some(activation) => activation.apply(x, i % shape.in_channels),
    };
    x.iter().enumerate().map(activate).collect()
}

fn narrow(from: &[f64], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from as f32);
}
