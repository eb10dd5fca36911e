//! The hyper-parameters of the SAM family: four small choices and a bound.

mod choices;
mod climb;
mod pairs;

use serde::{Deserialize, Serialize};

pub use choices::{Descent, When};
pub use climb::{Along, Climb, Scale};

use crate::Result;
use crate::state::check_not_negative;
use wrn_sam_kernels::OutOfRange;

/// The hyper-parameters of [`Sam`](crate::Sam): which member of the family it is, and with which numbers.
///
/// A member is made of four choices, each of which stands in a field of its own:
///
/// 1. *when* a second pass is taken;
/// 2. where to *climb*: how far, along what, in which measure;
/// 3. what the *descent* follows, from the gradients g1 at w and g2 at w + e;
/// 4. over what the ascent is taken, which is no number but a way of calling: see [`Step::part`](crate::Step::part) and
///    [`Step::gather`](crate::Step::gather).
///
/// The constructors are named after the methods and have their papers' numbers; `with_*` changes one. It is plain data, and
/// serializes as its fields.
///
/// ```
/// use wrn_sam_optim::{Along, SamConfig, Scale, When};
///
/// let asam = SamConfig::asam(0.5);
/// assert_eq!(asam.climb.scale, Scale::Adaptive { eta: 0.01, biases: false });
///
/// // Two choices of different papers: every other step, along an average of the gradients.
/// let both = SamConfig::vasso(0.1).with_when(When::Every { k: 2 });
/// assert!(both.validate().is_ok());
///
/// let error = asam.with_rho(-1.0).validate().unwrap_err();
/// assert_eq!(error.to_string(), "rho = -1: must be a number of at least 0");
/// let error = SamConfig::looksam(0.1).with_along(Along::Momentum).validate().unwrap_err();
/// assert!(error.to_string().starts_with("`when: Look` with `along: Momentum` has no meaning: "));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SamConfig {
    /// Where to climb before the second pass.
    pub climb: Climb,
    /// What the base optimizer sees. Default [`Descent::Perturbed`].
    pub descent: Descent,
    /// Which steps have a second pass. Default [`When::Always`].
    pub when: When,
    /// The largest norm of what the base optimizer sees, d: above that d is shortened to it,
    /// d ← d · min(1, clip / (‖d‖₂ + 1e-6)), as PyTorch's `clip_grad_norm_` does. Above 0. Default none.
    ///
    /// It acts once, after everything else and before the base optimizer's weight decay. To clip the first gradient would
    /// do nothing: the ascent divides by its norm.
    pub clip: Option<f64>,
}

impl Default for SamConfig {
    /// [`SamConfig::sam`] with a rho of 0.05.
    fn default() -> Self {
        Self::sam(0.05)
    }
}

/// The members of the family. Most take their radius, for which papers give values by network and data set.
impl SamConfig {
    /// SAM (Foret et al., <https://arxiv.org/abs/2010.01412>): e = rho · g / ‖g‖₂, and the step follows the gradient at w + e.
    /// The paper's rho for CIFAR-100 is 0.1, or 0.05 for CIFAR-10.
    pub fn sam(rho: f64) -> Self {
        let climb = Climb { rho, p: 2.0, along: Along::Gradient, scale: Scale::Plain, normalize: true };
        Self { climb, descent: Descent::Perturbed, when: When::Always, clip: None }
    }

    /// Adaptive SAM as its authors run it (Kwon et al., <https://arxiv.org/abs/2102.11600>): the radius is measured in units
    /// of |w| + 0.01, for biases in plain ones. Their rho is 0.5 for CIFAR-10 and 1 for CIFAR-100.
    pub fn asam(rho: f64) -> Self {
        Self::sam(rho).with_scale(Scale::Adaptive { eta: 0.01, biases: false })
    }

    /// Adaptive SAM as PyTorch's best-known SAM has it (davda54/sam): in units of |w|, for every parameter. Its rho is about
    /// 2, and means another thing than that of [`asam`](Self::asam).
    pub fn adaptive(rho: f64) -> Self {
        Self::sam(rho).with_scale(Scale::Adaptive { eta: 0.0, biases: true })
    }

    /// Unnormalized SAM (Andriushchenko & Flammarion, <https://arxiv.org/abs/2206.06232>): e = rho · g.
    pub fn usam(rho: f64) -> Self {
        Self::sam(rho).with_normalize(false)
    }

