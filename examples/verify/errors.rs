//! How far values are from what is expected.

use serde::Serialize;
use wrn_sam::candle::{DType, Tensor};

use crate::support::AnyError;

/// The largest relative error of one group of values, and the tensor that has it.
#[derive(Debug, Clone, Default)]
pub struct Worst {
    pub error: f64,
    pub key: String,
}

impl Worst {
    pub fn join(&mut self, other: Worst) {
        if other.error >= self.error {
            *self = other;
        }
    }
}

/// As JSON, only the error; an infinite one is null there.
impl Serialize for Worst {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.error.serialize(to)
    }
}

/// The largest relative error of each group: of the evaluation before any step, of the first step (`logits` and `loss`
/// of both its passes, `loss` with the gradient's norm), of the optimizer's state after the last (with the weights' average), and
/// of all that comes later, the final evaluation included. Of the gradients also the root mean square error over all
/// parameters, relative to that of the gradient: a turned ReLU weighs little in it. `update` and `statistics` are relative
/// distances, of the whole update of all parameters and of that of all running statistics.
#[derive(Debug, Default, Serialize)]
pub struct Errors {
    pub init_eval: Worst,
    pub logits: Worst,
    pub loss: Worst,
    pub grad1: Worst,
    pub grad1_rms: Worst,
    pub perturbed: Worst,
    pub grad2: Worst,
    pub grad2_rms: Worst,
    pub after_step1: Worst,
    pub later: Worst,
    pub state: Worst,
    pub update: Worst,
    pub statistics: Worst,
    /// Whether the file says that no ReLU can turn by rounding, so that the update is bounded closely.
    #[serde(skip)]
    pub without_kinks: bool,
}

impl Errors {
    /// Takes in those of a step.
    pub fn join(&mut self, step: Errors, number: usize) {
        if number == 1 {
            let init_eval = std::mem::take(&mut self.init_eval);
            *self = Errors { init_eval, ..step };
            return;
        }
        // What a file has of the gradients of later steps, and of weights ahead along a momentum, is bounded as in the first.
        let Errors { logits, loss, grad1, perturbed, grad2, after_step1: after, .. } = step;
        [logits, loss, after].into_iter().for_each(|worst| self.later.join(worst));
        self.grad1.join(grad1);
        self.grad2.join(grad2);
        self.perturbed.join(perturbed);
    }
}

/// A tensor beside what is expected: its largest error, and the sums of the squares of differences and of expected values.
pub struct Compared {
    pub worst: Worst,
    pub differences: f64,
    pub squares: f64,
}

/// # Errors
/// Another shape than expected.
pub fn compared(key: &str, found: &Tensor, expected: &Tensor) -> Result<Compared, AnyError> {
    if found.dims() != expected.dims() {
        return Err(format!("{key} is {:?}, the network gives {:?}", expected.dims(), found.dims()).into());
    }
    let exact = !expected.dtype().is_float();
    let (found, expected) = (values(found)?, values(expected)?);
    let error = relative_error(&found, &expected);
    let error = if exact && error > 0.0 { f64::INFINITY } else { error };
    Ok(Compared {
        worst: Worst { error, key: key.to_string() },
        differences: found.iter().zip(&expected).map(|(found, expected)| (found - expected).powi(2)).sum(),
        squares: expected.iter().map(|expected| expected.powi(2)).sum(),
    })
}

/// ‖found - end‖ / ‖end - begin‖ over all rows of (found, end, begin). Infinite where it is not a number.
///
/// # Errors
/// Shapes that differ within a row.
pub fn distance(rows: &[[Tensor; 3]]) -> Result<f64, AnyError> {
    let (mut off, mut moved) = (0.0, 0.0);
    for [found, end, begin] in rows {
        let (found, end, begin) = (values(found)?, values(end)?, values(begin)?);
        if found.len() != end.len() || begin.len() != end.len() {
            return Err("a parameter has not the same shape before and after".into());
        }
        off += found.iter().zip(&end).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        moved += end.iter().zip(&begin).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    }
    let distance = if off == 0.0 { 0.0 } else { (off / moved).sqrt() };
    Ok(if distance.is_nan() { f64::INFINITY } else { distance })
}

fn values(tensor: &Tensor) -> Result<Vec<f64>, AnyError> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// max |a - b| / max |b|. Infinite where a value is not a number, or where b is all zeros and a is not.
fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    let scale = b.iter().fold(0.0, |max: f64, b| max.max(b.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // `f64::max` passes over NaN, which must not pass for a small error.
    let largest = differences.fold(0.0, |max: f64, d| if d.is_nan() { f64::INFINITY } else { max.max(d) });
    if largest == 0.0 { 0.0 } else { largest / scale }
}
