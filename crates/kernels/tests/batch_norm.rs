//! Batch norm and ReLU against their reference, stock candle operations and finite differences.

mod common;

use candle_core::{D, DType, Device, Tensor, Var};
use common::{assert_close, check, random, values, variable};
use wrn_sam_kernels::backend::{self, BatchNormState, BatchStatistics};
use wrn_sam_kernels::batch_norm::{self, EPS, Forward, Saved, Statistics, reference};
use wrn_sam_kernels::conv2d::Activation;

/// Rows and channels that exercise whole and partial vectors, and one and many tasks.
const SHAPES: [(usize, usize); 9] =
    [(2, 1), (5, 1), (33, 3), (65, 16), (7, 17), (300, 64), (129, 160), (4000, 17), (40, 1000)];

fn data(rows: usize, channels: usize) -> Vec<f32> {
    let offsets = random(9, channels);
    let noise = random(1, rows * channels);
    noise.iter().enumerate().map(|(i, noise)| noise + 5. * offsets[i % channels]).collect()
}

#[test]
fn statistics_agree_with_the_reference() {
    for (rows, channels) in SHAPES {
        let x = data(rows, channels);
        let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
        reference::statistics(&x, &mut mean, &mut var);
        let compute = |ctx: &_| {
            let (mut mean, mut var) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
            batch_norm::statistics(ctx, &x, &mut mean, &mut var).unwrap();
            (mean, var)
        };
        check(&format!("mean of {rows} x {channels}"), &mean, 1e-6, |ctx| compute(ctx).0);
        check(&format!("var of {rows} x {channels}"), &var, 2e-6, |ctx| compute(ctx).1);
    }
}

#[test]
fn a_mean_far_from_zero_does_not_spoil_the_variance() {
    let x: Vec<f32> = random(1, 10_000).into_iter().map(|x| 1000. + x).collect();
    let (mut mean, mut var) = ([0.], [0.]);
    reference::statistics(&x, &mut mean, &mut var);
    check("var", &var, 1e-5, |ctx| {
        let (mut mean, mut var) = (vec![0.], vec![0.]);
        batch_norm::statistics(ctx, &x, &mut mean, &mut var).unwrap();
        var
    });
}

#[test]
fn application_and_gradients_agree_with_the_reference() {
    for (rows, channels) in SHAPES {
        let x = data(rows, channels);
        let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
        reference::statistics(&x, &mut mean, &mut var);
        let saved = Saved::new(&mean, &var, EPS);
        let (gamma, beta) = (random(2, channels), random(3, channels));
        let (scale, shift) = batch_norm::scale_shift(&gamma, &beta, &mean, &var, EPS);
        let activation = Activation { scale: &scale, shift: &shift };
        let name = format!("{rows} x {channels}");

        let mut y = vec![0.; x.len()];
        reference::apply(&x, activation, &mut y);
        check(&format!("apply to {name}"), &y, 1e-5, |ctx| {
            let mut y = vec![f32::NAN; x.len()];
            batch_norm::apply(ctx, &x, activation, &mut y).unwrap();
            y
        });

        let (dy, add) = (random(4, x.len()), random(5, x.len()));
        for (statistics, add) in [
            (Statistics::Batch, None),
            (Statistics::Batch, Some(&add[..])),
            (Statistics::Constant, None),
            (Statistics::Constant, Some(&add[..])),
        ] {
            let forward = Forward { x: &x, activation, saved: &saved, statistics };
            let (mut dx, mut dgamma, mut dbeta) = (dy.clone(), vec![0.; channels], vec![0.; channels]);
            reference::backward(forward, &mut dx, add, &mut dgamma, &mut dbeta);
            let compute = |ctx: &_| {
                let (mut dx, mut dgamma, mut dbeta) = (dy.clone(), vec![0.; channels], vec![0.; channels]);
                batch_norm::backward(ctx, forward, &mut dx, add, &mut dgamma, &mut dbeta).unwrap();
                (dx, dgamma, dbeta)
            };
            check(&format!("dx of {name}, {statistics:?}"), &dx, 1e-5, |ctx| compute(ctx).0);
            check(&format!("dgamma of {name}, {statistics:?}"), &dgamma, 1e-5, |ctx| compute(ctx).1);
            check(&format!("dbeta of {name}, {statistics:?}"), &dbeta, 1e-5, |ctx| compute(ctx).2);
        }
    }
}

