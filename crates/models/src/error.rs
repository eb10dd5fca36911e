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
    #[error("{from} does not fit the model, so nothing was loaded: {mismatch}")]
    StateDict {
        /// Where the state dict comes from: a file's path, or "the state dict" for one in memory.
        from: String,
        /// Every difference.
        mismatch: Box<Mismatch>,
    },

    /// A state dict is of a Wide ResNet that computes another function, so that its values would give wrong answers
    /// here; the model was not changed.
    #[error("{from} holds the network of {repository}, which computes another function: {difference}")]
    OtherNetwork {
        /// Where the state dict comes from: a file's path, or "the state dict" for one in memory.
        from: String,
        /// The repository on GitHub that defines the network, told by its names.
        repository: &'static str,
        /// What it does differently.
        difference: &'static str,
    },

    /// Values are not finite, or variances are negative: whatever is computed from them means nothing.
    #[error(
        "{name} holds {value} ({count} of its {of} values are not finite or out of range): the training diverged, or \
         the file is damaged"
    )]
    BadValues {
        /// The parameter's or buffer's name.
        name: String,
        /// The first such value.
        value: f64,
        /// How many there are.
        count: usize,
        /// How many values the parameter or buffer has.
        of: usize,
    },

    /// A state dict holds no Wide ResNet.
    #[error("{path} is not a WideResNet's state dict: {reason}", path = path.display())]
    NotWideResNet {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },

    /// The file is something else than weights.
    #[error("{path} is {reason}", path = path.display())]
    NotWeights {
        /// The file.
        path: PathBuf,
        /// What it is and what to do, as "a Git LFS pointer, not the weights: run `git lfs pull`".
        reason: String,
    },

    /// The file is PyTorch's, and no state dict can be read from it.
    #[error("{path} is a PyTorch file without a state dict that can be read: {reason}", path = path.display())]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// What it holds, or how it is damaged.
        reason: String,
    },

    /// The file is not safetensors, or is damaged.
    #[error(
        "{path} is not a whole safetensors file ({source}): it is cut short, damaged or something else; save or copy \
         it again",
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

impl From<wrn_sam_files::Error> for Error {
    fn from(error: wrn_sam_files::Error) -> Self {
        let wrn_sam_files::Error { action, path, source, .. } = error;
        Self::Io { action, path, source }
    }
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
#[non_exhaustive]
pub struct Mismatch {
    /// Parameters and buffers of the model that the state dict lacks, in the model's order.
    pub missing: Vec<String>,
    /// Names in the state dict that the model does not have, sorted.
    pub unexpected: Vec<String>,
    /// Values of another shape, or of an element type that is not converted, in the model's order.
    pub misshapen: Vec<Misshapen>,
    /// The longest prefix of all names in the state dict that ends with a dot; empty where they share none.
    pub prefix: String,
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

/// So many names of each kind a message lists.
const LISTED: usize = 5;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |Misshapen { name, expected, found }: &Misshapen| format!("{name} is {found}, not {expected}");
        let misshapen: Vec<String> = self.misshapen.iter().take(LISTED).map(show).collect();
        let kinds = [
            ("missing", self.missing.len(), &self.missing),
            ("unexpected", self.unexpected.len(), &self.unexpected),
            ("of another shape or type", self.misshapen.len(), &misshapen),
        ];
        let mut separator = "";
        for (kind, count, names) in kinds.into_iter().filter(|(_, count, _)| *count > 0) {
            let listed = names[..names.len().min(LISTED)].join(", ");
            write!(f, "{separator}{count} {kind} ({listed}")?;
            if count > LISTED {
                write!(f, " and {} more", count - LISTED)?;
            }
            f.write_str(")")?;
            separator = "; ";
        }
        if !self.prefix.is_empty() {
            write!(f, "; all its names begin with {:?}", self.prefix)?;
        }
        Ok(())
    }
}
