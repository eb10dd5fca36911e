//! The network's two ends: the convolution that takes the images, and the classifier.

use candle_core::Tensor;
use wrn_sam_kernels::backend::{Backend, Input};
use wrn_sam_kernels::linear::LinearShape;
use wrn_sam_kernels::pool::PoolShape;

use super::{BoxedSaved, Convolution, Filters, Gradients, Images, Layer, Saved};
use crate::batch_norm::BatchNorm;
use crate::conv::Conv2d;
use crate::error::Result;
use crate::mode::Mode;

impl<B: Backend> Layer<B> for Conv2d {
    fn parameters(&self) -> Vec<&Tensor> {
        vec![&self.weight]
    }

    fn forward(
        &self,
        backend: &B,
        filters: &mut Filters<B>,
        x: Images<B>,
        mode: Mode,
    ) -> Result<(Images<B>, Option<BoxedSaved<B>>)> {
        let convolution = Convolution::new(self, filters, &x)?;
        let y = convolution.forward(backend, Input::Plain(&x.values), None)?;
        Ok((y, mode.is_training().then(|| Box::new(SavedStem { x, convolution }) as _)))
    }
}

struct SavedStem<B: Backend> {
    x: Images<B>,
    convolution: Convolution<B>,
}

impl<B: Backend> Saved<B> for SavedStem<B> {
    fn backward(&self, backend: &B, dy: Images<B>, needs_input: bool) -> Result<Gradients<B>> {
        let weight = self.convolution.backward_weight(backend, Input::Plain(&self.x.values), &dy)?;
        let dx = if needs_input { Some(self.convolution.backward_input(backend, &dy, None)?) } else { None };
        Ok((dx, vec![weight]))
    }
}

/// Batch norm, ReLU, the average over all pixels, and the linear classifier.
pub(crate) struct Head<'a> {
    pub(crate) normalization: &'a BatchNorm,
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
}

impl Head<'_> {
    /// The parameters, in the order in which [`SavedHead::backward`] gives their gradients.
    pub(super) fn parameters(&self) -> Vec<&Tensor> {
        vec![&self.normalization.weight, &self.normalization.bias, self.weight, self.bias]
    }

    pub(super) fn classes(&self) -> usize {
        self.bias.elem_count()
    }

    /// The logits, and in a training mode what the backward pass needs.
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        x: Images<B>,
        mode: Mode,
    ) -> Result<(B::Features, Option<SavedHead<B>>)> {
        let activated = x.normalize(backend, self.normalization, None, mode)?;
        let Images { batch, height, width, channels, .. } = x;
        let pool = PoolShape { batch, height, width, channels, window: height };
        let linear = LinearShape { batch, inputs: channels, outputs: self.classes() };
        let pooled = backend.pool(&pool, Input::Activated(&x.values, &activated))?;
        let logits = backend.linear(&linear, &pooled, self.weight, self.bias)?;
        let weight = self.weight.clone();
        let saved = SavedHead { x, activated, pool, pooled, linear, weight };
        Ok((logits, mode.is_training().then_some(saved)))
    }
}

pub(super) struct SavedHead<B: Backend> {
    x: Images<B>,
    activated: B::Activated,
    pool: PoolShape,
    pooled: B::Features,
    linear: LinearShape,
    weight: Tensor,
}

impl<B: Backend> SavedHead<B> {
    /// From the logits' gradient: the images' and the parameters'.
    pub(super) fn backward(&self, backend: &B, dy: &B::Features) -> Result<(Images<B>, Vec<B::Gradient>)> {
        let (dpooled, [weight, bias]) =
            backend.backward_linear(&self.linear, &self.pooled, &self.weight, dy)?;
        let mut values = backend.backward_pool(&self.pool, &dpooled)?;
        let [gamma, beta] = backend.backward_normalize(&self.x.values, &self.activated, &mut values, None)?;
        let Images { batch, height, width, channels, .. } = self.x;
        Ok((Images { values, batch, height, width, channels }, vec![gamma, beta, weight, bias]))
    }
}
