//! A NaN is never lost: what depends on it is NaN, on every instruction set, forward and backward, as in PyTorch.

mod common;

use candle_core::{Device, Tensor, Var};
use common::{cpus, random, values};
use wrn_sam_kernels::Backend;
use wrn_sam_kernels::Cpu;
use wrn_sam_kernels::batch_norm::{self, BatchNormState, BatchStatistics, EPS, Forward, Saved};
use wrn_sam_kernels::conv2d::{self, Activation, Conv2dShape};
use wrn_sam_kernels::linear::{self, LinearShape};
use wrn_sam_kernels::pool::{self, PoolShape};

/// Channels that fill vectors wholly and in part.
const CHANNELS: [usize; 4] = [1, 16, 17, 70];

/// Where a result may be NaN.
#[derive(Clone, Copy, PartialEq)]
enum Nans {
    /// Where the expected one is.
    There,
    /// There, and where a zero was multiplied by a NaN that the definition leaves out.
    ThereAtLeast,
}

/// Computes with every instruction set, and checks that the result is NaN where the expected one is.
fn check_nans(name: &str, nans: Nans, expected: &[f32], compute: impl Fn(&Cpu) -> Vec<f32>) {
    assert!(expected.iter().any(|x| x.is_nan()), "{name}: the case has no NaN");
    for (set, [one, two]) in cpus() {
        for cpu in [one, two] {
            let found = compute(&cpu);
            assert_eq!(found.len(), expected.len(), "{name}");
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                let same =
                    found.is_nan() == expected.is_nan() || (nans == Nans::ThereAtLeast && found.is_nan());
                assert!(same, "{name}, {set:?}: element {i} is {found}, expected {expected}");
            }
        }
    }
}

/// `values` with a NaN in the middle.
fn with_nan(mut values: Vec<f32>) -> Vec<f32> {
    let middle = values.len() / 2;
    values[middle] = f32::NAN;
    values
}

#[test]
fn batch_norm_keeps_them_forward_and_backward() {
    for channels in CHANNELS {
        let rows = 37;
        let x = with_nan(random(1, rows * channels));
        let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
        batch_norm::plain::statistics(&x, &mut mean, &mut var);
        let compute = |cpu: &Cpu| {
            let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
            batch_norm::statistics(cpu, &x, &mut mean, &mut var).unwrap();
            [mean, var].concat()
        };
        check_nans("statistics", Nans::There, &[&mean[..], &var].concat(), compute);

        // NaN in the input, the factor or the summand, one after the other.
        for place in 0..3 {
            let mut operands = [random(1, rows * channels), random(2, channels), random(3, channels)];
            operands[place] = with_nan(operands[place].clone());
            let [x, scale, shift] = &operands;
            let activation = Activation { scale, shift };
            let mut expected = vec![0.; x.len()];
            batch_norm::plain::apply(x, activation, &mut expected);
            check_nans("apply", Nans::There, &expected, |cpu| {
                let mut y = vec![0.; x.len()];
                batch_norm::apply(cpu, x, activation, &mut y).unwrap();
                y
            });
            let saved = Saved::new(&random(4, channels), &vec![1.; channels], EPS);
            for statistics in [BatchStatistics::Batch { moves: true }, BatchStatistics::Running] {
                let forward = Forward { x, activation, saved: &saved, statistics, relu: true };
                let dy = random(5, x.len());
                let (mut dx, mut dgamma, mut dbeta) = (dy.clone(), vec![0.; channels], vec![0.; channels]);
                batch_norm::plain::backward(forward, &mut dx, None, &mut dgamma, &mut dbeta);
                let expected = [dx, dgamma, dbeta].concat();
                if !expected.iter().any(|x| x.is_nan()) {
                    continue; // a constant's gradient does not see the summand
                }
                // Of constants, `x - mean` has the factor zero.
                let nans =
                    if statistics == BatchStatistics::Running { Nans::ThereAtLeast } else { Nans::There };
                check_nans("backward", nans, &expected, |cpu| {
                    let (mut dx, mut dgamma, mut dbeta) =
                        (dy.clone(), vec![0.; channels], vec![0.; channels]);
                    batch_norm::backward(cpu, forward, &mut dx, None, &mut dgamma, &mut dbeta).unwrap();
                    [dx, dgamma, dbeta].concat()
                });
            }
        }
    }
}

#[test]
fn the_gradient_passes_where_the_input_of_the_relu_is_nan() {
    // PyTorch: relu(x) with x = [nan, -1, 0, 2] has the gradient [1, 0, 0, 1].
    let x = [f32::NAN, -1., 0., 2.];
    let saved = Saved { mean: vec![0.; 4], inv_std: vec![1.; 4] };
    let activation = Activation { scale: &[1.; 4], shift: &[0.; 4] };
    let statistics = BatchStatistics::Running;
    let forward = Forward { x: &x, activation, saved: &saved, statistics, relu: true };
    for (_, [cpu, _]) in cpus() {
        let (mut dx, mut dgamma, mut dbeta) = ([1.; 4], [0.; 4], [0.; 4]);
        batch_norm::backward(&cpu, forward, &mut dx, None, &mut dgamma, &mut dbeta).unwrap();
        assert_eq!(dbeta, [1., 0., 0., 1.]);
        assert!(dx[0].is_nan() && dx[1..] == [0., 0., 1.], "{dx:?}");
    }
}

