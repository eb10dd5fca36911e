use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::compute::{Compute, Placement};
use crate::description::Description;
use crate::dropout::{Masks, Position};
use crate::error::Result;
use crate::mode::Mode;
use crate::pass::{Layer, dims_of};
use crate::plain::Plain;
use crate::tape::Tape;

/// Runs a layer on candle's tensors: what every module with a `forward` has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runner {
    pub(crate) placement: Placement,
    dropout: Arc<Mutex<Position>>,
    /// See [`Backward::hands_over_variables`](wrn_sam_kernels::autograd::Backward::hands_over_variables).
    pub(crate) hands_over_gradients: bool,
}

impl Runner {
    /// Runs `x`, `[N, C, H, W]`, through the layer by the fastest way there is.
    pub(crate) fn forward(&self, layer: &impl Layer, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.pass(layer, x, mode, self.placement.compute(layer.parameter())?)
    }

    /// Runs `x` through the layer by candle's own operations.
    pub(crate) fn forward_plain(&self, layer: &impl Layer, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.pass(layer, x, mode, &Compute::Plain)
    }

    fn pass(&self, layer: &impl Layer, x: &Tensor, mode: Mode, compute: &Compute) -> Result<Tensor> {
        layer.check_input(x)?;
        // What is wrong with the shapes shows here, before any statistics move.
        let description = Description::new(layer, dims_of(x)?, mode)?;
        let position = *self.position();
        let masks = Masks { mode, position };
        let y = match compute {
            Compute::Cpu(cpu) => Tape::run(cpu, masks, layer, &description, x, self.hands_over_gradients)?,
            #[cfg(feature = "cuda")]
            Compute::Cuda(cuda) => Tape::run(cuda, masks, layer, &description, x, self.hands_over_gradients)?,
            Compute::Plain => Plain { masks }.run(layer, x)?,
        };
        if mode.is_training() {
            self.position().pass = position.pass.wrapping_add(1);
        }
        Ok(y)
    }

    /// The seed of the dropout masks, and the number of the next training pass.
    pub(crate) fn position(&self) -> MutexGuard<'_, Position> {
        self.dropout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
