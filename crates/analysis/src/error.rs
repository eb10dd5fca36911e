//! What a measure refuses.

/// The result of a measure.
pub type Result<T> = std::result::Result<T, Error>;

/// What a measure refuses. The weights are then what they were before it, to the bit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// candle, or the loss, reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// An argument is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] wrn_sam_kernels::OutOfRange),
    /// There are no parameters to move.
    #[error("there are no parameters to move; pass the variables of the network")]
    NoParameters,
    /// The parameters do not make one vector.
    #[error("all parameters must have one element type and be on one device, {expected}; {name} is {found}")]
    Mixed {
        /// The first parameter that differs.
        name: String,
        /// What the first parameter is.
        expected: String,
        /// What this one is.
        found: String,
    },
    /// The loss does not depend on the parameters through a graph.
    #[error(
        "no parameter has a gradient: the loss does not depend on them through a graph; check that the forward pass \
         builds one and uses these variables"
    )]
    NoGradient,
    /// A value that the measure needs is infinite or NaN.
    #[error(
        "{0} is not finite; the weights may be those of a run that diverged, or the neighborhood too large"
    )]
    NotFinite(&'static str),
    /// A loss without numbers, or a direction for other parameters.
    #[error("{what} must have {expected}, found {found}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape expected.
        expected: String,
        /// The shape found.
        found: String,
    },
}

/// A value that must be finite.
pub(crate) fn finite(what: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(Error::NotFinite(what)) }
}