/// `sum(dy * relu(batch_norm(x)))` in `f64`.
fn loss(x: &[f64], gamma: &[f64], beta: &[f64], statistics: Option<(&[f64], &[f64])>, dy: &[f32]) -> f64 {
    let channels = gamma.len();
    let rows = (x.len() / channels) as f64;
    let per_channel = |c: usize| {
        let column = || x.iter().skip(c).step_by(channels);
        let mean = statistics.map_or_else(|| column().sum::<f64>() / rows, |(mean, _)| mean[c]);
        let batch_var = || column().map(|x| (x - mean).powi(2)).sum::<f64>() / rows;
        let inv_std = (statistics.map_or_else(batch_var, |(_, var)| var[c]) + EPS).sqrt().recip();
        let y = column().map(move |x| (gamma[c] * (x - mean) * inv_std + beta[c]).max(0.));
        y.zip(dy.iter().skip(c).step_by(channels)).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>()
    };
    (0..channels).map(per_channel).sum()
}

fn differences(at: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f32> {
    const STEP: f64 = 1e-6;
    let shifted = |i: usize, by: f64| {
        let mut at = at.to_vec();
        at[i] += by;
        loss(&at)
    };
    (0..at.len()).map(|i| ((shifted(i, STEP) - shifted(i, -STEP)) / (2. * STEP)) as f32).collect()
}

#[test]
fn the_reference_agrees_with_finite_differences() {
    let (rows, channels) = (23, 3);
    let (x, dy) = (data(rows, channels), random(4, rows * channels));
    let (gamma, beta) = (random(2, channels), random(3, channels));
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let (x64, gamma64, beta64) = (wide(&x), wide(&gamma), wide(&beta));
    for statistics in [Statistics::Batch, Statistics::Constant] {
        let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
        reference::statistics(&x, &mut mean, &mut var);
        let (mean64, var64) = (wide(&mean), wide(&var));
        let constant = (statistics == Statistics::Constant).then_some((&mean64[..], &var64[..]));
        let (scale, shift) = batch_norm::scale_shift(&gamma, &beta, &mean, &var, EPS);
        let activation = Activation { scale: &scale, shift: &shift };
        let forward = Forward { x: &x, activation, saved: &Saved::new(&mean, &var, EPS), statistics };
        let (mut dx, mut dgamma, mut dbeta) = (dy.clone(), vec![0.; channels], vec![0.; channels]);
        reference::backward(forward, &mut dx, None, &mut dgamma, &mut dbeta);
        let by_x = differences(&x64, |x| loss(x, &gamma64, &beta64, constant, &dy));
        let by_gamma = differences(&gamma64, |gamma| loss(&x64, gamma, &beta64, constant, &dy));
        let by_beta = differences(&beta64, |beta| loss(&x64, &gamma64, beta, constant, &dy));
        assert_close("dx", &dx, &by_x, 1e-5);
        assert_close("dgamma", &dgamma, &by_gamma, 1e-5);
        assert_close("dbeta", &dbeta, &by_beta, 1e-5);
    }
}

#[test]
fn tensors_agree_with_stock_candle() {
    for channels in [3, 16, 20] {
        let x = variable(1, &[4, channels, 5, 6]);
        let (gamma, beta) = (variable(2, &[channels]), variable(3, &[channels]));
        let dy = Tensor::from_vec(random(4, x.elem_count()), x.dims(), &Device::Cpu).unwrap();
        // [C, everything else], and statistics of it.
        let columns = x.transpose(0, 1).unwrap().flatten_from(1).unwrap();
        let batch_mean = columns.mean_keepdim(D::Minus1).unwrap();
        let batch_var =
            columns.broadcast_sub(&batch_mean).unwrap().sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let (running_mean, running_var) =
            (variable(5, &[channels]), variable(6, &[channels]).sqr().unwrap().detach());
        for constant in [false, true] {
            let (ours, mean, var) = if constant {
                let (mean, var) = (running_mean.as_detached_tensor(), running_var.clone());
                let y = batch_norm::batch_norm_relu_with(&x, &gamma, &beta, &mean, &var, EPS).unwrap();
                (y, mean.unsqueeze(1).unwrap(), var.unsqueeze(1).unwrap())
            } else {
                let (y, mean, var) = batch_norm::batch_norm_relu(&x, &gamma, &beta, EPS).unwrap();
                assert_close("mean", &values(&mean), &values(&batch_mean), 1e-5);
                assert_close("var", &values(&var), &values(&batch_var), 1e-5);
                (y, batch_mean.clone(), batch_var.clone())
            };
            let scale = (gamma.unsqueeze(1).unwrap() / (var + EPS).unwrap().sqrt().unwrap()).unwrap();
            let candle = columns.broadcast_sub(&mean).unwrap().broadcast_mul(&scale).unwrap();
            let candle = candle.broadcast_add(&beta.unsqueeze(1).unwrap()).unwrap().relu().unwrap();
            let candle = candle.reshape((channels, 4, 5, 6)).unwrap().transpose(0, 1).unwrap();
            assert_close("y", &values(&ours), &values(&candle), 1e-5);
            let gradients = |y: Tensor| (y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let (ours, candle) = (gradients(ours), gradients(candle));
            for (name, variable) in [("dx", &x), ("dgamma", &gamma), ("dbeta", &beta)] {
                let of =
                    |gradients: &candle_core::backprop::GradStore| values(gradients.get(variable).unwrap());
                assert_close(name, &of(&ours), &of(&candle), 1e-4);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_why() {
    let ctx = wrn_sam_kernels::Cpu::shared();
    let statistics = |x: &[f32], channels: usize| {
        batch_norm::statistics(ctx, x, &mut vec![0.; channels], &mut vec![0.; channels])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(statistics(&[0.; 5], 2), "x: expected rows of 2 channels (at least one), found 5 elements");
    assert_eq!(statistics(&[0.; 5], 0), "x: expected rows of 0 channels (at least one), found 5 elements");
    for (x, found) in [(&[][..], 0), (&[1., 2.], 1)] {
        let expected = format!(
            "x: expected at least two rows (pixels of all images) for the batch's statistics, found {found}"
        );
        assert_eq!(statistics(x, 2), expected);
    }
    let x = Tensor::zeros((1, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let vector = |len: usize| Tensor::zeros(len, DType::F32, &Device::Cpu).unwrap();
    let error = batch_norm::batch_norm_relu(&x, &vector(2), &vector(3), EPS).unwrap_err().to_string();
    assert_eq!(error, "beta: expected [2], found [3]");
    // One pixel for each channel has no statistics, by any door.
    let pixel = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let error = batch_norm::batch_norm_relu(&pixel, &vector(2), &vector(2), EPS).unwrap_err().to_string();
    assert!(error.starts_with("x: expected at least two rows"), "{error}");
    let (running_mean, running_var) =
        (Var::from_tensor(&vector(2)).unwrap(), Var::from_tensor(&vector(2)).unwrap());
    let count = Var::new(0i64, &Device::Cpu).unwrap();
    let norm = BatchNormState {
        weight: &vector(2),
        bias: &vector(2),
        running_mean: &running_mean,
        running_var: &running_var,
        num_batches_tracked: &count,
        epsilon: EPS,
        momentum: 0.1,
    };
    for moves in [true, false] {
        let statistics = BatchStatistics::Batch { moves };
        let error = backend::batch_norm_relu(ctx, &pixel, &norm, statistics).unwrap_err().to_string();
        assert!(error.starts_with("x: expected at least two rows"), "{error}");
        let error = batch_norm::track(&norm, &vector(2), &vector(2), 1, moves).unwrap_err().to_string();
        assert!(error.starts_with("x: expected at least two rows"), "{error}");
    }
    assert_eq!((values(&running_mean), count.to_scalar::<i64>().unwrap()), (vec![0., 0.], 0));
    assert!(backend::batch_norm_relu(ctx, &pixel, &norm, BatchStatistics::Running).is_ok());
}
