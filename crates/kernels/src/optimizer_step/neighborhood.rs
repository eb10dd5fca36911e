//! In which neighborhood of the weights SAM looks for the largest loss, and along what it climbs there.

use candle_core::{Tensor, Var};

use super::operands::{check_state, operand};
use crate::Result;

/// The ball ‖e‖ₚ ≤ ρ around the weights in which SAM looks for the largest loss
/// (Foret et al., <https://arxiv.org/abs/2010.01412>, section 2).
///
/// With 1/p + 1/q = 1, and for each parameter a direction a and a [`Size`] T (both in its [`Slope`]), the loss grows fastest to
/// first order at
///
/// e = ρ T sign(u) |u|^(q-1) / (Σ|u|^q)^(1/p), u = T a.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighborhood {
    /// The norm's exponent, in (1, ∞]. 2 is the usual one: e = ρ T u / ‖u‖₂. With ∞, e = ρ T sign(u).
    pub p: f64,
    /// Whether e is divided by (Σ|u|^q)^(1/p), as above.
    pub normalize: bool,
    /// a = `gradient` · g + `memory` · m for a slope with a memory m; without, a = g.
    pub gradient: f64,
    /// The factor of the memory.
    pub memory: f64,
}

impl Neighborhood {
    /// The ball in the p-norm, along the gradient.
    pub const fn new(p: f64) -> Self {
        Self { p, normalize: true, gradient: 1.0, memory: 0.0 }
    }

    /// q of 1/p + 1/q = 1.
    pub fn dual(&self) -> f64 {
        if self.p.is_infinite() { 1.0 } else { self.p / (self.p - 1.0) }
    }
}

/// T: the unit that a parameter's part of the ball is measured in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    /// T is this number, 1 for SAM itself.
    Constant(f64),
    /// T = |w| + eta for each weight (Kwon et al., <https://arxiv.org/abs/2102.11600>).
    Weights {
        /// At least 0.
        eta: f64,
    },
}

/// A parameter, and the direction that SAM climbs along.
#[derive(Clone, Copy, Debug)]
pub struct Slope<'a> {
    /// The weights.
    pub w: &'a Var,
    /// g.
    pub gradient: &'a Tensor,
    /// m, if there is one. It is only read.
    pub memory: Option<&'a Var>,
    /// T.
    pub size: Size,
    /// What the radius is multiplied by for this parameter.
    pub factor: f64,
}

impl<'a> Slope<'a> {
    /// Along the gradient of `w`, in plain units.
    pub fn new(w: &'a Var, gradient: &'a Tensor) -> Self {
        Self { w, gradient, memory: None, size: Size::Constant(1.0), factor: 1.0 }
    }

    /// With this [`size`](Self::size).
    #[must_use]
    pub fn with_size(self, size: Size) -> Self {
        Self { size, ..self }
    }

    /// The gradient as the passes take it, beside `old` if there is one: see [`operand`].
    pub(super) fn operand(&self, old: Option<&Var>) -> Result<Tensor> {
        let mut states = Vec::new();
        states.extend(old.map(|old| ("old", old)));
        states.extend(self.memory.map(|memory| ("memory", memory)));
        if let (Some(old), Some(memory)) = (old, self.memory) {
            check_state(old, "memory", memory)?;
        }
        operand(self.w, self.gradient, &states)
    }
}
