//! Where SAM climbs.

use serde::{Deserialize, Serialize};
use wrn_sam_kernels::OutOfRange;

use crate::state::check_not_negative;

/// How far SAM climbs, along what, and in which measure. With 1/p + 1/q = 1, over all parameters together:
///
/// e = rho · T sign(u) |u|^(q-1) / ((Σ|u|^q)^(1/p) + 1e-12), u = T a,
///
/// where `along` gives the direction a and `scale` the measure T. For p = 2 that is e = rho · T² a / (‖T a‖₂ + 1e-12), and for
/// an infinite p it is e = rho · T sign(a).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Climb {
    /// The radius of the neighborhood whose largest loss is minimized: a finite number of at least 0. With 0 a step is one of
    /// the base optimizer, at the price of one pass.
    pub rho: f64,
    /// The exponent p of the norm that the radius is measured in, above 1. Default 2; with [`f64::INFINITY`] every weight
    /// moves by rho.
    pub p: f64,
    /// The direction a. Default [`Along::Gradient`].
    pub along: Along,
    /// The measure T. Default [`Scale::Plain`].
    pub scale: Scale,
    /// Whether e has length rho. Without, the denominator is 1, as if rho were times the gradient's norm. Default true.
    pub normalize: bool,
}

/// The direction a that SAM climbs along, g being the gradient at w.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Along {
    /// a = g.
    Gradient,
    /// a = g - sigma · m, and then m ← lambda · m + (1 - lambda) · g; the first time a = m = g (F-SAM). What is left of the
    /// gradient is mostly the noise of the batch.
    Friendly {
        /// How much of the average is taken away: a finite number.
        sigma: f64,
        /// What part of the average stays: [0, 1).
        lambda: f64,
    },
    /// m ← (1 - theta) · m + theta · g, and a = m; the first time m = g (VaSSO).
    Averaged {
        /// What part of the average a gradient gets: (0, 1].
        theta: f64,
    },
    /// a = -v with the base optimizer's momentum v, known before the step: its only pass is at w + e (MSAM). Weights and
    /// saved states are always at w.
    Momentum,
}

impl Along {
    pub(super) fn validate(self) -> Result<(), OutOfRange> {
        match self {
            Self::Gradient | Self::Momentum => Ok(()),
            Self::Friendly { sigma, lambda } => {
                OutOfRange::check("sigma", sigma, sigma.is_finite(), "a finite number")?;
                OutOfRange::check(
                    "lambda",
                    lambda,
                    (0.0..1.0).contains(&lambda),
                    "at least 0 and less than 1",
                )
            }
            Self::Averaged { theta } => {
                OutOfRange::check("theta", theta, theta > 0.0 && theta <= 1.0, "above 0 and at most 1")
            }
        }
    }

    /// Whether it remembers an average of gradients.
    pub(in crate::sam) fn remembers(self) -> bool {
        matches!(self, Self::Friendly { .. } | Self::Averaged { .. })
    }
}

/// The measure T: in units of what the radius is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scale {
    /// T = 1.
    Plain,
    /// T = |w| + eta for each weight (ASAM). A layer may then be scaled without changing what is flat.
    Adaptive {
        /// A finite number of at least 0.
        eta: f64,
        /// Whether that is so for biases too; else their T is 1. A bias is a parameter whose name ends in `bias`.
        biases: bool,
    },
    /// T = ‖w‖₂ of each tensor. On a GPU each step waits for these norms.
    Tensor,
}

impl Scale {
    pub(super) fn validate(self) -> Result<(), OutOfRange> {
        match self {
            Self::Adaptive { eta, .. } => check_not_negative("eta", eta),
            Self::Plain | Self::Tensor => Ok(()),
        }
    }
}
