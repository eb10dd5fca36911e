//! Counting right answers and summing losses where they are, until somebody asks.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;

use candle_core::Tensor;

use crate::{Error, Result};

/// TallySums over images that are kept on an NVIDIA GPU until [`take`](Self::take) asks for them.
#[derive(Debug, Default)]
pub struct DeviceTally {
    /// `[4]` in `f64` on the GPU: images, their losses, those whose label was the likeliest class, and those whose label
    /// was among the five likeliest.
    sums: Option<Tensor>,
}

/// What a [`DeviceTally`] held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TallySums {
    /// Images.
    pub images: u64,
    /// The sum of their losses, in `f64`.
    pub loss: f64,
    /// How many had their label as the likeliest class.
    pub top1: u64,
    /// How many had their label among the five likeliest.
    pub top5: u64,
}

impl DeviceTally {
    /// Whether these tensors can be added: `f32`, `f32` and `u32` on one NVIDIA GPU, with the feature `cuda`.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn supports(loss: &Tensor, logits: &Tensor, labels: &Tensor) -> bool {
        #[cfg(feature = "cuda")]
        return cuda::serves(loss, logits, labels);
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// Adds a batch, without waiting for the GPU: `loss` `[N]` and `logits` `[N, K]` in `f32` and `labels` `[N]` in `u32`.
    ///
    /// Of equal logits the lower class counts as the likelier one; NaN counts as likelier than the label; a label outside
    /// of `0..K` is never right.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`supports`](Self::supports); shapes that do not fit; a launch that fails.
    pub fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &Tensor) -> Result<()> {
        #[cfg(feature = "cuda")]
        if cuda::serves(loss, logits, labels) {
            return cuda::add(&mut self.sums, loss, logits, labels);
        }
        let dtypes = [loss, logits, labels].map(Tensor::dtype);
        let found = format!("{dtypes:?} on {:?}", logits.device().location());
        let expected = "f32 losses, f32 logits and u32 labels on one NVIDIA GPU";
        Err(Error::Unsupported { operation: "tally", expected, found })
    }

    /// The sums since the last call. Waits for the GPU, if anything was added.
    ///
    /// # Errors
    /// If the GPU cannot be asked.
    pub fn take(&mut self) -> Result<TallySums> {
        let Some(sums) = self.sums.take() else { return Ok(TallySums::default()) };
        let sums = sums.to_vec1::<f64>()?;
        Ok(TallySums { images: sums[0] as u64, loss: sums[1], top1: sums[2] as u64, top5: sums[3] as u64 })
    }
}
