//! Batch norm and ReLU against their reference, stock candle operations and finite differences.

mod common;

use candle_core::{D, DType, Device, Tensor, Var};
use common::{assert_close, check, random, values, variable};
use wrn_sam_kernels::Cpu;
use wrn_sam_kernels::batch_norm::{self, BatchNormState, BatchStatistics, EPS, Forward, Saved, plain};
use wrn_sam_kernels::conv2d::Activation;

/// Rows and channels that exercise whole and partial vectors, and one and many tasks.
const SHAPES: [(usize, usize); 9] =
    [(3, 1), (5, 1), (33, 3), (65, 16), (7, 17), (300, 64), (129, 160), (4000, 17), (40, 1000)];

const BATCH: BatchStatistics = BatchStatistics::Batch { moves: true };

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
        plain::statistics(&x, &mut mean, &mut var);
        let compute = |cpu: &_| {
            let (mut mean, mut var) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
            batch_norm::statistics(cpu, &x, &mut mean, &mut var).unwrap();
            (mean, var)
        };
        check(&format!("mean of {rows} x {channels}"), &mean, 1e-6, |cpu| compute(cpu).0);
        check(&format!("var of {rows} x {channels}"), &var, 2e-6, |cpu| compute(cpu).1);
    }
}

#[test]
fn a_mean_far_from_zero_does_not_spoil_the_variance() {
    let x: Vec<f32> = random(1, 10_000).into_iter().map(|x| 1000. + x).collect();
    let (mut mean, mut var) = ([0.], [0.]);
    plain::statistics(&x, &mut mean, &mut var);
    check("var", &var, 1e-5, |cpu| {
        let (mut mean, mut var) = (vec![0.], vec![0.]);
        batch_norm::statistics(cpu, &x, &mut mean, &mut var).unwrap();
        var
    });
}

#[test]
fn application_and_gradients_agree_with_the_reference() {
    for (rows, channels) in SHAPES {
        let x = data(rows, channels);
        let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
        plain::statistics(&x, &mut mean, &mut var);
        let saved = Saved::new(&mean, &var, EPS);
        let (gamma, beta) = (random(2, channels), random(3, channels));
        let (scale, shift) = batch_norm::scale_shift(&gamma, &beta, &mean, &var, EPS);
        let activation = Activation { scale: &scale, shift: &shift };
        let name = format!("{rows} x {channels}");

        let mut y = vec![0.; x.len()];
        plain::apply(&x, activation, &mut y);
        check(&format!("apply to {name}"), &y, 1e-5, |cpu| {
            let mut y = vec![f32::NAN; x.len()];
            batch_norm::apply(cpu, &x, activation, &mut y).unwrap();
            y
        });

        let (dy, add) = (random(4, x.len()), random(5, x.len()));
        for (statistics, add) in [
            (BATCH, None),
            (BATCH, Some(&add[..])),
            (BatchStatistics::Running, None),
            (BatchStatistics::Running, Some(&add[..])),
        ] {
            for relu in [true, false] {
                let forward = Forward { x: &x, activation, saved: &saved, statistics, relu };
                let (mut dx, mut dgamma, mut dbeta) = (dy.clone(), vec![0.; channels], vec![0.; channels]);
                plain::backward(forward, &mut dx, add, &mut dgamma, &mut dbeta);
                let compute = |cpu: &_| {
                    let (mut dx, mut dgamma, mut dbeta) =
                        (dy.clone(), vec![0.; channels], vec![0.; channels]);
                    batch_norm::backward(cpu, forward, &mut dx, add, &mut dgamma, &mut dbeta).unwrap();
                    (dx, dgamma, dbeta)
                };
                check(&format!("dx of {name}, {statistics:?}"), &dx, 1e-5, |cpu| compute(cpu).0);
                check(&format!("dgamma of {name}, {statistics:?}"), &dgamma, 1e-5, |cpu| compute(cpu).1);
                check(&format!("dbeta of {name}, {statistics:?}"), &dbeta, 1e-5, |cpu| compute(cpu).2);
            }
        }
    }
}