#[test]
fn a_negative_or_nan_running_variance_gives_nan() {
    for variance in [-1., f32::NAN] {
        let vector = |values: [f32; 2]| Var::new(&values, &Device::Cpu).unwrap();
        let (weight, bias, running_mean) = (vector([1., 1.]), vector([0., 0.]), vector([0., 0.]));
        let (running_var, count) = (vector([variance, 1.]), Var::new(3i64, &Device::Cpu).unwrap());
        let norm = BatchNormState {
            weight: &weight,
            bias: &bias,
            running_mean: &running_mean,
            running_var: &running_var,
            num_batches_tracked: &count,
            epsilon: EPS,
            momentum: 0.1,
        };
        let x = Tensor::from_vec(random(1, 18), (1, 2, 3, 3), &Device::Cpu).unwrap();
        for (_, [cpu, _]) in cpus() {
            let images = cpu.images(&x).unwrap();
            let activated = cpu.normalize(&images, 9, &norm, BatchStatistics::Running, None).unwrap();
            let y = cpu.activated(&images, &activated).unwrap();
            assert!(y.iter().enumerate().all(|(i, y)| y.is_nan() == (i % 2 == 0)), "{y:?}: {:?}", &y[..]);
        }
        let y = batch_norm::batch_norm_relu(Cpu::shared(), &x, &norm, BatchStatistics::Running).unwrap();
        let y = values(&y);
        assert!(y[..9].iter().all(|y| y.is_nan()) && y[9..].iter().all(|y| y.is_finite()));
    }
}

#[test]
fn convolutions_keep_them() {
    for [in_channels, out_channels] in [[3, 17], [16, 16], [17, 1]] {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 3, 2)] {
            let input = [2, 7, 9, in_channels];
            let shape = Conv2dShape::new(input, out_channels, kernel, stride, padding).unwrap();
            let (scale, shift) = (random(3, in_channels), random(4, in_channels));
            for place in 0..4 {
                let mut operands = [
                    random(1, shape.input_len()),
                    random(2, shape.weight_len()),
                    scale.clone(),
                    shift.clone(),
                ];
                operands[place] = with_nan(operands[place].clone());
                let [x, w, scale, shift] = &operands;
                for activation in [None, Some(Activation { scale, shift })] {
                    if place >= 2 && activation.is_none() {
                        continue;
                    }
                    let name = format!("{shape:?}, NaN in operand {place}, {activation:?}");
                    let mut expected = vec![0.; shape.output_len()];
                    conv2d::plain::forward(&shape, x, activation, w, None, &mut expected);
                    if expected.iter().any(|y| y.is_nan()) {
                        check_nans(&name, Nans::ThereAtLeast, &expected, |cpu| {
                            let mut y = vec![0.; shape.output_len()];
                            conv2d::forward(cpu, &shape, x, activation, w, None, &mut y).unwrap();
                            y
                        });
                    }
                    let dy = random(5, shape.output_len());
                    let mut expected = vec![0.; shape.weight_len()];
                    conv2d::plain::backward_weight(&shape, x, activation, &dy, &mut expected);
                    if expected.iter().any(|dw| dw.is_nan()) {
                        check_nans(&name, Nans::ThereAtLeast, &expected, |cpu| {
                            let mut dw = vec![0.; shape.weight_len()];
                            conv2d::backward_weight(cpu, &shape, x, activation, &dy, &mut dw).unwrap();
                            dw
                        });
                    }
                }
            }
            let (dy, w) = (with_nan(random(5, shape.output_len())), random(2, shape.weight_len()));
            let mut expected = vec![0.; shape.input_len()];
            conv2d::plain::backward_input(&shape, &dy, &w, None, &mut expected);
            check_nans(&format!("{shape:?} backward_input"), Nans::There, &expected, |cpu| {
                let mut dx = vec![0.; shape.input_len()];
                conv2d::backward_input(cpu, &shape, &dy, &w, None, &mut dx).unwrap();
                dx
            });
        }
    }
}

#[test]
fn pools_and_linear_layers_keep_them() {
    for channels in CHANNELS {
        let shape = PoolShape::new([2, 4, 6, channels], 2).unwrap();
        for place in 0..3 {
            let mut operands = [random(1, shape.input_len()), random(2, channels), random(3, channels)];
            operands[place] = with_nan(operands[place].clone());
            let [x, scale, shift] = &operands;
            for activation in [None, Some(Activation { scale, shift })] {
                if place > 0 && activation.is_none() {
                    continue;
                }
                let mut expected = vec![0.; shape.output_len()];
                pool::plain::forward(&shape, x, activation, &mut expected);
                check_nans("pool", Nans::There, &expected, |cpu| {
                    let mut y = vec![0.; shape.output_len()];
                    pool::forward(cpu, &shape, x, activation, &mut y).unwrap();
                    y
                });
            }
        }
        let dy = with_nan(random(4, shape.output_len()));
        let mut expected = vec![0.; shape.input_len()];
        pool::plain::backward(&shape, &dy, &mut expected);
        check_nans("pool backward", Nans::There, &expected, |cpu| {
            let mut dx = vec![0.; shape.input_len()];
            pool::backward(cpu, &shape, &dy, &mut dx).unwrap();
            dx
        });

        let shape = LinearShape::new(5, channels, 3).unwrap();
        let (x, w, b) = (with_nan(random(1, 5 * channels)), random(2, 3 * channels), random(3, 3));
        let mut expected = vec![0.; 15];
        linear::plain::forward(&shape, &x, &w, &b, &mut expected);
        check_nans("linear", Nans::There, &expected, |cpu| {
            let mut y = vec![0.; 15];
            linear::forward(cpu, &shape, &x, &w, &b, &mut y).unwrap();
            y
        });
    }
}
