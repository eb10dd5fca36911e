//! What the layers are written against.
//!
//! A layer says once, in [`Layer::apply`], what it does with images, in the operations of a [`Pass`]. The pass decides what
//! becomes of that: a [`Tape`](crate::tape::Tape) computes on a backend and records the backward pass,
//! [`Plain`](crate::plain::Plain) computes with candle's own operations, and a
//! [`Description`](crate::description::Description) only lists the layers.

use candle_core::{DType, Tensor};

use crate::batch_norm::BatchNorm;
use crate::conv2d::Conv2d;
use crate::dropout::Dropout;
use crate::error::{Error, Result};
use crate::linear::Linear;

/// The operations that a network is made of. `'a` is the layers' lifetime.
pub(crate) trait Pass<'a> {
    /// Images on their way. A clone is another handle to the same images.
    type Images: Clone;
    /// One row of numbers for each image.
    type Features;

    /// `convolution(x) + add`, for a convolution without bias.
    fn convolve(
        &mut self,
        convolution: &'a Conv2d,
        x: &Self::Images,
        add: Option<&Self::Images>,
    ) -> Result<Self::Images>;

    /// `dropout(relu(norm(x)))`.
    fn normalize(
        &mut self,
        norm: &'a BatchNorm,
        dropout: Option<&'a Dropout>,
        x: &Self::Images,
    ) -> Result<Self::Images>;

    /// The average over all pixels of each image. `name` is the layer's.
    fn average(&mut self, name: &'a str, x: &Self::Images) -> Result<Self::Features>;

    /// `x weight^T + bias`.
    fn linear(&mut self, linear: &'a Linear, x: Self::Features) -> Result<Self::Features>;
}

/// A layer, a unit or a whole network.
pub(crate) trait Layer {
    /// A parameter. All of them have its dtype and device.
    fn parameter(&self) -> &Tensor;

    /// Whether `x`, which should be `[N, C, H, W]`, fits the first layer.
    fn check_input(&self, x: &Tensor) -> Result<()>;

    /// Runs `x` through the layer.
    fn apply<'a, P: Pass<'a>>(&'a self, pass: &mut P, x: P::Images) -> Result<OutputOf<'a, P>>;
}

/// What comes out of a layer.
pub(crate) enum Output<Images, Features> {
    Images(Images),
    Features(Features),
}

/// What comes out of a layer in a pass of one kind.
pub(crate) type OutputOf<'a, P> = Output<<P as Pass<'a>>::Images, <P as Pass<'a>>::Features>;

/// Images' dimensions on their way: `[N, H, W, C]`.
pub(crate) type Dims = [usize; 4];

/// The dimensions of a tensor `[N, C, H, W]`.
pub(crate) fn dims_of(x: &Tensor) -> Result<Dims> {
    let (batch, channels, height, width) = x.dims4()?;
    Ok([batch, height, width, channels])
}

/// The dimensions as a tensor has them.
pub(crate) fn channels_first([batch, height, width, channels]: Dims) -> [usize; 4] {
    [batch, channels, height, width]
}

/// That `x` is `[N, channels, H, W]` with nothing empty, of the given dtype.
pub(crate) fn check_images(layer: &str, channels: usize, dtype: DType, x: &Tensor) -> Result<()> {
    let (layer, found) = (layer.to_string(), x.dims());
    if found.len() != 4 || found[1] != channels || x.elem_count() == 0 {
        let expected = format!("[N, {channels}, H, W] with nothing empty");
        return Err(Error::InputShape { layer, expected, found: found.to_vec() });
    }
    if x.dtype() != dtype {
        return Err(Error::InputDType { layer, expected: dtype, found: x.dtype() });
    }
    Ok(())
}
