//! A value outside its range, in one vocabulary for every crate.

use std::borrow::Cow;

/// A value outside its range, such as a hyper-parameter: nothing was done with it.
///
/// ```
/// use wrn_sam_kernels::OutOfRange;
///
/// let rho = -1.0;
/// let error = OutOfRange::check("rho", rho, rho >= 0.0, "a number of at least 0").unwrap_err();
/// assert_eq!(error.to_string(), "rho = -1: must be a number of at least 0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value}: must be {expected}")]
#[non_exhaustive]
pub struct OutOfRange {
    /// The field or argument.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// The values allowed, as what follows "must be".
    pub expected: Cow<'static, str>,
}

impl OutOfRange {
    /// An error for the field or argument `name`, which must be `expected`.
    pub fn new(name: &'static str, value: impl ToString, expected: impl Into<Cow<'static, str>>) -> Self {
        Self { name, value: value.to_string(), expected: expected.into() }
    }

    /// Checks one value: an error unless it `holds`.
    ///
    /// # Errors
    /// [`OutOfRange`] with the arguments.
    pub fn check(
        name: &'static str,
        value: impl ToString,
        holds: bool,
        expected: &'static str,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::new(name, value, expected)) }
    }
}
