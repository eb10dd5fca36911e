//! What the base optimizer sees, and which steps have a second pass.

use serde::{Deserialize, Serialize};
use wrn_sam_kernels::OutOfRange;

use crate::state::check_not_negative;

/// What the base optimizer steps along, d, from the gradients g1 at w and g2 at w + e.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Descent {
    /// d = g2.
    Perturbed,
    /// d = g2 - alpha · (g1 - c g2) with c = g1·g2 / (g2·g2 + 1e-12): g2, and against what of g1 is orthogonal to it, which
    /// keeps the loss at w + e and lowers its distance to that at w (GSAM).
    SurrogateGap {
        /// A finite number of at least 0.
        alpha: f64,
    },
    /// With kappa = gamma / (1 - gamma): d = g1 + kappa · (g2 - g1), or decoupled d = g1, after whose step
    /// w ← w - learning_rate · kappa · (g2 - g1), past momentum and weight decay (WSAM).
    Weighted {
        /// The weight of the sharpness, [0, 1): 0 is the base optimizer, 0.5 is SAM.
        gamma: f64,
        /// Whether the sharpness goes past the base optimizer.
        decoupled: bool,
    },
}

impl Descent {
    pub(super) fn validate(self) -> Result<(), OutOfRange> {
        match self {
            Self::Perturbed => Ok(()),
            Self::SurrogateGap { alpha } => check_not_negative("alpha", alpha),
            Self::Weighted { gamma, .. } => {
                OutOfRange::check("gamma", gamma, (0.0..1.0).contains(&gamma), "at least 0 and less than 1")
            }
        }
    }
}

/// Which steps have a second pass, counted from 0 over the life of the [`Sam`](crate::Sam). In the others the base optimizer
/// steps along g1, the gradient at w, at the price of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum When {
    /// All.
    Always,
    /// Steps 0, k, 2k, …
    Every {
        /// At least 1.
        k: u64,
    },
    /// This step and all later ones (late SAM, Zhou et al., <https://arxiv.org/abs/2410.10373>).
    From {
        /// The first.
        step: u64,
    },
    /// Where the gradient is larger than usual (AE-SAM): with s = ‖g1‖₂², mu ← delta · mu + (1 - delta) · s and
    /// var ← delta · var + (1 - delta) · (s - mu)², both 0 at first, where s ≥ mu + c √var. In step t,
    /// c = lambda1 · τ + lambda2 · (1 - τ) with τ = (t + 1) / steps, at most 1. On a GPU each step waits for s.
    Adaptive {
        /// What part of mean and variance stays: [0, 1).
        delta: f64,
        /// c at the end of the training: a finite number.
        lambda1: f64,
        /// c at its beginning: a finite number.
        lambda2: f64,
        /// The steps of the training: at least 1.
        steps: u64,
    },
    /// Steps 0, k, 2k, … The others use again what the second gradient had beside the first (LookSAM): after a second
    /// pass v = g2 - g1·g2 / (g1·g1 + 1e-12) · g1, and in the steps without one d = g1 + alpha · ‖g1‖₂ / (‖v‖₂ + 1e-12) · v.
    Look {
        /// At least 1.
        k: u64,
        /// A finite number of at least 0.
        alpha: f64,
    },
}

impl When {
    pub(super) fn validate(self) -> Result<(), OutOfRange> {
        match self {
            Self::Always | Self::From { .. } => Ok(()),
            Self::Every { k } => at_least_one("k", k),
            Self::Adaptive { delta, lambda1, lambda2, steps } => {
                OutOfRange::check("delta", delta, (0.0..1.0).contains(&delta), "at least 0 and less than 1")?;
                OutOfRange::check("lambda1", lambda1, lambda1.is_finite(), "a finite number")?;
                OutOfRange::check("lambda2", lambda2, lambda2.is_finite(), "a finite number")?;
                at_least_one("steps", steps)
            }
            Self::Look { k, alpha } => {
                at_least_one("k", k)?;
                check_not_negative("alpha", alpha)
            }
        }
    }

    /// Whether step `t` has a second pass; none where its first gradient decides.
    pub(in crate::sam) fn climbs_at(self, t: u64) -> Option<bool> {
        match self {
            Self::Always => Some(true),
            Self::Every { k } | Self::Look { k, .. } => Some(t.is_multiple_of(k)),
            Self::From { step } => Some(t >= step),
            Self::Adaptive { .. } => None,
        }
    }
}

fn at_least_one(name: &'static str, value: u64) -> Result<(), OutOfRange> {
    OutOfRange::check(name, value, value >= 1, "at least 1")
}
