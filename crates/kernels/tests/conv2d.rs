//! Convolution against its reference, candle and finite differences.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, check, random, values, variable};
use proptest::prelude::*;
use wrn_sam_kernels::conv2d::{self, Activation, Conv2dConfig, Conv2dShape, plain};
use wrn_sam_kernels::{Cpu, Error};

/// The project's bound on a convolution's error relative to float64.
const TOLERANCE: f32 = 2e-5;

fn shape(batch: usize, size: usize, channels: [usize; 2], kernel: usize, stride: usize) -> Conv2dShape {
    let [in_channels, out_channels] = channels;
    let padding = kernel / 2;
    Conv2dShape::new([batch, size, size, in_channels], out_channels, kernel, stride, padding).unwrap()
}

/// All three products, plain and with everything they can take along, against the reference.
fn check_shape(shape: &Conv2dShape) {
    let x = random(1, shape.input_len());
    let w = random(2, shape.weight_len());
    let dy = random(3, shape.output_len());
    let [.., in_channels] = shape.input_dims();
    let scale = random(4, in_channels);
    let shift = random(5, in_channels);
    let (add_y, add_x) = (random(6, shape.output_len()), random(7, shape.input_len()));
    let activation = Activation { scale: &scale, shift: &shift };
    for (activation, add_y, add_x) in
        [(None, None, None), (Some(activation), Some(&add_y[..]), Some(&add_x[..]))]
    {
        let mut y = vec![0.; shape.output_len()];
        plain::forward(shape, &x, activation, &w, add_y, &mut y);
        check(&format!("{shape:?} forward"), &y, TOLERANCE, |cpu| {
            let mut y = vec![f32::NAN; shape.output_len()];
            conv2d::forward(cpu, shape, &x, activation, &w, add_y, &mut y).unwrap();
            y
        });
        let mut dx = vec![0.; shape.input_len()];
        plain::backward_input(shape, &dy, &w, add_x, &mut dx);
        check(&format!("{shape:?} backward_input"), &dx, TOLERANCE, |cpu| {
            let mut dx = vec![f32::NAN; shape.input_len()];
            conv2d::backward_input(cpu, shape, &dy, &w, add_x, &mut dx).unwrap();
            dx
        });
        let mut dw = vec![0.; shape.weight_len()];
        plain::backward_weight(shape, &x, activation, &dy, &mut dw);
        check(&format!("{shape:?} backward_weight"), &dw, TOLERANCE, |cpu| {
            let mut dw = vec![f32::NAN; shape.weight_len()];
            conv2d::backward_weight(cpu, shape, &x, activation, &dy, &mut dw).unwrap();
            dw
        });
    }
}

#[test]
fn every_combination_of_odd_channels() {
    for in_channels in [1, 3, 16, 17] {
        for out_channels in [1, 3, 16, 17] {
            for (kernel, stride) in [(3, 1), (3, 2), (1, 1), (1, 2)] {
                check_shape(&shape(2, 7, [in_channels, out_channels], kernel, stride));
            }
        }
    }
}

#[test]
fn sizes_from_one_to_thirty_three() {
    for (i, size) in [1, 2, 3, 4, 5, 8, 15, 16, 31, 32, 33].into_iter().enumerate() {
        for (kernel, stride) in [(3, 1), (3, 2), (1, 1), (1, 2)] {
            check_shape(&shape(1 + i % 5, size, [3, 17], kernel, stride));
            check_shape(&shape(1, size, [17, 16], kernel, stride));
        }
    }
}

#[test]
fn wide_channels() {
    for (kernel, stride) in [(3, 1), (3, 2), (1, 1), (1, 2)] {
        check_shape(&shape(1, 5, [160, 160], kernel, stride));
        check_shape(&shape(5, 4, [16, 160], kernel, stride));
        check_shape(&shape(1, 3, [336, 33], kernel, stride));
    }
}

/// Every shape of WRN-28-10, and so of WRN-34-10, for one image: the most channels that errors add up over.
#[test]
fn the_shapes_of_a_wide_network() {
    for (size, channels, kernel, stride) in [
        (32, [3, 16], 3, 1),
        (32, [16, 160], 3, 1),
        (32, [16, 160], 1, 1),
        (32, [160, 160], 3, 1),
        (32, [160, 320], 3, 2),
        (32, [160, 320], 1, 2),
        (16, [320, 320], 3, 1),
        (16, [320, 640], 3, 2),
        (16, [320, 640], 1, 2),
        (8, [640, 640], 3, 1),
    ] {
        check_shape(&shape(1, size, channels, kernel, stride));
    }
}

