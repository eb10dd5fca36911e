//! The measures on functions whose values are known, what they refuse, and what they leave behind.

mod guarantees;
mod known;
mod refusals;

use candle_core::{Device, Tensor, Var};
use wrn_sam_analysis::Surface;

/// A variable of f64 with these values.
fn var(values: &[f64]) -> Var {
    Var::new(values, &Device::Cpu).unwrap()
}

/// The surface of ½ Σ cᵢ wᵢ², whose H is diagonal, over two variables.
fn bowl<'a>(w: &'a [Var; 2], curvature: &'a [Tensor; 2]) -> Surface<'a> {
    let named = vec![("a".to_string(), w[0].clone()), ("b".to_string(), w[1].clone())];
    let half = |index: usize| w[index].sqr()?.mul(&curvature[index])?.sum_all()? * 0.5;
    Surface::new(named, 1, move |_| half(0)? + half(1)?).unwrap()
}

fn near(found: f64, expected: f64, tolerance: f64) {
    let scale = expected.abs().max(1.0);
    assert!((found - expected).abs() <= tolerance * scale, "{found} for {expected}");
}
