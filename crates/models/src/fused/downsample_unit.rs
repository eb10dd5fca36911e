use candle_core::Tensor;
use wrn_sam_kernels::backend::{Backend, Input};

use super::basic_unit::Tail;
use super::{BoxedSaved, Convolution, Filters, Gradients, Images, Layer, Saved};
use crate::downsample_unit::DownsampleUnit;
use crate::error::Result;
use crate::mode::Mode;

impl<B: Backend> Layer<B> for DownsampleUnit {
    fn parameters(&self) -> Vec<&Tensor> {
        let (first, second) = (&self.input_normalization, &self.second_normalization);
        vec![
            &first.weight,
            &first.bias,
            &self.projection.weight,
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
        let activated = x.normalize(backend, &self.input_normalization, None, mode)?;
        let projection = Convolution::new(&self.projection, filters, &x)?;
        let convolution = Convolution::new(&self.first_convolution, filters, &x)?;
        let input = Input::Activated(&x.values, &activated);
        let hidden = convolution.forward(backend, input, None)?;
        let projected = projection.forward(backend, input, None)?;
        let layers = (&self.second_normalization, &self.dropout, &self.second_convolution);
        let (y, tail) = Tail::forward(backend, filters, hidden, layers, &projected, mode)?;
        let saved = SavedUnit { x, activated, convolution, projection, tail };
        Ok((y, mode.is_training().then(|| Box::new(saved) as _)))
    }
}

struct SavedUnit<B: Backend> {
    x: Images<B>,
    activated: B::Activated,
    convolution: Convolution<B>,
    projection: Convolution<B>,
    tail: Tail<B>,
}

impl<B: Backend> Saved<B> for SavedUnit<B> {
    fn backward(&self, backend: &B, dy: Images<B>, needs_input: bool) -> Result<Gradients<B>> {
        let (grad, tail) = self.tail.backward(backend, &dy)?;
        let input = Input::Activated(&self.x.values, &self.activated);
        let projection = self.projection.backward_weight(backend, input, &dy)?;
        let convolution = self.convolution.backward_weight(backend, input, &grad)?;
        let through_projection = self.projection.backward_input(backend, &dy, None)?;
        drop(dy);
        let mut dx = self.convolution.backward_input(backend, &grad, Some(&through_projection))?;
        let [weight, bias] =
            backend.backward_normalize(&self.x.values, &self.activated, &mut dx.values, None)?;
        let gradients = [weight, bias, projection, convolution].into_iter().chain(tail).collect();
        Ok((needs_input.then_some(dx), gradients))
    }
}
