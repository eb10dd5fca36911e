//! A mean of random draws.

use wrn_sam_kernels::OutOfRange;

use crate::error::Result;

/// The mean of independent draws, and how certain it is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The mean's standard error: the draws' deviation (with n - 1 in the denominator) by √n.
    pub standard_error: f64,
    /// How many draws there were.
    pub draws: usize,
}

impl Estimate {
    /// That there are draws enough for a standard error.
    pub(crate) fn check(draws: usize) -> Result<()> {
        Ok(OutOfRange::check("draws", draws, draws >= 2, "at least 2, for a standard error")?)
    }

    /// Of at least two draws.
    pub(crate) fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        Self { mean, standard_error: (squares / (n - 1.0) / n).sqrt(), draws: values.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((estimate.mean, estimate.draws), (2.5, 4));
        assert!((estimate.standard_error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert!(Estimate::check(1).unwrap_err().to_string().contains("draws = 1"));
    }
}
