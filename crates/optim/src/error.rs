//! What an optimizer refuses.

use candle_core::Shape;

use crate::Pass;

/// The result of an optimizer's call.
pub type Result<T> = std::result::Result<T, Error>;

/// What an optimizer refuses.
///
/// Whatever the variant, these are as before the call: the weights, the state of [`Sgd`](crate::Sgd),
/// [`AdamW`](crate::AdamW) and [`Sam`](crate::Sam), and the buffers that `Sam` was given
/// ([`with_buffers`](crate::Sam::with_buffers)). There are two exceptions: a device that fails, and the state inside a
/// base optimizer of another crate that fails halfway through its step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A kernel reported an error.
    #[error(transparent)]
    Kernels(#[from] wrn_sam_kernels::Error),
    /// The ranks that step together do not, or one of them has failed.
    #[error(transparent)]
    Collective(#[from] wrn_sam_collective::Error),
    /// A hyper-parameter is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] wrn_sam_kernels::OutOfRange),
    /// Two choices of a [`SamConfig`](crate::SamConfig) have no meaning together.
    #[error("`{one}` with `{other}` has no meaning: {why}")]
    Choices {
        /// One.
        one: &'static str,
        /// The other.
        other: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// A step along the momentum of a base optimizer that has none.
    #[error(
        "the base optimizer has no momentum to step ahead along: take Sgd with a momentum above 0, or AdamW, and `Sam::new`"
    )]
    NoMomentum,
    /// A variable that is not among the parameters.
    #[error("variable {0} of the list is not a parameter of this optimizer")]
    UnknownParameter(usize),
    /// A parameter has a gradient in one of a step's passes only, where both are needed.
    #[error(
        "parameter {parameter} has a gradient in one of the step's two passes only; this descent needs it in both, or in \
         neither"
    )]
    OnePass {
        /// Its name, or index where it has no name.
        parameter: String,
    },
    /// The calls for a step's micro-batches are not in order.
    #[error("the micro-batches of a step: {0}")]
    MicroBatches(&'static str),
    /// The list of variables is empty, so a step would move nothing.
    #[error("there are no parameters to optimize; pass the variables of the model")]
    NoParameters,
    /// The same variable is listed twice, so a step would move it twice.
    #[error("parameters {first} and {second} are the same variable; list each once")]
    DuplicateParameter {
        /// Its first name, or index where parameters have no names.
        first: String,
        /// Its second.
        second: String,
    },
    /// Two variables have the same name, so a saved state could not tell them apart.
    #[error("two parameters have the name {0}; give each its own")]
    DuplicateName(String),
    /// A state was to be saved or loaded, but the parameters have no names to save it under.
    #[error(
        "an optimizer made with `new` does not know its parameters' names, and their order is not safe to save a state \
         by; make it with `named`, for a VarMap from `named_vars`"
    )]
    Unnamed,
    /// No parameter has a gradient, so a step would move nothing.
    #[error(
        "none of the {parameters} parameters has a gradient: the loss does not depend on them through a graph; check \
         that the forward pass builds one (not in an evaluation mode, nothing detached) and uses these variables"
    )]
    NoGradient {
        /// How many parameters there are.
        parameters: usize,
    },
    /// The base optimizer's step moved no parameter, although there were gradients and a learning rate.
    #[error("the base optimizer moved none of the parameters; make it with the same variables as Sam")]
    NothingMoved,
    /// A gradient is not like its parameter.
    #[error("the gradient of parameter {parameter} must be {expected}, found {found}")]
    Gradient {
        /// The parameter's name, or index where it has no name.
        parameter: String,
        /// The parameter's shape, element type and device.
        expected: String,
        /// The gradient's.
        found: String,
    },
    /// The gradient holds infinities or NaN, or its norm overflows.
    #[error(
        "the gradient's norm is not finite ({norm}), first at parameter {parameter} of shape {shape:?}, in the {} pass of \
         the step; nothing was changed, so this batch can be skipped; if it happens again, {}",
        if *pass == Pass::First { "first" } else { "second" },
        if *pass == Pass::First { "look for bad values in the batch, or lower the learning rate" } else { "lower rho" }
    )]
    NonFiniteGradient {
        /// The name, or index, of the first parameter with which the norm is not finite.
        parameter: String,
        /// Its shape.
        shape: Shape,
        /// The norm up to that parameter: infinite or NaN.
        norm: f64,
        /// The pass that the gradient is from: at w, or at w + e.
        pass: Pass,
    },
    /// A GPU met a gradient that holds infinities or NaN, or whose norm overflows.
    #[error(
        "a gradient's norm was not finite (a sum of {norm}) in a step since the last check; nothing has changed since \
         the step before it; if it happens again, look for bad values in the batches, or lower rho or the learning rate"
    )]
    NonFiniteGradientOnGpu {
        /// The first sum over all parameters that was not finite: infinite or NaN.
        norm: f64,
    },
    /// A closure given to `step` returned something other than one number.
    #[error("the loss must be a single number, found shape {0:?}; reduce it, with mean_all() for example")]
    LossShape(Shape),
    /// A saved state does not fit.
    #[error(
        "the saved state does not fit this optimizer, and nothing was loaded:{}",
        list(missing, unexpected, misshapen, invalid)
    )]
    State {
        /// Entries that are needed and not there.
        missing: Vec<String>,
        /// Entries that are there and not known.
        unexpected: Vec<String>,
        /// Entries of another shape or element type, with what was expected and found.
        misshapen: Vec<String>,
        /// Entries whose values no optimizer has, such as NaN, with what is wrong.
        invalid: Vec<String>,
    },
}

fn list(missing: &[String], unexpected: &[String], misshapen: &[String], invalid: &[String]) -> String {
    [("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen), ("invalid", invalid)]
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
