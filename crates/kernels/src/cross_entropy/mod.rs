//! Cross entropy against smoothed labels in one kernel, its gradient included, for an NVIDIA GPU.
//!
//! With the smoothed label q, `on` at the label and `off` elsewhere, and p = softmax(logits), a row's loss is
//! `constant` - Σ q ln p, and its gradient by the logits p - q. From stock candle operations, on any device, the same is
//! `wrn_sam_losses::smooth_cross_entropy`, which calls this where it can.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;

use candle_core::Tensor;

use crate::{Error, Result};

/// The weights of smoothed labels, and what is added to every loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothedLabels {
    /// The weight of a label's own class, in (0, 1].
    pub on: f64,
    /// The weight of every other class, at least 0; on + (K - 1) off = 1.
    pub off: f64,
    /// Added to every loss.
    pub constant: f64,
}

/// Whether [`cross_entropy`] takes these tensors: `f32` logits and `u32` labels on one NVIDIA GPU, with the feature `cuda`.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn supports(logits: &Tensor, labels: &Tensor) -> bool {
    #[cfg(feature = "cuda")]
    return cuda::serves(logits, labels);
    #[cfg(not(feature = "cuda"))]
    false
}

/// The loss of each row, `[N]`, of `logits` `[N, K]` in `f32` and `labels` `[N]` in `u32`, as one node of candle's graph.
///
/// Nothing waits for the GPU, so a label outside of `0..K` is no error: its row's loss and gradient are NaN.
///
/// # Errors
/// [`Error::Unsupported`] unless [`supports`]; [`Error::Shape`] where the shapes do not fit; a launch that fails.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothed: &SmoothedLabels) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::serves(logits, labels) {
        return cuda::cross_entropy(logits, labels, smoothed);
    }
    let dtypes = [logits, labels].map(Tensor::dtype);
    let found = format!("{dtypes:?} on {:?}", logits.device().location());
    let expected = "f32 logits and u32 labels on one NVIDIA GPU";
    Err(Error::Unsupported { operation: "cross_entropy", expected, found })
}
