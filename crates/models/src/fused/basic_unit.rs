use candle_core::Tensor;
use wrn_sam_kernels::backend::{Backend, Input};

use super::{BoxedSaved, Convolution, Filters, Gradients, Images, Layer, Saved};
use crate::basic_unit::BasicUnit;
use crate::batch_norm::BatchNorm;
use crate::conv::Conv2d;
use crate::dropout::Dropout;
use crate::error::Result;
use crate::mode::Mode;

/// The end that both kinds of unit share: `conv(dropout(relu(norm(x)))) + residual`.
pub(super) struct Tail<B: Backend> {
    x: Images<B>,
    activated: B::Activated,
    convolution: Convolution<B>,
}

impl<B: Backend> Tail<B> {
    pub(super) fn forward(
        backend: &B,
        filters: &mut Filters<B>,
        x: Images<B>,
        (normalization, dropout, convolution): (&BatchNorm, &Dropout, &Conv2d),
        residual: &Images<B>,
        mode: Mode,
    ) -> Result<(Images<B>, Self)> {
        let activated = x.normalize(backend, normalization, dropout.next_mask(mode), mode)?;
        let convolution = Convolution::new(convolution, filters, &x)?;
        let y = convolution.forward(backend, Input::Activated(&x.values, &activated), Some(residual))?;
        Ok((y, Self { x, activated, convolution }))
    }

    /// The gradient of `x`, and those of the norm's weight and bias and of the convolution.
    pub(super) fn backward(&self, backend: &B, dy: &Images<B>) -> Result<(Images<B>, [B::Gradient; 3])> {
        let input = Input::Activated(&self.x.values, &self.activated);
        let convolution = self.convolution.backward_weight(backend, input, dy)?;
        let mut grad = self.convolution.backward_input(backend, dy, None)?;
        let [weight, bias] =
            backend.backward_normalize(&self.x.values, &self.activated, &mut grad.values, None)?;
        Ok((grad, [weight, bias, convolution]))
    }
}

impl<B: Backend> Layer<B> for BasicUnit {
    fn parameters(&self) -> Vec<&Tensor> {
        let (first, second) = (&self.first_normalization, &self.second_normalization);
        vec![
            &first.weight,
            &first.bias,
            &self.first_convolution.weight,
            &second.weight,
            &second.bias,
            &self.second_convolution.weight,
        ]
    }

    fn forward(
        &self,
        backend: &B,
        filters: &mut Filters<B>,
        x: Images<B>,
        mode: Mode,
    ) -> Result<(Images<B>, Option<BoxedSaved<B>>)> {
        let activated = x.normalize(backend, &self.first_normalization, None, mode)?;
        let convolution = Convolution::new(&self.first_convolution, filters, &x)?;
        let hidden = convolution.forward(backend, Input::Activated(&x.values, &activated), None)?;
        let layers = (&self.second_normalization, &self.dropout, &self.second_convolution);
        let (y, tail) = Tail::forward(backend, filters, hidden, layers, &x, mode)?;
        let saved = SavedUnit { x, activated, convolution, tail };
        Ok((y, mode.is_training().then(|| Box::new(saved) as _)))
    }
}

struct SavedUnit<B: Backend> {
    x: Images<B>,
    activated: B::Activated,
    convolution: Convolution<B>,
    tail: Tail<B>,
}

impl<B: Backend> Saved<B> for SavedUnit<B> {
    fn backward(&self, backend: &B, dy: Images<B>, needs_input: bool) -> Result<Gradients<B>> {
        let (grad, tail) = self.tail.backward(backend, &dy)?;
        let input = Input::Activated(&self.x.values, &self.activated);
        let convolution = self.convolution.backward_weight(backend, input, &grad)?;
        let mut dx = self.convolution.backward_input(backend, &grad, None)?;
        let [weight, bias] =
            backend.backward_normalize(&self.x.values, &self.activated, &mut dx.values, Some(&dy.values))?;
        let gradients = [weight, bias, convolution].into_iter().chain(tail).collect();
        Ok((needs_input.then_some(dx), gradients))
    }
}
