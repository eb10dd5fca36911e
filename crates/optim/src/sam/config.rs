//! The hyper-parameters of SAM.

use wrn_sam_kernels::OutOfRange;
use wrn_sam_kernels::optimizer_step::Neighborhood;

use crate::Result;
use crate::state::check_not_negative;

/// The hyper-parameters of [`Sam`](crate::Sam).
///
/// ```
/// use wrn_sam_optim::SamConfig;
///
/// let asam = SamConfig::new(0.5).with_adaptive(true);
/// assert!(asam.validate().is_ok());
/// let error = asam.with_rho(-1.0).validate().unwrap_err();
/// assert_eq!(error.to_string(), "rho = -1: must be a number of at least 0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SamConfig {
    /// The radius of the neighborhood whose largest loss is minimized: a finite number of at least 0. With 0 a step is
    /// one of the base optimizer, at the price of one pass. Default 0.05; adaptive SAM needs about ten times as much.
    pub rho: f64,
    /// Whether the radius is measured in units of each weight's size (ASAM, Kwon et al.,
    /// <https://arxiv.org/abs/2102.11600>). Default false.
    pub adaptive: bool,
    /// The exponent p of the norm that the radius is measured in, above 1. Default 2; with
    /// [`f64::INFINITY`] every weight moves by rho.
    pub p: f64,
}

impl Default for SamConfig {
    fn default() -> Self {
        Self::new(0.05)
    }
}

impl SamConfig {
    /// SAM in the Euclidean norm.
    pub fn new(rho: f64) -> Self {
        Self { rho, adaptive: false, p: 2.0 }
    }

    /// With this [`rho`](Self::rho).
    #[must_use]
    pub fn with_rho(self, rho: f64) -> Self {
        Self { rho, ..self }
    }

    /// With or without [`adaptive`](Self::adaptive).
    #[must_use]
    pub fn with_adaptive(self, adaptive: bool) -> Self {
        Self { adaptive, ..self }
    }

    /// With this exponent [`p`](Self::p).
    #[must_use]
    pub fn with_p(self, p: f64) -> Self {
        Self { p, ..self }
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        check_not_negative("rho", self.rho)?;
        Ok(OutOfRange::check("p", self.p, self.p > 1.0, "above 1 (2 is usual, infinity is allowed)")?)
    }

    pub(super) fn neighborhood(&self) -> Neighborhood {
        Neighborhood { p: self.p, adaptive: self.adaptive }
    }
}
