//! What can go wrong in a kernel call.

/// The result of a kernel call.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a kernel call. Every variant names what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A slice or tensor has another size than the operation's shape asks for.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// The argument at fault.
        what: &'static str,
        /// What the operation needs.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// The operation has no implementation for this device or element type.
    #[error("{operation} needs {expected}, found {found}")]
    Unsupported {
        /// The operation's name.
        operation: &'static str,
        /// The devices or element types it has.
        expected: &'static str,
        /// What it was given.
        found: String,
    },
    /// A value is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] crate::OutOfRange),
    /// This machine's processor lacks the instruction set asked for.
    #[error("this processor has no {0:?}; InstructionSet::available() lists what it has")]
    InstructionSet(crate::InstructionSet),
    /// A GPU, its driver or one of its libraries is missing or failed.
    #[error("{operation}: {library} reports {status}")]
    Device {
        /// What was tried, with its shape.
        operation: String,
        /// CUDA or cuDNN.
        library: &'static str,
        /// What the library says, and what may help.
        status: String,
    },
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}