    /// Friendly SAM (Li et al., <https://arxiv.org/abs/2403.12350>): climbs along what is new in a batch's gradient,
    /// [`Along::Friendly`] with sigma 1 and lambda 0.9 (the paper's for WRN-28-10; 0.6 for ResNet-18).
    pub fn fsam(rho: f64) -> Self {
        Self::sam(rho).with_along(Along::Friendly { sigma: 1.0, lambda: 0.9 })
    }

    /// VaSSO (Li & Giannakis, <https://arxiv.org/abs/2309.15639>): climbs along a moving average of the gradients,
    /// [`Along::Averaged`] with theta 0.9, as the authors train Wide ResNets.
    pub fn vasso(rho: f64) -> Self {
        Self::sam(rho).with_along(Along::Averaged { theta: 0.9 })
    }

    /// MSAM (Becker et al., <https://arxiv.org/abs/2401.12033>): one pass a step, at w - rho · v / ‖v‖₂ with the base
    /// optimizer's momentum v. The paper's rho is about 3 for Wide ResNets on CIFAR-100.
    pub fn msam(rho: f64) -> Self {
        Self::sam(rho).with_along(Along::Momentum)
    }

    /// GSAM (Zhuang et al., <https://arxiv.org/abs/2203.08065>): [`Descent::SurrogateGap`] with alpha 0.4. The paper lets rho
    /// follow the learning rate: see [`Proportional`](crate::Proportional).
    pub fn gsam(rho: f64) -> Self {
        Self::sam(rho).with_descent(Descent::SurrogateGap { alpha: 0.4 })
    }

    /// WSAM (Yue et al., <https://arxiv.org/abs/2305.15817>): [`Descent::Weighted`] with gamma 0.9, decoupled.
    pub fn wsam(rho: f64) -> Self {
        Self::sam(rho).with_descent(Descent::Weighted { gamma: 0.9, decoupled: true })
    }

    /// LookSAM (Liu et al., <https://arxiv.org/abs/2203.02714>): [`When::Look`] with k 5 and alpha 0.7.
    pub fn looksam(rho: f64) -> Self {
        Self::sam(rho).with_when(When::Look { k: 5, alpha: 0.7 })
    }

    /// AE-SAM (Jiang et al., <https://arxiv.org/abs/2304.14647>) in a training of `steps` steps: [`When::Adaptive`] with delta
    /// 0.9 and lambdas from 1 to -1.
    pub fn aesam(rho: f64, steps: u64) -> Self {
        Self::sam(rho).with_when(When::Adaptive { delta: 0.9, lambda1: -1.0, lambda2: 1.0, steps })
    }
}

impl SamConfig {
    /// With this radius, [`Climb::rho`].
    #[must_use]
    pub fn with_rho(mut self, rho: f64) -> Self {
        self.climb.rho = rho;
        self
    }

    /// With this exponent, [`Climb::p`].
    #[must_use]
    pub fn with_p(mut self, p: f64) -> Self {
        self.climb.p = p;
        self
    }

    /// With this direction, [`Climb::along`].
    #[must_use]
    pub fn with_along(mut self, along: Along) -> Self {
        self.climb.along = along;
        self
    }

    /// With this measure, [`Climb::scale`].
    #[must_use]
    pub fn with_scale(mut self, scale: Scale) -> Self {
        self.climb.scale = scale;
        self
    }

    /// With or without [`Climb::normalize`].
    #[must_use]
    pub fn with_normalize(mut self, normalize: bool) -> Self {
        self.climb.normalize = normalize;
        self
    }

    /// With this [`descent`](Self::descent).
    #[must_use]
    pub fn with_descent(self, descent: Descent) -> Self {
        Self { descent, ..self }
    }

    /// With this [`when`](Self::when).
    #[must_use]
    pub fn with_when(self, when: When) -> Self {
        Self { when, ..self }
    }

    /// With this [`clip`](Self::clip).
    #[must_use]
    pub fn with_clip(self, clip: Option<f64>) -> Self {
        Self { clip, ..self }
    }

    /// Checks every value's range, and that the choices fit each other.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) names the first value outside its range;
    /// [`Error::Choices`](crate::Error::Choices) the first two choices that have no meaning together.
    pub fn validate(&self) -> Result<()> {
        let Climb { rho, p, along, scale, .. } = self.climb;
        check_not_negative("rho", rho)?;
        OutOfRange::check("p", p, p > 1.0, "above 1 (2 is usual, infinity is allowed)")?;
        along.validate()?;
        scale.validate()?;
        self.descent.validate()?;
        self.when.validate()?;
        if let Some(clip) = self.clip {
            OutOfRange::check("clip", clip, clip.is_finite() && clip > 0.0, "a number above 0")?;
        }
        pairs::validate(self)
    }
}
