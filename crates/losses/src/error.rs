//! What a loss refuses.

use candle_core::{DType, Shape};

/// The result of a loss.
pub type Result<T> = std::result::Result<T, Error>;

/// What a loss refuses. Every variant names what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A kernel reported an error.
    #[error(transparent)]
    Kernels(#[from] wrn_sam_kernels::Error),
    /// The smoothing is not in `[0, 1)`.
    #[error(transparent)]
    OutOfRange(#[from] wrn_sam_kernels::OutOfRange),
    /// Smoothing shares its weight between the classes other than the label's, and there are none.
    #[error("label smoothing {smoothing} needs at least 2 classes, the logits have {classes}")]
    Classes {
        /// The smoothing asked for.
        smoothing: f64,
        /// The number of columns of the logits.
        classes: usize,
    },
    /// The logits are not `[N, K]` or the labels not `[N]`.
    #[error(
        "expected logits [N, K] and labels [N], none of them empty; found logits {logits:?} and labels {labels:?}"
    )]
    Shape {
        /// The shape of the logits.
        logits: Shape,
        /// The shape of the labels.
        labels: Shape,
    },
    /// The logits' or labels' element type is not one that the loss takes.
    #[error("{what} must be {expected}, found {found:?}; convert them with to_dtype")]
    DType {
        /// `"logits"` or `"labels"`.
        what: &'static str,
        /// The element types that are taken.
        expected: &'static str,
        /// The element type found.
        found: DType,
    },
    /// A label names no class.
    #[error("label {label} of row {row} is outside 0..{classes}, the classes of the logits")]
    Label {
        /// The sample's index in the batch.
        row: usize,
        /// Its label.
        label: i64,
        /// The number of classes.
        classes: usize,
    },
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