#[test]
fn no_images_and_uncommon_geometry() {
    check_shape(&shape(0, 4, [16, 16], 3, 2));
    check_shape(&shape(0, 4, [3, 16], 3, 1));
    check_shape(&shape(0, 4, [16, 16], 3, 1));
    for (input, kernel, stride, padding) in [
        ([2, 9, 4, 5], 5, 3, 2),
        ([2, 9, 4, 20], 5, 3, 2),
        ([2, 5, 6, 20], 5, 3, 0),
        ([2, 9, 4, 5], 3, 1, 3),
        ([2, 9, 4, 16], 2, 4, 3),
    ] {
        check_shape(&Conv2dShape::new(input, 20, kernel, stride, padding).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(
        batch in 1usize..4, height in 1usize..14, width in 1usize..14, in_channels in 1usize..40,
        out_channels in 1usize..40, kernel in 1usize..5, stride in 1usize..4, padding in 0usize..3,
        dilation in 1usize..4,
    ) {
        prop_assume!(height.min(width) + 2 * padding > (kernel - 1) * dilation);
        let input = [batch, height, width, in_channels];
        let config = Conv2dConfig::new(stride, padding).with_dilation(dilation);
        check_shape(&Conv2dShape::with_config(input, out_channels, kernel, config).unwrap());
    }

    #[test]
    fn any_groups(
        batch in 1usize..3, height in 1usize..14, width in 1usize..14, groups in 2usize..20, inputs in 1usize..10,
        outputs in 1usize..10, kernel in 1usize..6, stride in 1usize..4, padding in 0usize..4, dilation in 1usize..4,
        narrow in 0usize..6,
    ) {
        prop_assume!(height.min(width) + 2 * padding > (kernel - 1) * dilation);
        // Two in three have as many inputs as outputs, of one, two, four or eight channels.
        let (inputs, outputs) = if narrow < 4 { (1 << narrow, 1 << narrow) } else { (inputs, outputs) };
        let config = Conv2dConfig::new(stride, padding).with_dilation(dilation).with_groups(groups);
        let input = [batch, height, width, groups * inputs];
        check_shape(&Conv2dShape::with_config(input, groups * outputs, kernel, config).unwrap());
    }
}

/// Convolutions of the depthwise kind: whole vectors and parts of one, lines longer and shorter than a block of sums.
#[test]
fn groups_of_the_usual_networks() {
    for (groups, inputs, outputs) in [
        (16, 1, 1),
        (33, 1, 1),
        (32, 4, 4),
        (5, 4, 4),
        (16, 8, 8),
        (9, 8, 8),
        (24, 2, 2),
        (2, 17, 16),
        (3, 16, 40),
    ] {
        for (size, kernel, stride, padding, dilation) in [
            (14, 3, 1, 1, 1),
            (9, 3, 2, 1, 1),
            (11, 5, 1, 2, 1),
            (12, 7, 1, 3, 1),
            (13, 3, 1, 2, 2),
            (1, 3, 1, 1, 1),
        ] {
            let config = Conv2dConfig::new(stride, padding).with_dilation(dilation).with_groups(groups);
            let input = [2, size, size + 1, groups * inputs];
            check_shape(&Conv2dShape::with_config(input, groups * outputs, kernel, config).unwrap());
        }
    }
    let config = Conv2dConfig::new(1, 1).with_groups(16);
    check_shape(&Conv2dShape::with_config([0, 4, 4, 16], 16, 3, config).unwrap());
}

/// The products are linear in what they are differentiated by, so differences of any size are exact; the loss
/// is `sum(dy * y)`, summed in `f64`.
#[test]
fn the_reference_agrees_with_finite_differences() {
    let config = Conv2dConfig::new;
    for (kernel, config) in [
        (3, config(1, 1)),
        (3, config(2, 1)),
        (1, config(2, 0)),
        (3, config(1, 2).with_dilation(2)),
        (3, config(2, 1).with_groups(2)),
        (2, config(3, 2).with_dilation(2).with_groups(4)),
    ] {
        let shape = Conv2dShape::with_config([2, 5, 5, 4], 8, kernel, config).unwrap();
        let (x, w) = (random(1, shape.input_len()), random(2, shape.weight_len()));
        let dy = random(3, shape.output_len());
        let (scale, shift) = (random(4, 4), random(5, 4));
        let loss = |x: &[f32], activation, w: &[f32]| -> f64 {
            let mut y = vec![0.; shape.output_len()];
            plain::forward(&shape, x, activation, w, None, &mut y);
            y.iter().zip(&dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum()
        };
        let differences = |at: &[f32], loss: &dyn Fn(&[f32]) -> f64| -> Vec<f32> {
            let shifted = |i: usize, by: f32| {
                let mut at = at.to_vec();
                at[i] += by;
                loss(&at)
            };
            (0..at.len()).map(|i| ((shifted(i, 1.) - shifted(i, -1.)) / 2.) as f32).collect()
        };
        let mut dx = vec![0.; x.len()];
        plain::backward_input(&shape, &dy, &w, None, &mut dx);
        assert_close("dx", &differences(&x, &|x| loss(x, None, &w)), &dx, 1e-6);
        let activation = Some(Activation { scale: &scale, shift: &shift });
        let mut dw = vec![0.; w.len()];
        plain::backward_weight(&shape, &x, activation, &dy, &mut dw);
        assert_close("dw", &differences(&w, &|w| loss(&x, activation, w)), &dw, 1e-6);
    }
}

#[test]
fn tensors_agree_with_candle() {
    let config = Conv2dConfig::new;
    for (size, channels, kernel, config) in [
        (8, [3, 16], 3, config(1, 1)),
        (8, [16, 20], 3, config(1, 1)),
        (9, [16, 20], 3, config(2, 1)),
        (8, [17, 5], 1, config(2, 0)),
        (6, [4, 32], 1, config(1, 0)),
        (9, [6, 4], 3, config(1, 2).with_dilation(2)),
        (9, [12, 12], 3, config(2, 1).with_groups(12)),
        (7, [16, 16], 3, config(1, 1).with_groups(4)),
        (7, [6, 4], 3, config(1, 1).with_groups(2)),
    ] {
        for bias in [None, Some(variable(4, &[channels[1]]))] {
            let Conv2dConfig { stride, padding, dilation, groups, .. } = config;
            let x = variable(1, &[3, channels[0], size, size]);
            let w = variable(2, &[channels[1], channels[0] / groups, kernel, kernel]);
            let tensor = bias.as_ref().map(|bias| bias.as_tensor());
            let ours = conv2d::conv2d(Cpu::shared(), &x, &w, tensor, config).unwrap();
            let mut candle = x.conv2d(&w, padding, stride, dilation, groups).unwrap();
            if let Some(bias) = tensor {
                candle = candle.broadcast_add(&bias.reshape((1, channels[1], 1, 1)).unwrap()).unwrap();
            }
            assert_eq!(ours.dims(), candle.dims());
            assert_close("y", &values(&ours), &values(&candle), TOLERANCE);
            let factor =
                Tensor::from_vec(random(3, candle.elem_count()), candle.dims(), &Device::Cpu).unwrap();
            let gradients = |y: Tensor| (y * &factor).unwrap().sum_all().unwrap().backward().unwrap();
            let (ours, candle) = (gradients(ours), gradients(candle));
            for (name, variable) in [("dx", Some(&x)), ("dw", Some(&w)), ("db", bias.as_ref())] {
                let Some(variable) = variable else { continue };
                let of =
                    |gradients: &candle_core::backprop::GradStore| values(gradients.get(variable).unwrap());
                assert_close(name, &of(&ours), &of(&candle), TOLERANCE);
            }
        }
    }
}

#[test]
fn tensors_of_any_strides_are_taken() {
    let x = variable(1, &[2, 16, 6, 5]);
    let w = variable(2, &[8, 16, 3, 3]);
    let expected = values(&conv2d::conv2d(Cpu::shared(), &x, &w, None, Conv2dConfig::new(2, 1)).unwrap());
    let channels_last = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
    assert_eq!(
        values(&conv2d::conv2d(Cpu::shared(), &channels_last, &w, None, Conv2dConfig::new(2, 1)).unwrap()),
        expected
    );
    let wide = Tensor::cat(&[x.as_tensor(), x.as_tensor()], 3).unwrap().narrow(3, 5, 5).unwrap();
    assert_eq!(
        values(&conv2d::conv2d(Cpu::shared(), &wide, &w, None, Conv2dConfig::new(2, 1)).unwrap()),
        expected
    );
    let turned = w.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap();
    assert_eq!(
        values(&conv2d::conv2d(Cpu::shared(), &x, &turned, None, Conv2dConfig::new(2, 1)).unwrap()),
        expected
    );
}

#[test]
fn inputs_that_do_not_track_get_no_gradient() {
    let x = variable(1, &[1, 3, 4, 4]);
    let w = variable(2, &[2, 3, 3, 3]);
    let loss = conv2d::conv2d(Cpu::shared(), &x.as_detached_tensor(), &w, None, Conv2dConfig::new(1, 1))
        .unwrap()
        .sum_all()
        .unwrap();
    let gradients = loss.backward().unwrap();
    assert!(gradients.get(&x).is_none() && gradients.get(&w).is_some());
}

#[test]
fn what_does_not_fit_is_an_error_that_says_why() {
    let shape = shape(1, 4, [2, 3], 3, 1);
    let cpu = Cpu::shared();
    let (x, w, mut y) = (vec![0.; 32], vec![0.; 54], vec![0.; 48]);
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();
    let short = conv2d::forward(cpu, &shape, &x[1..], None, &w, None, &mut y);
    assert_eq!(message(short), "x: expected 32 elements, found 31 elements");
    let activation = Some(Activation { scale: &[1., 1.], shift: &[0.] });
    let short = conv2d::forward(cpu, &shape, &x, activation, &w, None, &mut y);
    assert_eq!(message(short), "activation shift: expected 2 elements, found 1 elements");
    const MAX: usize = usize::MAX;
    for (what, input, out_channels, kernel, stride, padding) in [
        ("stride", [1, 4, 4, 2], 3, 3, 0, 1),
        ("kernel", [1, 4, 4, 2], 3, 0, 1, 1),
        ("kernel", [1, 4, 4, 2], 3, 7, 1, 1),
        ("kernel", [1, 4, 4, 2], 3, MAX, 1, 1),
        ("output channels", [1, 4, 4, 2], 0, 3, 1, 1),
        ("input channels", [1, 4, 4, 0], 3, 3, 1, 1),
        ("height", [1, 0, 4, 2], 3, 3, 1, 1),
        ("width", [1, 4, 0, 2], 3, 3, 1, 1),
        ("batch", [MAX / 8, 4, 4, 2], 3, 3, 1, 1),
        ("batch", [1, MAX, MAX, 2], 3, 3, 1, 1),
        ("batch", [0, 1 << 40, 1 << 40, 2], 3, 3, 1, 1),
        ("batch", [1, 4, 4, 2], 3, 3, 1, MAX / 2 + 1),
    ] {
        let error = message(Conv2dShape::new(input, out_channels, kernel, stride, padding).map(|_| ()));
        assert!(error.starts_with(what), "{error}");
    }
    for (what, config) in [
        ("dilation", Conv2dConfig::new(1, 1).with_dilation(0)),
        ("dilation", Conv2dConfig::new(1, 1).with_dilation(3)),
        ("dilation", Conv2dConfig::new(1, 1).with_dilation(MAX)),
        ("groups", Conv2dConfig::new(1, 1).with_groups(0)),
        ("input channels", Conv2dConfig::new(1, 1).with_groups(4)),
        ("output channels", Conv2dConfig::new(1, 1).with_groups(2)),
    ] {
        let error = message(Conv2dShape::with_config([1, 4, 4, 6], 3, 3, config).map(|_| ()));
        assert!(error.starts_with(what), "{error}");
    }
    // The largest shapes have lengths, and no panic.
    let large = Conv2dShape::new([1 << 20, 1 << 20, 1 << 10, 1 << 5], 1, 1, MAX, 0).unwrap();
    assert_eq!(large.output_dims(), [1 << 20, 1, 1, 1]);
    check_shape(&Conv2dShape::new([2, 5, 4, 3], 2, 3, MAX, 1).unwrap());
    assert!(Conv2dShape::new([1 << 29, 1 << 29, 1, 1], 1, 1 << 29, 1, 1 << 28).is_err());
    let wide = Conv2dShape::new([1 << 30, 1 << 28, 1, 1], 1, 1, 1, 0).unwrap();
    assert_eq!(wide.flops(), 1 << 59);
    let x = Tensor::zeros((1, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::zeros((3, 5, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let error = conv2d::conv2d(Cpu::shared(), &x, &w, None, Conv2dConfig::new(1, 1)).unwrap_err().to_string();
    assert_eq!(error, "input channels of w: expected 2, found 5");
    let w = Tensor::zeros((3, 2, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let error =
        conv2d::conv2d(Cpu::shared(), &x.to_dtype(DType::F64).unwrap(), &w, None, Conv2dConfig::new(1, 1))
            .unwrap_err()
            .to_string();
    assert_eq!(error, "conv2d needs f32 tensors on the CPU, found F64 on Cpu");
}
