use candle_core::Tensor;
use wrn_sam_kernels::Context;

use super::normalization::Normalization;
use super::{Convolution, Images, Layer, Saved};
use crate::basic_unit::BasicUnit;
use crate::dropout::Mask;
use crate::error::Result;
use crate::mode::Mode;

/// The tail that both kinds of unit share: `conv(dropout(relu(norm(x)))) + residual`.
pub(super) struct Tail {
    x: Images,
    normalization: Normalization,
    convolution: Convolution,
    /// The mask, and the activated and masked images it made.
    dropped: Option<(Mask, Images)>,
}

impl Tail {
    pub(super) fn forward(
        ctx: &Context,
        (normalization, mask, convolution): (Normalization, Option<Mask>, Convolution),
        x: Images,
        residual: &Images,
    ) -> Result<(Images, Self)> {
        let dropped = match mask {
            Some(mask) => {
                let mut activated = normalization.apply(ctx, &x)?;
                mask.apply(ctx, &mut activated.values);
                Some((mask, activated))
            }
            None => None,
        };
        let y = match &dropped {
            Some((_, activated)) => convolution.forward(ctx, activated, None, Some(residual))?,
            None => convolution.forward(ctx, &x, normalization.activation(), Some(residual))?,
        };
        Ok((y, Self { x, normalization, convolution, dropped }))
    }

    /// The gradient of `x`, and those of the norm's weight and bias and of the convolution.
    pub(super) fn backward(&self, ctx: &Context, dy: &Images) -> Result<(Images, [Tensor; 3])> {
        let (input, activation) = match &self.dropped {
            Some((_, activated)) => (activated, None),
            None => (&self.x, self.normalization.activation()),
        };
        let convolution = self.convolution.backward_weight(ctx, input, activation, dy)?;
        let mut grad = self.convolution.backward_input(ctx, dy, None)?;
        if let Some((mask, _)) = &self.dropped {
            mask.apply(ctx, &mut grad.values);
        }
        let [weight, bias] = self.normalization.backward(ctx, &self.x, &mut grad, None)?;
        Ok((grad, [weight, bias, convolution]))
    }
}

impl Layer for BasicUnit {
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

    fn forward(&self, ctx: &Context, x: Images, mode: Mode) -> Result<(Images, Option<Box<dyn Saved>>)> {
        let normalization = Normalization::new(ctx, &self.first_normalization, &x, mode)?;
        let convolution = Convolution::new(&self.first_convolution, &x)?;
        let hidden = convolution.forward(ctx, &x, normalization.activation(), None)?;
        let tail = (
            Normalization::new(ctx, &self.second_normalization, &hidden, mode)?,
            self.dropout.next_mask(mode),
            Convolution::new(&self.second_convolution, &hidden)?,
        );
        let (y, tail) = Tail::forward(ctx, tail, hidden, &x)?;
        let saved =
            mode.is_training().then(|| Box::new(SavedUnit { x, normalization, convolution, tail }) as _);
        Ok((y, saved))
    }
}

struct SavedUnit {
    x: Images,
    normalization: Normalization,
    convolution: Convolution,
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
        let convolution = self.convolution.backward_weight(ctx, &self.x, activation, &grad)?;
        let mut dx = self.convolution.backward_input(ctx, &grad, None)?;
        let [weight, bias] = self.normalization.backward(ctx, &self.x, &mut dx, Some(&dy))?;
        let gradients = [weight, bias, convolution].into_iter().chain(tail).collect();
        Ok((needs_input.then_some(dx), gradients))
    }
}
