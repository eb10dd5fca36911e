//! Whether a gradient was not finite, kept on the GPU until somebody asks.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use crate::Result;

/// Whether a gradient that was not finite has been met on a GPU (PyTorch's `found_inf`).
///
/// A GPU is not waited for to look at a norm. [`ascent`](super::ascent) notes there that a sum was not finite, and from
/// then on no pass that knows of this note moves anything: [`perturb_all`](super::perturb_all) leaves the weights where
/// they are, [`sgd_all`](super::sgd_all) and [`adamw_all`](super::adamw_all) within [`guard`](Self::guard) do nothing.
/// Whoever asks [`take`](Self::take), now and then, finds the weights as they were before the bad gradient.
#[derive(Debug, Default)]
pub struct FoundInf {
    /// On the gradients' device, `f64`: 1 once one was found, the sum that was not finite, and the step. None until there is a
    /// GPU.
    note: Mutex<Option<Tensor>>,
    /// The step under way.
    step: AtomicU64,
}

thread_local! {
    /// The note that the steps taken on this thread heed.
    static GUARDING: RefCell<Option<Tensor>> = const { RefCell::new(None) };
}

impl FoundInf {
    /// From now on, what is found is of this step.
    pub fn begin(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// Runs `step`, whose passes on a GPU do nothing where this note says that a gradient was not finite.
    pub fn guard<T>(&self, step: impl FnOnce() -> T) -> T {
        /// Puts an outer guard's note back, also on the way out of a panic.
        struct Outer(Option<Tensor>);
        impl Drop for Outer {
            fn drop(&mut self) {
                GUARDING.set(self.0.take());
            }
        }
        let note = self.note.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _outer = Outer(GUARDING.replace(note));
        step()
    }

    /// The sum over the first gradients that were not finite, infinite or NaN, and the step they were of; `None` if all were
    /// finite. What was noted is forgotten. Waits for the GPU, if there is one.
    ///
    /// # Errors
    /// If the GPU cannot be asked.
    pub fn take(&self) -> Result<Option<(f64, u64)>> {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(values) = note.as_ref().map(Tensor::to_vec1::<f64>).transpose()? else { return Ok(None) };
        if values[0] == 0.0 {
            return Ok(None);
        }
        *note = None;
        Ok(Some((values[1], values[2] as u64)))
    }

    /// The note on `device`, made if need be.
    #[cfg(feature = "cuda")]
    pub(super) fn on(&self, device: &candle_core::Device) -> candle_core::Result<Tensor> {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        match &*note {
            Some(found) if found.device().same_device(device) => Ok(found.clone()),
            _ => {
                let fresh = Tensor::zeros(3, candle_core::DType::F64, device)?;
                Ok(note.insert(fresh).clone())
            }
        }
    }

    /// The step under way, as a kernel takes it.
    #[cfg(feature = "cuda")]
    pub(super) fn step(&self) -> f64 {
        self.step.load(Ordering::Relaxed) as f64
    }

    /// The note that the step under way heeds.
    #[cfg(feature = "cuda")]
    pub(super) fn guarding() -> Option<Tensor> {
        GUARDING.with_borrow(Clone::clone)
    }
}
