use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::init;

/// `x weight^T + bias`, with `weight` [O, I] and `bias` [O].
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) name: String,
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Linear {
    /// All zeros, or what the builder holds.
    pub(crate) fn new(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs), "weight", init::ZERO)?;
        let bias = vb.get_with_hints(outputs, "bias", init::ZERO)?;
        Ok(Self { name: vb.prefix(), weight, bias })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }
}
