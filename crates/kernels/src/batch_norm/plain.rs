//! Batch norm and ReLU as plain loops in `f64`. The functions take the arguments of their fast counterparts,
//! unchecked.
//!
//! # Panics
//! Each function panics where slices do not fit each other.

use super::{BatchStatistics, Forward};
use crate::conv2d::Activation;

/// As [`batch_norm::statistics`](super::statistics).
pub fn statistics(x: &[f32], mean: &mut [f32], var: &mut [f32]) {
    let channels = mean.len();
    for c in 0..channels {
        let column = || x.iter().skip(c).step_by(channels).map(|&x| f64::from(x));
        let count = column().count() as f64;
        let center = column().sum::<f64>() / count;
        mean[c] = center as f32;
        var[c] = (column().map(|x| (x - center).powi(2)).sum::<f64>() / count) as f32;
    }
}

/// As [`batch_norm::apply`](super::apply).
pub fn apply(x: &[f32], activation: Activation, y: &mut [f32]) {
    for (i, (&x, y)) in x.iter().zip(y).enumerate() {
        *y = activation.apply(x, i % activation.scale.len()) as f32;
    }
}

/// As [`batch_norm::backward`](super::backward).
pub fn backward(
    forward: Forward,
    grad: &mut [f32],
    add: Option<&[f32]>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let Forward { x, activation, saved, statistics, relu } = forward;
    let channels = saved.mean.len();
    let rows = (x.len() / channels) as f64;
    for c in 0..channels {
        let indices = || (c..x.len()).step_by(channels);
        let (mean, inv_std) = (f64::from(saved.mean[c]), f64::from(saved.inv_std[c]));
        let normalized = |i: usize| (f64::from(x[i]) - mean) * inv_std;
        for i in indices().filter(|&i| relu && activation.apply(x[i], c) <= 0.) {
            grad[i] = 0.;
        }
        let sum: f64 = indices().map(|i| f64::from(grad[i])).sum();
        let product: f64 = indices().map(|i| f64::from(grad[i]) * normalized(i)).sum();
        dbeta[c] = sum as f32;
        dgamma[c] = product as f32;
        for i in indices() {
            let through_statistics = match statistics {
                BatchStatistics::Batch { .. } => (sum + normalized(i) * product) / rows,
                BatchStatistics::Running => 0.,
            };
            let dx = f64::from(activation.scale[c]) * (f64::from(grad[i]) - through_statistics);
            grad[i] = (dx + add.map_or(0., |add| f64::from(add[i]))) as f32;
        }
    }
}
