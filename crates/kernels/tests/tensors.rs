//! The operations on tensors, alone and one after the other, against candle's.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, Var};
use common::{assert_close, cpus, random, values, variable};
use wrn_sam_kernels::Cpu;
use wrn_sam_kernels::autograd::{self, Backward};
use wrn_sam_kernels::conv2d::{Conv2dConfig, conv2d};
use wrn_sam_kernels::elementwise::{add, add_relu, relu};
use wrn_sam_kernels::pool::{MaxPoolShape, avg_pool2d, global_avg_pool2d, max_pool2d};

/// That two functions of the same variables agree, and the gradients of a weighted sum of their results, by candle's and by
/// this crate's backward pass.
fn compare(name: &str, variables: &[&Var], ours: &Tensor, candles: &Tensor) {
    assert_eq!(ours.dims(), candles.dims(), "{name}");
    assert_close(name, &values(ours), &values(candles), 1e-5);
    let factor = Tensor::from_vec(random(9, ours.elem_count()), ours.dims(), &Device::Cpu).unwrap();
    let loss = |y: &Tensor| (y * &factor).unwrap().sum_all().unwrap();
    let (ours, candles) = (loss(ours), loss(candles).backward().unwrap());
    for gradients in [ours.backward().unwrap(), wrn_sam_kernels::backward(&ours).unwrap()] {
        for (i, variable) in variables.iter().enumerate() {
            let name = format!("{name}: gradient {i}");
            let [found, expected] = [&gradients, &candles].map(|gradients| gradients.get(variable).unwrap());
            assert_eq!(found.dims(), variable.dims(), "{name}");
            assert_close(&name, &values(found), &values(expected), 1e-5);
        }
    }
}

/// Both orders in memory, whole vectors and parts of one, one task and several.
const SHAPES: [[usize; 4]; 4] = [[2, 3, 4, 6], [1, 16, 8, 8], [2, 17, 2, 4], [2, 40, 32, 32]];

fn in_both_orders(variable: &Var) -> [Tensor; 2] {
    let last = variable.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
    [variable.as_tensor().clone(), last]
}

#[test]
fn single_operations_agree_with_candle() {
    for shape in SHAPES {
        let (a, b) = (variable(1, &shape), variable(2, &shape));
        for (cpu, x) in cpus().iter().flat_map(|(_, cpus)| cpus).zip(in_both_orders(&a).iter().cycle()) {
            let name = |operation: &str| format!("{operation} of {shape:?} on {cpu:?}");
            compare(&name("relu"), &[&a], &relu(cpu, x).unwrap(), &a.relu().unwrap());
            compare(&name("add"), &[&a, &b], &add(cpu, x, &b).unwrap(), &(a.as_tensor() + &*b).unwrap());
            let sum = (a.as_tensor() + &*b).unwrap().relu().unwrap();
            compare(&name("add_relu"), &[&a, &b], &add_relu(cpu, x, &b).unwrap(), &sum);
            let average = avg_pool2d(cpu, x, 2).unwrap();
            compare(&name("avg_pool2d"), &[&a], &average, &a.avg_pool2d(2).unwrap());
            let mean = global_avg_pool2d(cpu, x).unwrap();
            compare(&name("global_avg_pool2d"), &[&a], &mean, &a.mean((2, 3)).unwrap());
            // The gradient of candle's is divided by the window's pixels; see the test below for that.
            let largest = max_pool2d(cpu, x, 2, 2, 0).unwrap();
            assert_eq!(values(&largest), values(&a.max_pool2d(2).unwrap()), "{}", name("max_pool2d"));
        }
    }
}

#[test]
fn windows_that_overlap_and_reach_beyond_the_edges() {
    for ([batch, channels, height, width], window, stride, padding) in
        [([2, 3, 7, 5], 3, 2, 1), ([1, 17, 4, 4], 3, 1, 1), ([3, 2, 5, 6], 2, 3, 0), ([1, 1, 1, 1], 2, 1, 1)]
    {
        let x = variable(1, &[batch, channels, height, width]);
        let data = values(&x);
        let y = max_pool2d(Cpu::shared(), &x, window, stride, padding).unwrap();
        let (_, _, out_height, out_width) = y.dims4().unwrap();
        let dy = random(2, y.elem_count());
        let (mut expected, mut gradient) = (Vec::new(), vec![0f32; data.len()]);
        for (output, dy) in dy.iter().enumerate() {
            let (plane, pixel) = (output / (out_height * out_width), output % (out_height * out_width));
            let seen = |start: usize, size: usize| {
                (start * stride).saturating_sub(padding)
                    ..size.min((start * stride + window).saturating_sub(padding))
            };
            let mut best = None::<usize>;
            for row in seen(pixel / out_width, height) {
                for column in seen(pixel % out_width, width) {
                    let at = (plane * height + row) * width + column;
                    if best.is_none_or(|best| data[at] > data[best]) {
                        best = Some(at);
                    }
                }
            }
            expected.push(data[best.unwrap()]);
            gradient[best.unwrap()] += dy;
        }
        assert_eq!(values(&y), expected);
        let dy = Tensor::from_vec(dy, y.dims(), &Device::Cpu).unwrap();
        let gradients = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
        assert_close("dx", &values(gradients.get(&x).unwrap()), &gradient, 1e-6);
    }
}

