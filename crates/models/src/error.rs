use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::DType;

/// What can go wrong when a model is built, run, saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of [`WideResNetConfig`](crate::WideResNetConfig), or an argument, is outside its range; nothing was
    /// built.
    #[error(transparent)]
    OutOfRange(#[from] wrn_sam_kernels::OutOfRange),

    /// The input has another shape than the layer was built for.
    #[error("{layer} takes an input of shape {expected}, found {found:?}")]
    InputShape {
        /// The layer's name in the state dict, or its type where it has no name.
        layer: String,
        /// The shape it takes.
        expected: String,
        /// The shape it was given.
        found: Vec<usize>,
    },

    /// The input has another element type than the layer's parameters.
    #[error("{layer} has {expected:?} parameters, but its input is {found:?}: convert it with to_dtype")]
    InputDType {
        /// The layer's name in the state dict, or its type where it has no name.
        layer: String,
        /// The parameters' element type.
        expected: DType,
        /// The input's element type.
        found: DType,
    },

    /// One value per channel has no variance.
    #[error(
        "{layer} cannot take batch statistics of an input of shape {found:?}, which has one value per channel: \
         use a larger batch, or Mode::Eval"
    )]
    TooFewValues {
        /// The layer's name in the state dict, or its type where it has no name.
        layer: String,
        /// The input's shape.
        found: Vec<usize>,
    },

    /// A state dict is not one of this model; the model was not changed.
    #[error("{from} does not fit the model, so nothing was loaded:{mismatch}")]
    StateDict {
        /// Where the state dict comes from: a file's path, or "the state dict" for one in memory.
        from: String,
        /// Every difference.
        mismatch: Mismatch,
    },

    /// A state dict holds no Wide ResNet.
    #[error("{path} is not a WideResNet's state dict: {reason}", path = path.display())]
    NotWideResNet {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },

    /// The file is not safetensors, or is damaged.
    #[error(
        "{path} is not a whole safetensors file ({source}): it may be cut short; save or copy it again",
        path = path.display()
    )]
    SafeTensors {
        /// The file.
        path: PathBuf,
        /// What its header says.
        source: safetensors::SafeTensorError,
    },

    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernels(#[from] wrn_sam_kernels::Error),

    /// A candle operation failed: memory, a device, or a shape.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => Self::wrap(other),
        }
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Every difference between a state dict and the parameters it should fill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters and buffers of the model that the state dict lacks, in the model's order.
    pub missing: Vec<String>,
    /// Names in the state dict that the model does not have, sorted.
    pub unexpected: Vec<String>,
    /// Values of another shape or element type, in the model's order.
    pub misshapen: Vec<Misshapen>,
}

/// One value whose shape or element type is not the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// The model's, as `F32 [16, 3, 3, 3]`.
    pub expected: String,
    /// The state dict's, likewise.
    pub found: String,
}

impl Mismatch {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, names) in [("missing", &self.missing), ("unexpected", &self.unexpected)] {
            for name in names {
                write!(f, "\n  {what}: {name}")?;
            }
        }
        for Misshapen { name, expected, found } in &self.misshapen {
            write!(f, "\n  {name}: expected {expected}, found {found}")?;
        }
        Ok(())
    }
}
