//! The kernels of `cuda.cu`, run on the host, against softmax in `f64`.

use super::cuda_args::{CrossEntropy, ROWS, ScaleRows};
use crate::on_host::{Grid, Guarded, Order, compile};

/// Loss and gradient of one row.
fn plain(logits: &[f32], label: usize, on: f64, off: f64, constant: f64) -> (f64, Vec<f64>) {
    let logits: Vec<f64> = logits.iter().map(|&x| x.into()).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_total = logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
    let (mut loss, mut gradient) = (constant, Vec::new());
    for (class, x) in logits.iter().enumerate() {
        let log_p = x - largest - log_total;
        let q = if class == label { on } else { off };
        if q > 0.0 {
            loss -= q * log_p;
        }
        gradient.push(log_p.exp() - q);
    }
    (loss, gradient)
}

#[test]
fn losses_and_gradients_are_those_of_softmax() {
    let Some(module) = compile("cross_entropy", &["cross_entropy", "scale_rows"]) else { return };
    for (rows, classes) in [(1, 1), (1, 2), (3, 31), (4, 32), (5, 33), (9, 100), (2, 1000)] {
        let smoothings: &[f64] = if classes > 1 { &[0.0, 0.1] } else { &[0.0] };
        for &smoothing in smoothings {
            let logits: Vec<f32> = (0..rows * classes)
                .map(|i| ((i * 7919 % 1009) as f32 / 100.0 - 5.0) * if i % 13 == 0 { 9.0 } else { 1.0 })
                .collect();
            let labels: Vec<u32> = (0..rows).map(|row| (row * 37 % classes) as u32).collect();
            let factors: Vec<f32> = (0..rows).map(|row| 0.5 + row as f32).collect();
            let (on, off) =
                (1.0 - smoothing, if smoothing > 0.0 { smoothing / (classes - 1) as f64 } else { 0.0 });
            for order in Order::BOTH {
                let (at_logits, at_labels) = (Guarded::new(&logits), Guarded::new(&labels));
                let (loss, gradient) =
                    (Guarded::new(&vec![0f32; rows]), Guarded::new(&vec![0f32; rows * classes]));
                let arguments = CrossEntropy {
                    logits: at_logits.device(),
                    labels: at_labels.device(),
                    loss: loss.device(),
                    gradient: gradient.device(),
                    rows: rows as u64,
                    classes: classes as u32,
                    on: on as f32,
                    off: off as f32,
                    constant: -0.25,
                };
                let grid = Grid { blocks: (rows.div_ceil(ROWS), 1), threads: 32 * ROWS, shared: 0 };
                module.launch("cross_entropy", grid, order, &arguments);
                let (scaled, at_factors) =
                    (Guarded::new(&vec![0f32; rows * classes]), Guarded::new(&factors));
                let arguments = ScaleRows {
                    rows: gradient.device(),
                    factors: at_factors.device(),
                    out: scaled.device(),
                    len: (rows * classes) as u64,
                    classes: classes as u32,
                };
                module.launch(
                    "scale_rows",
                    Grid { blocks: (2, 1), threads: 256, shared: 0 },
                    order,
                    &arguments,
                );
                for row in 0..rows {
                    let range = row * classes..(row + 1) * classes;
                    let (expected, gradients) =
                        plain(&logits[range.clone()], labels[row] as usize, on, off, -0.25);
                    let error = (f64::from(loss[row]) - expected).abs();
                    assert!(
                        error <= 1e-5 * expected.abs().max(1.0),
                        "{rows}x{classes}: {} {expected}",
                        loss[row]
                    );
                    for (found, expected) in scaled[range].iter().zip(gradients) {
                        let expected = expected * f64::from(factors[row]);
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_label_out_of_range_or_a_nan_is_nan_in_its_row_alone() {
    let Some(module) = compile("cross_entropy", &["cross_entropy"]) else { return };
    let mut logits = vec![0.5f32; 15];
    logits[7] = f32::NAN;
    let (logits, labels) = (Guarded::new(&logits), Guarded::new(&[5u32, 1, 4]));
    let (loss, gradient) = (Guarded::new(&[0f32; 3]), Guarded::new(&[0f32; 15]));
    let arguments = CrossEntropy {
        logits: logits.device(),
        labels: labels.device(),
        loss: loss.device(),
        gradient: gradient.device(),
        rows: 3,
        classes: 5,
        on: 0.9,
        off: 0.025,
        constant: 0.0,
    };
    module.launch(
        "cross_entropy",
        Grid { blocks: (1, 1), threads: 128, shared: 0 },
        Order::Ascending,
        &arguments,
    );
    assert!(loss[0].is_nan() && loss[1].is_nan() && (loss[2] - 5f32.ln()).abs() < 1e-6, "{:?}", &loss[..]);
    assert!(gradient[..10].iter().all(|x| x.is_nan()) && gradient[10..].iter().all(|x| x.is_finite()));
}
