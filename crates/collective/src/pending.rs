//! A sum that may still be on its way.

use candle_core::{Device, Shape, Tensor};

use crate::Result;
use crate::ranks::Answer;
use crate::values::Values;

/// Sums over ranks that may still be on their way; [`wait`](Self::wait) gives them.
///
/// Dropping it gives up the sums, not the call: the other ranks get theirs.
#[derive(Debug)]
#[must_use = "the sums come from `wait`"]
pub struct Pending(Inner);

#[derive(Debug)]
enum Inner {
    Ready(Vec<Tensor>),
    Sent { sum: Answer<Values>, shapes: Vec<Shape>, device: Option<Device> },
}

impl Pending {
    /// Sums that are there.
    pub fn ready(tensors: Vec<Tensor>) -> Self {
        Self(Inner::Ready(tensors))
    }

    pub(crate) fn sent(sum: Answer<Values>, shapes: Vec<Shape>, device: Option<Device>) -> Self {
        Self(Inner::Sent { sum, shapes, device })
    }

    /// The sums, in the order of the tensors given, with their shapes and on their device; the same bits on every rank.
    ///
    /// # Errors
    /// [`Error::Failed`](crate::Error::Failed), [`Error::Mismatch`](crate::Error::Mismatch),
    /// [`Error::Silent`](crate::Error::Silent), [`Error::Gone`](crate::Error::Gone).
    pub fn wait(self) -> Result<Vec<Tensor>> {
        match self.0 {
            Inner::Ready(tensors) => Ok(tensors),
            Inner::Sent { sum, shapes, device } => {
                sum.wait()?.unpack(&shapes, &device.unwrap_or(Device::Cpu))
            }
        }
    }
}
