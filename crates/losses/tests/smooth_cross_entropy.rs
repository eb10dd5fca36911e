//! Smooth cross entropy against PyTorch's values, finite differences and its own definition.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use wrn_sam_losses::{Convention, Error, Result, smooth_cross_entropy, smooth_cross_entropy_with};

const CPU: &Device = &Device::Cpu;
const CONVENTIONS: [Convention; 2] = [Convention::KullbackLeibler, Convention::CrossEntropy];

fn losses(rows: &[Vec<f64>], labels: &[u32], smoothing: f64, convention: Convention) -> Result<Vec<f64>> {
    let logits = Tensor::new(rows.to_vec(), CPU)?;
    let labels = Tensor::new(labels, CPU)?;
    Ok(smooth_cross_entropy_with(&logits, &labels, smoothing, convention)?.to_vec1()?)
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}");
    }
}

/// Values of PyTorch 2.11 in f64: `kl_div(log_softmax(x, 1), q, reduction="none").sum(-1)` with the smoothed
/// q, and `cross_entropy(x, y, reduction="none")`.
#[test]
fn pytorch_values() -> Result<()> {
    let rows = [vec![1.0, 2.0, 3.0], vec![0.0, 0.0, 0.0], vec![-4.0, 9.0, 0.5]];
    let labels = [2, 0, 0];
    let smoothed = [0.163_208_272_996, 0.704_214_597_220, 11.730_808_016_091];
    assert_close(&losses(&rows, &labels, 0.1, Convention::KullbackLeibler)?, &smoothed, 1e-11);
    let plain = [0.407_605_964_444, 1.098_612_288_668, 13.000_205_707_539];
    for convention in CONVENTIONS {
        assert_close(&losses(&rows, &labels, 0.0, convention)?, &plain, 1e-11); // q's entropy is zero
    }
    Ok(())
}

#[test]
fn every_type_of_logits_and_labels_gives_the_same() -> Result<()> {
    let logits = Tensor::new(&[[0.5f64, -1.0, 2.0, 0.0], [3.0, 1.0, -2.0, 0.25]], CPU)?;
    let labels = Tensor::new(&[1u32, 3], CPU)?;
    let expected = smooth_cross_entropy(&logits, &labels, 0.1)?.to_vec1::<f64>()?;
    for dtype in [DType::F32, DType::F64] {
        for label_dtype in [DType::U8, DType::U32, DType::I64] {
            let loss = smooth_cross_entropy(&logits.to_dtype(dtype)?, &labels.to_dtype(label_dtype)?, 0.1)?;
            assert_eq!((loss.dtype(), loss.dims()), (dtype, [2].as_slice()));
            assert_close(&loss.to_dtype(DType::F64)?.to_vec1()?, &expected, 1e-6);
        }
    }
    let transposed = logits.t()?.contiguous()?.t()?;
    assert_close(&smooth_cross_entropy(&transposed, &labels, 0.1)?.to_vec1()?, &expected, 1e-15);
    Ok(())
}

#[test]
fn gradient_is_softmax_minus_smoothed_label() -> Result<()> {
    let rows = vec![vec![0.5f64, -1.0, 2.0, 2.0], vec![3.0, 1.0, -2.0, 0.25]]; // a tie for the maximum
    let labels = [1, 3];
    let smoothing = 0.1;
    let logits = Var::new(rows.clone(), CPU)?;
    for convention in CONVENTIONS {
        let loss = smooth_cross_entropy_with(&logits, &Tensor::new(&labels, CPU)?, smoothing, convention)?;
        let gradients = loss.sum_all()?.backward()?;
        let gradient = gradients.get(&logits).expect("the loss depends on the logits").to_vec2::<f64>()?;
        for (row, label) in [(0, 1), (1, 3)] {
            let total: f64 = rows[row].iter().map(|x| x.exp()).sum();
            for class in 0..4 {
                let q = if class == label { 0.9 } else { 0.1 / 3.0 };
                assert_close(&[gradient[row][class]], &[rows[row][class].exp() / total - q], 1e-14);

                let shifted = |step: f64| {
                    let mut rows = rows.clone();
                    rows[row][class] += step;
                    losses(&rows, &labels, smoothing, convention).map(|losses| losses[row])
                };
                let difference = (shifted(1e-5)? - shifted(-1e-5)?) / 2e-5;
                assert_close(&[gradient[row][class]], &[difference], 1e-9);
            }
        }
    }
    Ok(())
}

#[test]
fn extreme_logits_stay_finite_or_reach_their_limit() -> Result<()> {
    let large = losses(&[vec![1e4, -1e4, 0.0]], &[0], 0.0, Convention::CrossEntropy)?;
    assert_close(&large, &[0.0], 0.0);
    // A class that is ruled out costs nothing without smoothing and everything with it.
    let ruled_out = [vec![1.0, f64::NEG_INFINITY, 1.0]];
    let ln_2 = std::f64::consts::LN_2;
    assert_close(&losses(&ruled_out, &[0], 0.0, Convention::KullbackLeibler)?, &[ln_2], 1e-15);
    assert_eq!(losses(&ruled_out, &[0], 0.1, Convention::KullbackLeibler)?, [f64::INFINITY]);
    assert_eq!(losses(&ruled_out, &[1], 0.0, Convention::KullbackLeibler)?, [f64::INFINITY]);
    assert!(losses(&[vec![f64::NAN, 0.0]], &[1], 0.1, Convention::KullbackLeibler)?[0].is_nan());
    Ok(())
}

