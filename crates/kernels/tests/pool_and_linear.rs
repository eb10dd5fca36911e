//! Average pooling and the linear layer against their references and finite differences.

mod common;

use common::{assert_close, check, random};
use wrn_sam_kernels::Cpu;
use wrn_sam_kernels::conv2d::Activation;
use wrn_sam_kernels::linear::{self, LinearShape};
use wrn_sam_kernels::pool::{self, PoolShape};

#[test]
fn pooling_agrees_with_its_reference() {
    for (batch, height, width, channels, window) in [
        (1, 1, 1, 1, 1),
        (2, 8, 8, 17, 8),
        (3, 4, 6, 3, 2),
        (5, 8, 8, 64, 8),
        (2, 16, 24, 160, 8),
        (0, 8, 8, 16, 8),
    ] {
        let shape = PoolShape::new([batch, height, width, channels], window).unwrap();
        let (x, dy) = (random(1, shape.input_len()), random(2, shape.output_len()));
        let (scale, shift) = (random(3, channels), random(4, channels));
        for activation in [None, Some(Activation { scale: &scale, shift: &shift })] {
            let mut y = vec![0.; shape.output_len()];
            pool::plain::forward(&shape, &x, activation, &mut y);
            check(&format!("{shape:?}"), &y, 1e-6, |cpu| {
                let mut y = vec![f32::NAN; shape.output_len()];
                pool::forward(cpu, &shape, &x, activation, &mut y).unwrap();
                y
            });
        }
        let mut dx = vec![0.; shape.input_len()];
        pool::plain::backward(&shape, &dy, &mut dx);
        check(&format!("{shape:?} backward"), &dx, 1e-6, |cpu| {
            let mut dx = vec![f32::NAN; shape.input_len()];
            pool::backward(cpu, &shape, &dy, &mut dx).unwrap();
            dx
        });
    }
}

#[test]
fn the_pooling_gradient_is_the_transpose_of_pooling() {
    // <dy, pool(x)> = <pool^T(dy), x> for a linear map, which is what finite differences would measure.
    let shape = PoolShape::new([2, 4, 6, 3], 2).unwrap();
    let (x, dy) = (random(1, shape.input_len()), random(2, shape.output_len()));
    let (mut y, mut dx) = (vec![0.; dy.len()], vec![0.; x.len()]);
    pool::plain::forward(&shape, &x, None, &mut y);
    pool::plain::backward(&shape, &dy, &mut dx);
    let product = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    assert_close("products", &[product(&dy, &y)], &[product(&dx, &x)], 1e-4);
}

#[test]
fn shapes_that_cannot_be_are_errors() {
    let error = PoolShape::new([1, 9, 8, 1], 8).unwrap_err();
    assert_eq!(error.to_string(), "height: expected a multiple of the pooling window, 8, found 9");
    for (what, input, window) in [
        ("height", [1, 8, 8, 1], 0),
        ("height", [1, 0, 8, 1], 8),
        ("width", [1, 8, 0, 1], 8),
        ("channels", [1, 8, 8, 0], 8),
        ("channels", [usize::MAX / 8, 8, 8, 8], 8),
    ] {
        let error = PoolShape::new(input, window).unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
    }
    for (what, [batch, inputs, outputs]) in [
        ("inputs", [1, 0, 1]),
        ("outputs", [1, 1, 0]),
        ("inputs", [usize::MAX / 8, 2, 1]),
        ("outputs", [usize::MAX / 8, 1, 2]),
        ("inputs", [1, 1 << 31, 1 << 31]),
    ] {
        let error = LinearShape::new(batch, inputs, outputs).unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
    }
    let shape = PoolShape::new([1, 8, 8, 1], 8).unwrap();
    let error = pool::forward(Cpu::shared(), &shape, &[0.; 63], None, &mut [0.]).unwrap_err();
    assert_eq!(error.to_string(), "x: expected 64 elements, found 63 elements");
}

#[test]
fn linear_agrees_with_its_reference() {
    for (batch, inputs, outputs) in
        [(1, 1, 1), (3, 17, 5), (8, 640, 100), (128, 128, 100), (5, 16, 16), (0, 4, 4)]
    {
        let shape = LinearShape::new(batch, inputs, outputs).unwrap();
        let (x, w, b) = (random(1, batch * inputs), random(2, outputs * inputs), random(3, outputs));
        let dy = random(4, batch * outputs);
        let mut y = vec![0.; dy.len()];
        linear::plain::forward(&shape, &x, &w, &b, &mut y);
        check(&format!("{shape:?}"), &y, 1e-5, |cpu| {
            let mut y = vec![f32::NAN; dy.len()];
            linear::forward(cpu, &shape, &x, &w, &b, &mut y).unwrap();
            y
        });
        let mut dx = vec![0.; x.len()];
        linear::plain::backward_input(&shape, &dy, &w, &mut dx);
        check(&format!("{shape:?} dx"), &dx, 1e-5, |cpu| {
            let mut dx = vec![f32::NAN; x.len()];
            linear::backward_input(cpu, &shape, &dy, &w, &mut dx).unwrap();
            dx
        });
        let (mut dw, mut db) = (vec![0.; w.len()], vec![0.; outputs]);
        linear::plain::backward_parameters(&shape, &x, &dy, &mut dw, &mut db);
        let compute = |cpu: &_| {
            let (mut dw, mut db) = (vec![f32::NAN; w.len()], vec![f32::NAN; outputs]);
            linear::backward_parameters(cpu, &shape, &x, &dy, &mut dw, &mut db).unwrap();
            (dw, db)
        };
        check(&format!("{shape:?} dw"), &dw, 1e-5, |cpu| compute(cpu).0);
        check(&format!("{shape:?} db"), &db, 1e-5, |cpu| compute(cpu).1);
    }
}

#[test]
fn the_linear_reference_agrees_with_finite_differences() {
    let shape = LinearShape::new(3, 4, 5).unwrap();
    let (x, w, b, dy) = (random(1, 12), random(2, 20), random(3, 5), random(4, 15));
    let loss = |x: &[f32], w: &[f32], b: &[f32]| -> f64 {
        let mut y = vec![0.; 15];
        linear::plain::forward(&shape, x, w, b, &mut y);
        y.iter().zip(&dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum()
    };
    let differences = |at: &[f32], loss: &dyn Fn(&[f32]) -> f64| -> Vec<f32> {
        let shifted = |i: usize, by: f32| {
            let mut at = at.to_vec();
            at[i] += by;
            loss(&at)
        };
        // Linear, so that a large step costs no accuracy.
        (0..at.len()).map(|i| ((shifted(i, 1.) - shifted(i, -1.)) / 2.) as f32).collect()
    };
    let (mut dx, mut dw, mut db) = (vec![0.; 12], vec![0.; 20], vec![0.; 5]);
    linear::plain::backward_input(&shape, &dy, &w, &mut dx);
    linear::plain::backward_parameters(&shape, &x, &dy, &mut dw, &mut db);
    assert_close("dx", &dx, &differences(&x, &|x| loss(x, &w, &b)), 1e-6);
    assert_close("dw", &dw, &differences(&w, &|w| loss(&x, w, &b)), 1e-6);
    assert_close("db", &db, &differences(&b, &|b| loss(&x, &w, b)), 1e-6);
}
