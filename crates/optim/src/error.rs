//! What an optimizer refuses.

use candle_core::Shape;

/// The result of an optimizer's call.
pub type Result<T> = std::result::Result<T, Error>;

/// What an optimizer refuses. Whatever the variant, weights and state are as they were before the call.
/// (Two causes lie outside that promise: a device that fails, and a base optimizer of another crate that
/// fails halfway through its step.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A kernel reported an error.
    #[error(transparent)]
    Kernels(#[from] wrn_sam_kernels::Error),
    /// A hyper-parameter is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] wrn_sam_kernels::OutOfRange),
    /// Nesterov's momentum is defined for undampened momentum alone.
    #[error(
        "nesterov needs momentum above 0 and dampening 0, found momentum {momentum}, dampening {dampening}"
    )]
    Nesterov {
        /// The momentum asked for.
        momentum: f64,
        /// The dampening asked for.
        dampening: f64,
    },
    /// The same variable is listed twice, so a step would move it twice.
    #[error("parameters {first} and {second} are the same variable; list each once")]
    DuplicateParameter {
        /// Its first index.
        first: usize,
        /// Its second index.
        second: usize,
    },
    /// A gradient is not like its parameter.
    #[error("the gradient of parameter {parameter} must be {expected}, found {found}")]
    Gradient {
        /// The parameter's index.
        parameter: usize,
        /// The parameter's shape, element type and device.
        expected: String,
        /// The gradient's.
        found: String,
    },
    /// The gradient holds infinities or NaN, or its norm overflows.
    #[error(
        "the gradient's norm is not finite ({norm}), first so at parameter {parameter} of shape {shape:?}; \
         a smaller learning rate, or skipping this batch, may help"
    )]
    NonFiniteGradient {
        /// The index of the first parameter with which the norm is not finite.
        parameter: usize,
        /// Its shape.
        shape: Shape,
        /// The norm up to that parameter: infinite or NaN.
        norm: f64,
    },
    /// A GPU met a gradient that holds infinities or NaN, or whose norm overflows.
    #[error(
        "a gradient's norm was not finite (a sum of {norm}) in a step since the last check, and no weight has moved \
         since; a smaller learning rate may help"
    )]
    NonFiniteGradientOnGpu {
        /// The first sum over all parameters that was not finite: infinite or NaN.
        norm: f64,
    },
    /// A closure given to `step` returned something other than one number.
    #[error("the loss must be a single number, found shape {0:?}; reduce it, with mean_all() for example")]
    LossShape(Shape),
    /// A saved state does not fit.
    #[error("the saved state does not fit this optimizer:{}", list(missing, unexpected, misshapen))]
    State {
        /// Entries that are needed and not there.
        missing: Vec<String>,
        /// Entries that are there and not known.
        unexpected: Vec<String>,
        /// Entries of another shape or element type, with what was expected and found.
        misshapen: Vec<String>,
    },
}

fn list(missing: &[String], unexpected: &[String], misshapen: &[String]) -> String {
    [("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!(" {what} {};", names.join(", ")))
        .collect::<String>()
        .trim_end_matches(';')
        .to_string()
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            Error::Kernels(error) => error.into(),
            other => candle_core::Error::wrap(other),
        }
    }
}
