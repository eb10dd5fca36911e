//! What the hand-written layers of a channels-last residual network ask of a device.
//!
//! A network's layers are written once, against [`Backend`], and each device does with a step what suits it best. The
//! CPU ([`Cpu`](crate::Cpu)) never stores a normalized and activated tensor: the convolution that reads it
//! computes it again while it does. On CUDA the same tensor is written once and read by cuDNN.
//!
//! For a network of another kind, [`conv2d`](conv2d::conv2d) and [`batch_norm_relu`](batch_norm::batch_norm_relu) take and
//! give candle's tensors.
//!
//! A pass over the network begins with [`filters`](Backend::filters) and [`images`](Backend::images), goes through its
//! layers, and its backward pass ends with [`gradients`](Backend::gradients): what concerns all parameters at once can be
//! done at once.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Storage, Tensor};

use crate::Result;
use crate::batch_norm::{self, BatchNormState, BatchStatistics};
use crate::conv2d::{self, Conv2dShape};
use crate::dropout::Mask;
use crate::linear::LinearShape;
use crate::pool::{MaxPoolShape, PoolShape};

/// What a convolution or pool reads: images as they are, or as a batch norm and ReLU (and dropout) made of them.
pub enum Input<'a, B: Backend> {
    /// As they are.
    Plain(&'a B::Images),
    /// Activated. Both were given to, and came from, [`Backend::normalize`].
    Activated(&'a B::Images, &'a B::Activated),
}

impl<B: Backend> Clone for Input<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Input<'_, B> {}

