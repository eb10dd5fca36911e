//! Batch normalisation and ReLU, as the operation after them applies it.

use candle_core::{Device, Tensor};
use wrn_sam_kernels::Context;
use wrn_sam_kernels::batch_norm::{self, Forward, Statistics};
use wrn_sam_kernels::conv2d::Activation;

use super::{Images, read};
use crate::batch_norm::{BatchNorm, EPSILON};
use crate::error::Result;
use crate::mode::Mode;

/// A batch norm and ReLU over given images: `max(0, x * scale + shift)`.
pub(super) struct Normalization {
    scale: Vec<f32>,
    shift: Vec<f32>,
    saved: batch_norm::Saved,
}

impl Normalization {
    /// Takes the statistics of `x`, or in [`Mode::Eval`] the running ones, and moves the running ones as the mode
    /// says.
    pub(super) fn new(ctx: &Context, norm: &BatchNorm, x: &Images, mode: Mode) -> Result<Self> {
        let channels = x.channels;
        let (mut mean, mut var) = (vec![0.0; channels], vec![0.0; channels]);
        if mode.is_training() {
            norm.check_count(&[x.batch, channels, x.height, x.width], mode)?;
            batch_norm::statistics(ctx, &x.values, &mut mean, &mut var)?;
            let tensor = |values: &[f32]| Tensor::from_slice(values, channels, &Device::Cpu);
            norm.track(&tensor(&mean)?, &tensor(&var)?, x.values.len() / channels, mode)?;
        } else {
            super::copy(&norm.running_mean, &mut mean)?;
            super::copy(&norm.running_var, &mut var)?;
        }
        let (scale, shift) = read(&norm.weight, |gamma| {
            read(&norm.bias, |beta| {
                Ok::<_, crate::Error>(batch_norm::scale_shift(gamma, beta, &mean, &var, EPSILON))
            })
        })?;
        Ok(Self { scale, shift, saved: batch_norm::Saved::new(&mean, &var, EPSILON) })
    }

    pub(super) fn activation(&self) -> Option<Activation<'_>> {
        Some(Activation { scale: &self.scale, shift: &self.shift })
    }

    /// The activated images, where they are needed in memory.
    pub(super) fn apply(&self, ctx: &Context, x: &Images) -> Result<Images> {
        let mut values = ctx.buffer(x.values.len());
        let activation = Activation { scale: &self.scale, shift: &self.shift };
        batch_norm::apply(ctx, &x.values, activation, &mut values)?;
        Ok(Images { values, ..*x })
    }

    /// Turns the gradient of the activated images into that of `x`, plus `add`; and the gradients of weight and bias.
    pub(super) fn backward(
        &self,
        ctx: &Context,
        x: &Images,
        grad: &mut Images,
        add: Option<&Images>,
    ) -> Result<[Tensor; 2]> {
        let (mut dgamma, mut dbeta) = (vec![0.0; x.channels], vec![0.0; x.channels]);
        let forward = Forward {
            x: &x.values,
            activation: Activation { scale: &self.scale, shift: &self.shift },
            saved: &self.saved,
            statistics: Statistics::Batch,
        };
        let add = add.map(|images| &*images.values);
        batch_norm::backward(ctx, forward, &mut grad.values, add, &mut dgamma, &mut dbeta)?;
        let tensor = |values| Tensor::from_vec(values, x.channels, &Device::Cpu);
        Ok([tensor(dgamma)?, tensor(dbeta)?])
    }
}
