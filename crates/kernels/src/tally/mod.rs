//! Counting right answers and summing losses where they are, until somebody asks.

#[cfg(any(feature = "cuda", all(test, unix)))]
mod arguments;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(all(test, unix))]
mod on_host;

use candle_core::Tensor;

use crate::Result;

/// Sums over images that are kept on an NVIDIA GPU until [`take`](Self::take) asks for them.
#[derive(Debug, Default)]
pub struct DeviceTally {
    /// `[4]` in `f64` on the GPU: images, their losses, those whose label was the likeliest class, and those whose label
    /// was among the five likeliest.
    sums: Option<Tensor>,
}

/// What a [`DeviceTally`] held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
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
    /// Adds a batch, without waiting for the GPU: `loss` `[N]` and `logits` `[N, K]` in `f32` and `labels` `[N]` in `u32`,
    /// all on one NVIDIA GPU. False, with nothing added, for other tensors or without the feature `cuda`.
    ///
    /// Of equal logits the lower class counts as the likelier one; NaN counts as likelier than the label; a label outside
    /// of `0..K` is never right.
    ///
    /// # Errors
    /// Shapes that do not fit; a launch that fails.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &Tensor) -> Result<bool> {
        #[cfg(feature = "cuda")]
        if cuda::serves(loss, logits, labels) {
            cuda::add(&mut self.sums, loss, logits, labels)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The sums since the last call. Waits for the GPU, if anything was added.
    ///
    /// # Errors
    /// If the GPU cannot be asked.
    pub fn take(&mut self) -> Result<Sums> {
        let Some(sums) = self.sums.take() else { return Ok(Sums::default()) };
        let sums = sums.to_vec1::<f64>()?;
        Ok(Sums { images: sums[0] as u64, loss: sums[1], top1: sums[2] as u64, top5: sums[3] as u64 })
    }
}