/// A device that runs a channels-last residual network.
///
/// Every operation checks that its operands fit the shape it is given. The crate's own devices only are backends.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where an operand does not fit, [`Error::Unsupported`](crate::Error::Unsupported)
/// for tensors that are not `f32` on this device, [`Error::Device`](crate::Error::Device) where the device fails.
pub trait Backend: Clone + Send + Sync + sealed::Sealed + 'static {
    /// Images `[N, H, W, C]` on their way through the network, or their gradient.
    type Images: Send + Sync;
    /// One row of numbers for each image `[N, I]`, or their gradient.
    type Features: Send + Sync;
    /// A convolution's weight, as the products of one pass take it.
    type Filter: Send + Sync;
    /// A batch norm and ReLU of given images: the activated images, or how to compute them, and what the backward pass
    /// needs.
    type Activated: Send + Sync;
    /// A parameter's gradient on its way to a tensor.
    type Gradient: Send;

    /// Reads images `[N, C, H, W]` of any strides.
    fn images(&self, x: &Tensor) -> Result<Self::Images>;
    /// Reads rows `[N, I]`.
    fn features(&self, x: &Tensor) -> Result<Self::Features>;
    /// Prepares all convolutions' weights, each `[O, I, kernel, kernel]`, for a pass.
    fn filters(&self, weights: &[&Tensor]) -> Result<Vec<Self::Filter>>;

    /// Images as a tensor's storage of `f32` in the order `[N, H, W, C]`, which are their dimensions.
    fn store_images(&self, x: &Self::Images, dims: [usize; 4]) -> Result<Storage>;
    /// Rows as a tensor's storage of `f32`.
    fn store_features(&self, x: &Self::Features) -> Result<Storage>;
    /// All parameters' gradients as tensors of their parameters' shapes.
    fn gradients(&self, gradients: Vec<Self::Gradient>) -> Result<Vec<Tensor>>;

    /// `relu(norm(x))`, dropped out by `mask` where there is one, for `x` of `rows` pixels.
    fn normalize(
        &self,
        x: &Self::Images,
        rows: usize,
        norm: &BatchNormState,
        statistics: BatchStatistics,
        mask: Option<Mask>,
    ) -> Result<Self::Activated>;
    /// What [`normalize`](Self::normalize) made of `x`, as images.
    fn activated(&self, x: &Self::Images, activated: &Self::Activated) -> Result<Self::Images>;
    /// Turns the gradient of what [`normalize`](Self::normalize) made from `x` into that of `x`, plus `add`; and gives the
    /// gradients of weight and bias.
    fn backward_normalize(
        &self,
        x: &Self::Images,
        activated: &Self::Activated,
        grad: &mut Self::Images,
        add: Option<&Self::Images>,
    ) -> Result<[Self::Gradient; 2]>;

    /// `sum += x`, for images of one shape.
    fn accumulate(&self, sum: &mut Self::Images, x: &Self::Images) -> Result<()>;

    /// `conv(x) + add`.
    fn convolve(
        &self,
        shape: &Conv2dShape,
        x: Input<Self>,
        filter: &Self::Filter,
        add: Option<&Self::Images>,
    ) -> Result<Self::Images>;
    /// The gradient of a convolution's input, plus `add`.
    fn backward_input(
        &self,
        shape: &Conv2dShape,
        dy: &Self::Images,
        filter: &Self::Filter,
        add: Option<&Self::Images>,
    ) -> Result<Self::Images>;
    /// The gradient of a convolution's weight.
    fn backward_weight(
        &self,
        shape: &Conv2dShape,
        x: Input<Self>,
        dy: &Self::Images,
    ) -> Result<Self::Gradient>;

    /// The average over each window; the windows of an image, in order, make its row.
    fn pool(&self, shape: &PoolShape, x: Input<Self>) -> Result<Self::Features>;
    /// The gradient of a pool's input.
    fn backward_pool(&self, shape: &PoolShape, dy: &Self::Features) -> Result<Self::Images>;

    /// `x w^T + b`, with `w` `[O, I]` and `b` `[O]`.
    fn linear(
        &self,
        shape: &LinearShape,
        x: &Self::Features,
        w: &Tensor,
        b: &Tensor,
    ) -> Result<Self::Features>;
    /// The gradients of a linear layer's input, and of its weight and bias.
    fn backward_linear(
        &self,
        shape: &LinearShape,
        x: &Self::Features,
        w: &Tensor,
        dy: &Self::Features,
    ) -> Result<(Self::Features, [Self::Gradient; 2])>;

    /// The operation behind [`conv2d`](conv2d::conv2d).
    ///
    /// # Errors
    /// As there.
    #[doc(hidden)]
    fn conv2d(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, shape: &Conv2dShape) -> Result<Tensor> {
        conv2d::tensors::by_products(self, x, w, bias, shape)
    }

    /// The operation behind [`batch_norm_relu`](batch_norm::batch_norm_relu) and
    /// [`batch_norm`](batch_norm::batch_norm).
    ///
    /// # Errors
    /// As there.
    #[doc(hidden)]
    fn batch_norm(
        &self,
        x: &Tensor,
        norm: &BatchNormState,
        statistics: BatchStatistics,
        relu: bool,
    ) -> Result<Tensor> {
        if relu {
            return batch_norm::tensors::by_passes(self, x, norm, statistics);
        }
        let found = format!("{:?}", x.device().location());
        let (operation, expected) = ("batch_norm without a ReLU", "tensors on the CPU");
        Err(crate::Error::Unsupported { operation, expected, found })
    }

    /// The operations of [`elementwise`](crate::elementwise): the sum of one or two tensors, and its ReLU.
    #[doc(hidden)]
    fn elementwise(&self, a: &Tensor, b: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        let sum = b.map_or(Ok(a.clone()), |b| a.add(b))?;
        // Not candle's ReLU, which makes a NaN 0.
        Ok(if relu { sum.lt(0f32)?.where_cond(&sum.zeros_like()?, &sum)? } else { sum })
    }

    /// The operation behind [`avg_pool2d`](crate::pool::avg_pool2d).
    #[doc(hidden)]
    fn avg_pool2d(&self, x: &Tensor, shape: &PoolShape) -> Result<Tensor> {
        Ok(x.avg_pool2d(shape.window)?)
    }

    /// The operation behind [`global_avg_pool2d`](crate::pool::global_avg_pool2d).
    #[doc(hidden)]
    fn global_avg_pool2d(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.mean((2, 3))?)
    }

    /// The operation behind [`max_pool2d`](crate::pool::max_pool2d).
    #[doc(hidden)]
    fn max_pool2d(&self, x: &Tensor, _: &MaxPoolShape) -> Result<Tensor> {
        // The gradient of candle's is that of an average: divided by the window's pixels.
        let (operation, expected) = ("max_pool2d", "tensors on the CPU");
        let found = format!("{:?}", x.device().location());
        Err(crate::Error::Unsupported { operation, expected, found })
    }
}

/// Keeps [`Backend`] to this crate's devices, so that it can gain operations.
mod sealed {
    pub trait Sealed {}

    impl Sealed for crate::Cpu {}
    #[cfg(feature = "cuda")]
    impl Sealed for crate::cuda::Cuda {}
}
