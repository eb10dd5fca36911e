//! Choices that have no meaning together.

use super::{Along, Descent, SamConfig, When};
use crate::{Error, Result};

/// # Errors
/// [`Error::Choices`] names the first two that do not fit.
pub(super) fn validate(config: &SamConfig) -> Result<()> {
    let along = match config.climb.along {
        Along::Gradient => None,
        Along::Friendly { .. } => Some("along: Friendly"),
        Along::Averaged { .. } => Some("along: Averaged"),
        Along::Momentum => Some("along: Momentum"),
    };
    let descent = match config.descent {
        Descent::Perturbed => None,
        Descent::SurrogateGap { .. } => Some("descent: SurrogateGap"),
        Descent::Weighted { .. } => Some("descent: Weighted"),
    };
    let refuse = |one, other, why| Err(Error::Choices { one, other, why });
    if let When::Look { .. } = config.when {
        if let Some(along) = along {
            return refuse(
                "when: Look",
                along,
                "what is used again is what g2 has beside g1, so the ascent is along g1",
            );
        }
        if let Some(descent) = descent {
            return refuse("when: Look", descent, "it says itself what the base optimizer sees");
        }
    }
    if config.climb.along == Along::Momentum {
        const ONE_GRADIENT: &str = "a step along the momentum has one gradient";
        if let Some(descent) = descent {
            return refuse("along: Momentum", descent, ONE_GRADIENT);
        }
        match config.when {
            When::Always | When::From { .. } => {}
            When::Every { .. } => {
                return refuse("along: Momentum", "when: Every", "there is no second pass to spare");
            }
            When::Adaptive { .. } => {
                return refuse(
                    "along: Momentum",
                    "when: Adaptive",
                    "it climbs before there is a gradient to decide by",
                );
            }
            When::Look { .. } => return refuse("along: Momentum", "when: Look", ONE_GRADIENT),
        }
    }
    Ok(())
}