/// `sum(dy * relu(batch_norm(x)))` in `f64`, or without the ReLU.
fn loss(
    x: &[f64],
    gamma: &[f64],
    beta: &[f64],
    statistics: Option<(&[f64], &[f64])>,
    relu: bool,
    dy: &[f32],
) -> f64 {
    let channels = gamma.len();
    let rows = (x.len() / channels) as f64;
    let per_channel = |c: usize| {
        let column = || x.iter().skip(c).step_by(channels);
        let mean = statistics.map_or_else(|| column().sum::<f64>() / rows, |(mean, _)| mean[c]);
        let batch_var = || column().map(|x| (x - mean).powi(2)).sum::<f64>() / rows;
        let inv_std = (statistics.map_or_else(batch_var, |(_, var)| var[c]) + EPS).sqrt().recip();
        let floor = if relu { 0. } else { f64::NEG_INFINITY };
        let y = column().map(move |x| (gamma[c] * (x - mean) * inv_std + beta[c]).max(floor));
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
    for (statistics, relu) in
        [(BATCH, true), (BatchStatistics::Running, true), (BATCH, false), (BatchStatistics::Running, false)]
    {
        let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
        plain::statistics(&x, &mut mean, &mut var);
        let (mean64, var64) = (wide(&mean), wide(&var));
        let constant = (statistics == BatchStatistics::Running).then_some((&mean64[..], &var64[..]));
        let (scale, shift) = batch_norm::scale_shift(&gamma, &beta, &mean, &var, EPS);
        let activation = Activation { scale: &scale, shift: &shift };
        let forward = Forward { x: &x, activation, saved: &Saved::new(&mean, &var, EPS), statistics, relu };
        let (mut dx, mut dgamma, mut dbeta) = (dy.clone(), vec![0.; channels], vec![0.; channels]);
        plain::backward(forward, &mut dx, None, &mut dgamma, &mut dbeta);
        let by_x = differences(&x64, |x| loss(x, &gamma64, &beta64, constant, relu, &dy));
        let by_gamma = differences(&gamma64, |gamma| loss(&x64, gamma, &beta64, constant, relu, &dy));
        let by_beta = differences(&beta64, |beta| loss(&x64, &gamma64, beta, constant, relu, &dy));
        assert_close("dx", &dx, &by_x, 1e-5);
        assert_close("dgamma", &dgamma, &by_gamma, 1e-5);
        assert_close("dbeta", &dbeta, &by_beta, 1e-5);
    }
}

#[test]
fn tensors_agree_with_stock_candle() {
    for channels in [3, 16, 20] {
        let x = variable(1, &[4, channels, 5, 6]);
        let (weight, bias) = (variable(2, &[channels]), variable(3, &[channels]));
        let running_mean = variable(5, &[channels]);
        let running_var = Var::from_tensor(&variable(6, &[channels]).sqr().unwrap()).unwrap();
        let (old_mean, old_var) = (running_mean.copy().unwrap(), running_var.copy().unwrap());
        let norm = BatchNormState {
            weight: &weight,
            bias: &bias,
            running_mean: &running_mean,
            running_var: &running_var,
            num_batches_tracked: &Var::new(0i64, &Device::Cpu).unwrap(),
            epsilon: EPS,
            momentum: 0.1,
        };
        // [C, everything else], and statistics of it.
        let columns = x.transpose(0, 1).unwrap().flatten_from(1).unwrap();
        let stock = |mean: &Tensor, var: &Tensor, relu: bool| {
            let scale = (weight.unsqueeze(1).unwrap() / (var + EPS).unwrap().sqrt().unwrap()).unwrap();
            let y = columns.broadcast_sub(mean).unwrap().broadcast_mul(&scale).unwrap();
            let y = y.broadcast_add(&bias.unsqueeze(1).unwrap()).unwrap();
            let y = if relu { y.relu().unwrap() } else { y };
            y.reshape((channels, 4, 5, 6)).unwrap().transpose(0, 1).unwrap()
        };
        let cpu = &Cpu::new(2);
        for relu in [true, false] {
            let door = if relu { batch_norm::batch_norm_relu } else { batch_norm::batch_norm };
            let mean = columns.mean_keepdim(D::Minus1).unwrap();
            let var = columns.broadcast_sub(&mean).unwrap().sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
            let old = [&old_mean, &old_var].map(|old| old.unsqueeze(1).unwrap());
            for (of, mean, var) in [
                (BatchStatistics::Running, &old[0], &old[1]),
                (BatchStatistics::Batch { moves: false }, &mean, &var),
            ] {
                let y = door(cpu, &x, &norm, of).unwrap();
                let expected = stock(mean, var, relu);
                assert_close("y", &values(&y), &values(&expected), 1e-5);
                assert_eq!(values(&running_mean), values(&old_mean));
                let dy = Tensor::from_vec(random(4, x.elem_count()), x.dims(), &Device::Cpu).unwrap();
                let gradients = |y: Tensor| (y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                let (ours, candle) = (gradients(y), gradients(expected));
                for (name, variable) in [("dx", &x), ("dweight", &weight), ("dbias", &bias)] {
                    let of = |gradients: &candle_core::backprop::GradStore| {
                        values(gradients.get(variable).unwrap())
                    };
                    assert_close(name, &of(&ours), &of(&candle), 1e-4);
                }
            }
        }
        batch_norm::batch_norm(cpu, &x, &norm, BATCH).unwrap();
        let moved = (old_mean.affine(0.9, 0.).unwrap()
            + columns.mean(D::Minus1).unwrap().affine(0.1, 0.).unwrap())
        .unwrap();
        assert_close("running mean", &values(&running_mean), &values(&moved), 1e-5);
        assert_eq!(norm.num_batches_tracked.to_scalar::<i64>().unwrap(), 3);
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_why() {
    let cpu = wrn_sam_kernels::Cpu::shared();
    let statistics = |x: &[f32], channels: usize| {
        batch_norm::statistics(cpu, x, &mut vec![0.; channels], &mut vec![0.; channels])
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
    let vector = |len: usize| Tensor::zeros(len, DType::F32, &Device::Cpu).unwrap();
    let pixel = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
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
    let wrong = BatchNormState { bias: &vector(3), ..norm };
    let error = batch_norm::batch_norm_relu(cpu, &pixel, &wrong, BATCH).unwrap_err().to_string();
    assert_eq!(error, "bias: expected [2], found [3]");
    // One pixel for each channel has no statistics, by any door.
    for moves in [true, false] {
        let statistics = BatchStatistics::Batch { moves };
        let error = batch_norm::batch_norm(cpu, &pixel, &norm, statistics).unwrap_err().to_string();
        assert!(error.starts_with("x: expected at least two rows"), "{error}");
        let error = batch_norm::batch_norm_relu(cpu, &pixel, &norm, statistics).unwrap_err().to_string();
        assert!(error.starts_with("x: expected at least two rows"), "{error}");
        let error = batch_norm::track(&norm, &vector(2), &vector(2), 1, moves).unwrap_err().to_string();
        assert!(error.starts_with("x: expected at least two rows"), "{error}");
    }
    assert_eq!((values(&running_mean), count.to_scalar::<i64>().unwrap()), (vec![0., 0.], 0));
    assert!(batch_norm::batch_norm_relu(cpu, &pixel, &norm, BatchStatistics::Running).is_ok());
}