#[test]
fn nans_are_kept_and_equal_values_have_one_winner() {
    let x =
        Var::from_vec(vec![1f32, f32::NAN, 1., 0., -1., -1., -1., -1.], (2, 1, 2, 2), &Device::Cpu).unwrap();
    let cpu = Cpu::shared();
    let y = max_pool2d(cpu, &x, 2, 2, 0).unwrap();
    assert!(values(&y)[0].is_nan());
    let gradient = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(values(gradient.get(&x).unwrap()), [0., 1., 0., 0., 1., 0., 0., 0.]);
    assert!(values(&relu(cpu, &x).unwrap())[1].is_nan());
    assert!(values(&add_relu(cpu, &x, &x).unwrap())[1].is_nan());
    assert!(values(&global_avg_pool2d(cpu, &x).unwrap())[0].is_nan());
}

/// A small residual network with branches that meet again, values that candle's operations read too, and one that nothing
/// reads.
fn network(cpu: Option<&Cpu>, x: &Tensor, w: &[Var]) -> Result<Tensor> {
    let config = Conv2dConfig::new(1, 1);
    let conv = |x: &Tensor, w: &Var| match cpu {
        Some(cpu) => conv2d(cpu, x, w, None, config).map_err(candle_core::Error::from),
        None => x.conv2d(w, 1, 1, 1, 1),
    };
    let activate = |x: &Tensor| match cpu {
        Some(cpu) => relu(cpu, x).map_err(candle_core::Error::from),
        None => x.relu(),
    };
    let sum = |a: &Tensor, b: &Tensor| match cpu {
        Some(cpu) => add(cpu, a, b).map_err(candle_core::Error::from),
        None => a + b,
    };
    let first = conv(x, &w[0])?;
    let hidden = activate(&first)?;
    let _unread = conv(&hidden, &w[1])?;
    let second = conv(&hidden, &w[1])?;
    let joined = sum(&second, &hidden)?;
    let twice = sum(&joined, &joined)?;
    let shifted = ((twice + first.sqr()?)? * 0.5)?;
    let third = conv(&shifted, &w[2])?;
    match cpu {
        Some(cpu) => Ok(global_avg_pool2d(cpu, &avg_pool2d(cpu, &third, 2)?)?),
        None => third.avg_pool2d(2)?.mean((2, 3)),
    }
}

#[test]
fn operations_one_after_the_other_agree_with_candle() -> Result<()> {
    let w = [variable(2, &[5, 3, 3, 3]), variable(3, &[5, 5, 3, 3]), variable(4, &[4, 5, 3, 3])];
    for tracked in [true, false] {
        let x = variable(1, &[2, 3, 6, 6]);
        let input = if tracked { x.as_tensor().clone() } else { x.as_detached_tensor() };
        let ours = network(Some(Cpu::shared()), &input, &w)?;
        let candles = network(None, &input, &w)?;
        let variables: Vec<_> = w.iter().chain(tracked.then_some(&x)).collect();
        compare("a network", &variables, &ours, &candles);
        if !tracked {
            assert!(ours.sum_all()?.backward()?.get(&x).is_none());
        }
    }
    Ok(())
}

/// Fails at its first backward pass.
struct Doubled(AtomicBool);

impl Backward for Doubled {
    fn name(&self) -> &'static str {
        "doubled"
    }

    fn backward(&self, grad: &Tensor, _: &[bool]) -> Result<Vec<Option<Tensor>>> {
        if !self.0.swap(true, Ordering::Relaxed) {
            candle_core::bail!("the first pass fails");
        }
        Ok(vec![Some((grad * 2.0)?)])
    }
}

#[test]
fn a_pass_that_fails_leaves_nothing_to_the_next() -> Result<()> {
    let x = variable(1, &[1, 2, 2, 2]);
    // Of the two readers of `first`, one has delivered its gradient when the other fails.
    let first = relu(Cpu::shared(), &x)?;
    let output = Storage::Cpu(CpuStorage::F32(values(&first).iter().map(|x| 2.0 * x).collect()));
    let failing = autograd::node(output, first.shape(), &[&first], Doubled(AtomicBool::new(false)))?;
    for loss in [(failing.sum_all()? + first.sum_all()?)?, (first.sum_all()? + failing.sum_all()?)?] {
        let gradients = [loss.backward(), loss.backward()];
        let last = gradients.into_iter().last().unwrap()?;
        let expected: Vec<_> = values(&x).iter().map(|&x| if x > 0. { 3. } else { 0. }).collect();
        assert_eq!(values(last.get(&x).unwrap()), expected);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error_that_says_why() {
    let cpu = Cpu::shared();
    let x = Tensor::zeros((1, 2, 4, 6), DType::F32, &Device::Cpu).unwrap();
    let message = |result: wrn_sam_kernels::Result<Tensor>| result.unwrap_err().to_string();
    let other = x.narrow(2, 0, 2).unwrap();
    let error = message(add(cpu, &x, &other));
    assert_eq!(error, "the second summand: expected [1, 2, 4, 6], as the first, found [1, 2, 2, 6]");
    let double = x.to_dtype(DType::F64).unwrap();
    assert!(message(relu(cpu, &double)).contains("needs f32 tensors on the CPU, found F64 on Cpu"));
    assert!(message(avg_pool2d(cpu, &x, 3)).starts_with("height"));
    for (what, window, stride, padding) in [
        ("window", 0, 1, 0),
        ("stride", 2, 0, 0),
        ("padding", 2, 2, 2),
        ("window", 7, 1, 1),
        ("window", usize::MAX, 1, 1),
    ] {
        let error = message(max_pool2d(cpu, &x, window, stride, padding));
        assert!(error.starts_with(what), "{error}");
    }
    assert!(MaxPoolShape::new([usize::MAX / 4, 2, 2, 2], 2, 1, 0).is_err());
    let bias = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::zeros((2, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let error = message(conv2d(cpu, &x, &w, Some(&bias), Conv2dConfig::default()));
    assert_eq!(error, "bias: expected [2], found [3]");
}
