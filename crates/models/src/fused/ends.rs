//! The network's two ends: the convolution that takes the images, and the classifier.

use candle_core::{Device, Tensor};
use wrn_sam_kernels::Context;
use wrn_sam_kernels::linear::{self, LinearShape};
use wrn_sam_kernels::pool::{self, PoolShape};

use super::normalization::Normalization;
use super::{Convolution, Images, Layer, Saved, read};
use crate::batch_norm::BatchNorm;
use crate::conv::Conv2d;
use crate::error::Result;
use crate::mode::Mode;

impl Layer for Conv2d {
    fn parameters(&self) -> Vec<&Tensor> {
        vec![&self.weight]
    }

    fn forward(&self, ctx: &Context, x: Images, mode: Mode) -> Result<(Images, Option<Box<dyn Saved>>)> {
        let convolution = Convolution::new(self, &x)?;
        let y = convolution.forward(ctx, &x, None, None)?;
        Ok((y, mode.is_training().then(|| Box::new(SavedStem { x, convolution }) as _)))
    }
}

struct SavedStem {
    x: Images,
    convolution: Convolution,
}

impl Saved for SavedStem {
    fn backward(
        &self,
        ctx: &Context,
        dy: Images,
        needs_input: bool,
    ) -> Result<(Option<Images>, Vec<Tensor>)> {
        let weight = self.convolution.backward_weight(ctx, &self.x, None, &dy)?;
        let dx = if needs_input { Some(self.convolution.backward_input(ctx, &dy, None)?) } else { None };
        Ok((dx, vec![weight]))
    }
}

/// Batch norm, ReLU, the average over all pixels, and the linear classifier.
pub(crate) struct Head<'a> {
    pub(crate) normalization: &'a BatchNorm,
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
}

impl Layer for Head<'_> {
    fn parameters(&self) -> Vec<&Tensor> {
        vec![&self.normalization.weight, &self.normalization.bias, self.weight, self.bias]
    }

    fn forward(&self, ctx: &Context, x: Images, mode: Mode) -> Result<(Images, Option<Box<dyn Saved>>)> {
        let normalization = Normalization::new(ctx, self.normalization, &x, mode)?;
        let Images { batch, height, width, channels, .. } = x;
        let pool = PoolShape { batch, height, width, channels, window: height };
        let linear = LinearShape { batch, inputs: channels, outputs: self.bias.elem_count() };
        let mut pooled = vec![0.0; pool.output_len()];
        pool::forward(ctx, &pool, &x.values, normalization.activation(), &mut pooled)?;
        let mut logits = ctx.buffer(batch * linear.outputs);
        read(self.weight, |w| {
            read(self.bias, |b| linear::forward(ctx, &linear, &pooled, w, b, &mut logits))
        })?;
        let y = Images { values: logits, batch, height: 1, width: 1, channels: linear.outputs };
        let weight = self.weight.clone();
        let saved = SavedHead { x, normalization, pool, pooled, linear, weight };
        Ok((y, mode.is_training().then(|| Box::new(saved) as _)))
    }
}

struct SavedHead {
    x: Images,
    normalization: Normalization,
    pool: PoolShape,
    pooled: Vec<f32>,
    linear: LinearShape,
    weight: Tensor,
}

impl Saved for SavedHead {
    fn backward(
        &self,
        ctx: &Context,
        dy: Images,
        needs_input: bool,
    ) -> Result<(Option<Images>, Vec<Tensor>)> {
        let (pool, linear) = (&self.pool, &self.linear);
        let (mut dw, mut db) = (vec![0.0; linear.inputs * linear.outputs], vec![0.0; linear.outputs]);
        linear::backward_parameters(ctx, linear, &self.pooled, &dy.values, &mut dw, &mut db)?;
        let mut dpooled = vec![0.0; self.pooled.len()];
        read(&self.weight, |w| linear::backward_input(ctx, linear, &dy.values, w, &mut dpooled))?;
        let mut dx = Images { values: ctx.buffer(pool.input_len()), ..self.x };
        pool::backward(ctx, pool, &dpooled, &mut dx.values)?;
        let [gamma, beta] = self.normalization.backward(ctx, &self.x, &mut dx, None)?;
        let dw = Tensor::from_vec(dw, self.weight.shape(), &Device::Cpu)?;
        let db = Tensor::from_vec(db, linear.outputs, &Device::Cpu)?;
        Ok((needs_input.then_some(dx), vec![gamma, beta, dw, db]))
    }
}
