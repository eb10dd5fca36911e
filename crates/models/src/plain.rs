//! The layers in candle's own operations, in any float type on any device: what every faster way is compared with.

use candle_core::Tensor;

use crate::batch_norm::BatchNorm;
use crate::conv2d::Conv2d;
use crate::dropout::{Dropout, Masks};
use crate::error::Result;
use crate::linear::Linear;
use crate::pass::{Layer, Output, Pass};

/// A pass over candle's tensors, whose graph candle differentiates.
pub(crate) struct Plain {
    pub(crate) masks: Masks,
}

impl Plain {
    /// Runs `x` through the layer.
    pub(crate) fn run(mut self, layer: &impl Layer, x: &Tensor) -> Result<Tensor> {
        let (Output::Images(y) | Output::Features(y)) = layer.apply(&mut self, x.clone())?;
        Ok(if self.masks.mode.has_gradients() { y } else { y.detach() })
    }
}

impl<'a> Pass<'a> for Plain {
    type Images = Tensor;
    type Features = Tensor;

    fn convolve(&mut self, convolution: &'a Conv2d, x: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        let y = convolution.forward_plain(x)?;
        Ok(add.map_or(Ok(y.clone()), |add| add + y)?)
    }

    fn normalize(&mut self, norm: &'a BatchNorm, dropout: Option<&'a Dropout>, x: &Tensor) -> Result<Tensor> {
        let y = relu(&norm.forward_plain(x, self.masks.mode)?)?;
        let Some(mask) = self.masks.mask(dropout) else { return Ok(y) };
        let (n, c, h, w) = x.dims4()?;
        let mut values = vec![0.0; x.elem_count()];
        mask.fill(0, &mut values);
        let mask = Tensor::from_vec(values, (n, h, w, c), x.device())?.permute((0, 3, 1, 2))?;
        Ok((y * mask.to_dtype(x.dtype())?)?)
    }

    fn average(&mut self, _: &'a str, x: &Tensor) -> Result<Tensor> {
        Ok(x.flatten_from(2)?.mean(2)?)
    }

    fn linear(&mut self, linear: &'a Linear, x: Tensor) -> Result<Tensor> {
        Ok(x.matmul(&linear.weight.t()?)?.broadcast_add(&linear.bias)?)
    }
}

/// max(0, x) as PyTorch has it: a NaN stays one, and the derivative at 0 is 0, where candle's own `relu` has 1.
pub(crate) fn relu(x: &Tensor) -> candle_core::Result<Tensor> {
    x.detach().le(0f64)?.where_cond(&x.zeros_like()?, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn relu_is_pytorchs_at_zero_and_beyond_all_numbers() {
        let x =
            Var::new(&[-1.5f32, 0.0, 2.5, f32::NEG_INFINITY, f32::INFINITY, f32::NAN], &Device::Cpu).unwrap();
        let y = relu(&x).unwrap();
        let values = y.to_vec1::<f32>().unwrap();
        assert_eq!(values[..5], [0.0, 0.0, 2.5, 0.0, f32::INFINITY]);
        assert!(values[5].is_nan());
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    }
}
