use candle_core::Tensor;
use wrn_sam_kernels::Context;

use super::basic_unit::Tail;
use super::normalization::Normalization;
use super::{Convolution, Images, Layer, Saved};
use crate::downsample_unit::DownsampleUnit;
use crate::error::Result;
use crate::mode::Mode;

impl Layer for DownsampleUnit {
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

    fn forward(&self, ctx: &Context, x: Images, mode: Mode) -> Result<(Images, Option<Box<dyn Saved>>)> {
        let normalization = Normalization::new(ctx, &self.input_normalization, &x, mode)?;
        let convolution = Convolution::new(&self.first_convolution, &x)?;
        let projection = Convolution::new(&self.projection, &x)?;
        let hidden = convolution.forward(ctx, &x, normalization.activation(), None)?;
        let projected = projection.forward(ctx, &x, normalization.activation(), None)?;
        let tail = (
            Normalization::new(ctx, &self.second_normalization, &hidden, mode)?,
            self.dropout.next_mask(mode),
            Convolution::new(&self.second_convolution, &hidden)?,
        );
        let (y, tail) = Tail::forward(ctx, tail, hidden, &projected)?;
        let saved = SavedUnit { x, normalization, convolution, projection, tail };
        Ok((y, mode.is_training().then(|| Box::new(saved) as _)))
    }
}

struct SavedUnit {
    x: Images,
    normalization: Normalization,
    convolution: Convolution,
    projection: Convolution,
    tail: Tail,
}

impl Saved for SavedUnit {
    fn backward(
        &self,
        ctx: &Context,
        dy: Images,
        needs_input: bool,
    ) -> Result<(Option<Images>, Vec<Tensor>)> {
        let (grad, tail) = self.tail.backward(ctx, &dy)?;
        let activation = self.normalization.activation();
        let projection = self.projection.backward_weight(ctx, &self.x, activation, &dy)?;
        let convolution = self.convolution.backward_weight(ctx, &self.x, activation, &grad)?;
        let through_projection = self.projection.backward_input(ctx, &dy, None)?;
        drop(dy);
        let mut dx = self.convolution.backward_input(ctx, &grad, Some(&through_projection))?;
        let [weight, bias] = self.normalization.backward(ctx, &self.x, &mut dx, None)?;
        let gradients = [weight, bias, projection, convolution].into_iter().chain(tail).collect();
        Ok((needs_input.then_some(dx), gradients))
    }
}