#[test]
fn a_single_class_costs_nothing() -> Result<()> {
    assert_close(&losses(&[vec![5.0]], &[0], 0.0, Convention::KullbackLeibler)?, &[0.0], 0.0);
    Ok(())
}

#[test]
fn what_is_refused() -> Result<()> {
    let logits = Tensor::zeros((2, 3), DType::F32, CPU)?;
    let labels = Tensor::new(&[0u32, 2], CPU)?;
    let message = |logits: &Tensor, labels: &Tensor, smoothing| {
        smooth_cross_entropy(logits, labels, smoothing).expect_err("must be refused").to_string()
    };
    for smoothing in [-1e-300, -0.1, 1.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let expected = "must be at least 0 and less than 1 (0 for none; 0.1 is usual)";
        assert_eq!(message(&logits, &labels, smoothing), format!("smoothing = {smoothing}: {expected}"));
    }
    for smoothing in [0.0, 1e-300, 0.999_999] {
        assert!(smooth_cross_entropy(&logits, &labels, smoothing).is_ok(), "{smoothing}");
    }
    assert_eq!(
        message(&logits, &Tensor::new(&[0i64, -1], CPU)?, 0.1),
        "label -1 of row 1 is outside 0..3, the classes of the logits"
    );
    let out_of_range = smooth_cross_entropy(&logits, &Tensor::new(&[3u8, 0], CPU)?, 0.1);
    assert!(matches!(out_of_range, Err(Error::Label { row: 0, label: 3, classes: 3 })));
    let far_out = smooth_cross_entropy(&logits, &Tensor::new(&[0, 1i64 << 32], CPU)?, 0.1);
    assert!(matches!(far_out, Err(Error::Label { row: 1, .. })));
    assert!(message(&logits, &Tensor::zeros(3, DType::U32, CPU)?, 0.1).contains("found logits [2, 3] and"));
    assert!(message(&logits, &Tensor::zeros((2, 1), DType::U32, CPU)?, 0.1).contains("labels [N]"));
    let empty = Tensor::zeros((0, 3), DType::F32, CPU)?;
    assert!(message(&empty, &Tensor::zeros(0, DType::U32, CPU)?, 0.1).contains("none of them empty"));
    assert!(message(&logits.flatten_all()?, &labels, 0.1).contains("expected logits [N, K]"));
    let no_classes = Tensor::zeros((2, 0), DType::F32, CPU)?;
    assert!(message(&no_classes, &labels, 0.1).contains("none of them empty"));
    assert!(message(&logits, &labels.to_dtype(DType::F32)?, 0.1).contains("labels must be u8, u32 or i64"));
    assert!(message(&logits.to_dtype(DType::F16)?, &labels, 0.1).contains("logits must be f32 or f64"));
    let single = Tensor::zeros((1, 1), DType::F32, CPU)?;
    assert!(message(&single, &Tensor::zeros(1, DType::U32, CPU)?, 0.1).contains("at least 2 classes"));
    Ok(())
}

fn batch() -> impl Strategy<Value = (Vec<Vec<f64>>, Vec<u32>, f64)> {
    (1usize..6, 2usize..12).prop_flat_map(|(rows, classes)| {
        let row = prop::collection::vec(-30.0..30.0f64, classes);
        let labels = prop::collection::vec(0..classes as u32, rows);
        (prop::collection::vec(row, rows), labels, 0.0..0.99f64)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn divergence_is_not_negative_and_differs_by_the_entropy((rows, labels, smoothing) in batch()) {
        let classes = rows[0].len();
        let off = smoothing / (classes - 1) as f64;
        let entropy = -(1.0 - smoothing) * (1.0 - smoothing).ln()
            - if smoothing > 0.0 { smoothing * off.ln() } else { 0.0 };
        let divergence = losses(&rows, &labels, smoothing, Convention::KullbackLeibler)?;
        let cross_entropy = losses(&rows, &labels, smoothing, Convention::CrossEntropy)?;
        for (divergence, cross_entropy) in divergence.iter().zip(&cross_entropy) {
            prop_assert!(*divergence >= -1e-12);
            prop_assert!((cross_entropy - divergence - entropy).abs() < 1e-12);
        }
    }

    #[test]
    fn follows_its_definition((rows, labels, smoothing) in batch()) {
        let cross_entropy = losses(&rows, &labels, smoothing, Convention::CrossEntropy)?;
        for ((row, label), found) in rows.iter().zip(&labels).zip(cross_entropy) {
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            let q = |class| {
                if class == *label as usize { 1.0 - smoothing } else { smoothing / (row.len() - 1) as f64 }
            };
            let expected: f64 =
                row.iter().enumerate().map(|(class, x)| -q(class) * (x - total.ln())).sum();
            prop_assert!((found - expected).abs() < 1e-11 * expected.abs().max(1.0));
        }
    }

    #[test]
    fn a_shift_of_all_logits_changes_nothing((rows, labels, smoothing) in batch(), shift in -50.0..50.0f64) {
        let shifted: Vec<Vec<f64>> =
            rows.iter().map(|row| row.iter().map(|x| x + shift).collect()).collect();
        let found = losses(&shifted, &labels, smoothing, Convention::KullbackLeibler)?;
        for (found, expected) in found.iter().zip(losses(&rows, &labels, smoothing, Convention::KullbackLeibler)?) {
            prop_assert!((found - expected).abs() < 1e-11 * expected.abs().max(1.0));
        }
    }
}
