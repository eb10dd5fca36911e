//! The linear layer as plain loops with `f64` sums. The functions take the arguments of their fast
//! counterparts, unchecked.
//!
//! # Panics
//! Each function panics where a slice is shorter than the shape asks for.

use super::LinearShape;

/// As [`linear::forward`](super::forward()).
pub fn forward(shape: &LinearShape, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
    for n in 0..shape.batch {
        for o in 0..shape.outputs {
            let products =
                (0..shape.inputs).map(|i| product(x[n * shape.inputs + i], w[o * shape.inputs + i]));
            y[n * shape.outputs + o] = (products.sum::<f64>() + f64::from(b[o])) as f32;
        }
    }
}

/// As [`linear::backward_input`](super::backward_input).
pub fn backward_input(shape: &LinearShape, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    for n in 0..shape.batch {
        for i in 0..shape.inputs {
            let products =
                (0..shape.outputs).map(|o| product(dy[n * shape.outputs + o], w[o * shape.inputs + i]));
            dx[n * shape.inputs + i] = products.sum::<f64>() as f32;
        }
    }
}

/// As [`linear::backward_parameters`](super::backward_parameters).
pub fn backward_parameters(shape: &LinearShape, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
    for o in 0..shape.outputs {
        for i in 0..shape.inputs {
            let products =
                (0..shape.batch).map(|n| product(dy[n * shape.outputs + o], x[n * shape.inputs + i]));
            dw[o * shape.inputs + i] = products.sum::<f64>() as f32;
        }
        let column = (0..shape.batch).map(|n| f64::from(dy[n * shape.outputs + o]));
        db[o] = column.sum::<f64>() as f32;
    }
}

fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}
