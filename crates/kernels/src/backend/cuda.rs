//! A GPU: channels-last images in the activations' type, batch norms written once for cuDNN to read.

use std::sync::Arc;

use candle_core::cuda_backend::CudaStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtrMut};
use candle_core::{Storage, Tensor};

use super::{Backend, Input};
use crate::autograd;
use crate::batch_norm::cuda::{self as batch_norm, Activated};
use crate::batch_norm::{BatchNormState, BatchStatistics};
use crate::conv2d::Conv2dShape;
use crate::conv2d::cuda::{ConvolutionProduct, Operands};
use crate::cuda::{Block, Cuda, Images};
use crate::cuda_args::pitch;
use crate::dropout::Mask;
use crate::layout::cuda as layout;
use crate::layout::cuda_args::Parameter;
use crate::linear::{self, LinearShape};
use crate::pool::{self, PoolShape};
use crate::{Error, Result};

/// Parameters begin at multiples of so many elements, so that every access to them may be a wide one.
const ALIGNMENT: usize = 64;

/// Rows of `f32` for each image.
pub struct Features {
    block: Arc<Block>,
    len: usize,
}

impl Features {
    fn check(&self, what: &'static str, expected: usize) -> Result<()> {
        crate::conv2d::check_len(what, expected, self.len)
    }
}

/// A convolution's weight `[O, kernel, kernel, I]` in the activations' type, both channels padded; all of a pass's lie in
/// one block.
pub struct Filter {
    /// Held, so that the address stays this filter's.
    _block: Arc<Block>,
    address: u64,
    dims: [usize; 4],
}

/// A parameter's gradient.
pub struct Gradient {
    block: Arc<Block>,
    /// Elements before it in the block.
    skipped: usize,
    dims: Vec<usize>,
    /// Whether it is a padded filter in the activations' type; else it is as its tensor will be.
    filter: bool,
}

/// The shape that cuDNN sees.
fn padded(shape: &Conv2dShape) -> Conv2dShape {
    let (in_channels, out_channels) = (pitch(shape.in_channels), pitch(shape.out_channels));
    Conv2dShape { in_channels, out_channels, ..*shape }
}

fn pixels(shape: &Conv2dShape) -> [usize; 2] {
    [shape.batch * shape.height * shape.width, shape.batch * shape.out_height() * shape.out_width()]
}

impl Filter {
    fn check(&self, shape: &Conv2dShape) -> Result<()> {
        let expected = shape.weight_dims();
        if self.dims == expected {
            return Ok(());
        }
        let (expected, found) = (format!("{expected:?}"), format!("{:?}", self.dims));
        Err(Error::Shape { what: "w", expected, found })
    }
}

impl<'a> Input<'a, Cuda> {
    fn images(self) -> &'a Images {
        match self {
            Self::Plain(x) => x,
            Self::Activated(_, activated) => &activated.images,
        }
    }
}

impl Cuda {
    /// Runs one of a convolution's products.
    fn product(
        &self,
        product: ConvolutionProduct,
        shape: &Conv2dShape,
        x: u64,
        w: u64,
        y: u64,
    ) -> Result<()> {
        if shape.groups != 1 {
            let (operation, expected) = ("a convolution on a GPU", "one group of channels");
            return Err(Error::Unsupported {
                operation,
                expected,
                found: format!("{} groups", shape.groups),
            });
        }
        // SAFETY: the callers have checked their operands against the shape; all have padded channels and begin at
        // multiples of 16 bytes.
        self.convolutions(|plans| unsafe { plans.run(product, &padded(shape), Operands { x, w, y }) })
    }

    /// A new allocation of candle's.
    fn storage(&self, len: usize) -> Result<(CudaSlice<f32>, u64)> {
        // SAFETY: the callers write all of it.
        let mut slice = unsafe { self.device().alloc::<f32>(len.max(1)) }?;
        let address = {
            let stream = self.device().cuda_stream();
            let (address, _synchronized) = slice.device_ptr_mut(&stream);
            address
        };
        Ok((slice, address))
    }
}

impl Backend for Cuda {
    type Images = Images;
    type Features = Features;
    type Filter = Filter;
    type Activated = Activated;
    type Gradient = Gradient;

    fn images(&self, x: &Tensor) -> Result<Images> {
        layout::images(self, x)
    }

    fn features(&self, x: &Tensor) -> Result<Features> {
        let x = x.contiguous()?;
        let (len, from) = (x.elem_count(), self.address("features", &x)?);
        let block = self.block("features", len, size_of::<f32>())?;
        let to = block.address();
        // SAFETY: vectors of `len` floats.
        unsafe { layout::gradients(self, &[Parameter { from, to, ..layout::vector(len) }]) }?;
        Ok(Features { block, len })
    }

    fn filters(&self, weights: &[&Tensor]) -> Result<Vec<Filter>> {
        let mut parameters = Vec::with_capacity(weights.len());
        let mut len = 0;
        for weight in weights {
            let (outputs, inputs, kernel, width) = weight.dims4()?;
            let from = self.address("a convolution's weight", weight)?;
            parameters.push((Parameter { from, ..layout::filter([outputs, inputs, kernel, width]) }, len));
            len = (len + pitch(outputs) * kernel * width * pitch(inputs)).next_multiple_of(ALIGNMENT);
        }
        let block = self.block("the convolutions' weights", len, self.element())?;
        let at = |offset: usize| block.address() + (offset * self.element()) as u64;
        let placed: Vec<_> = parameters
            .iter()
            .map(|(parameter, offset)| Parameter { to: at(*offset), ..*parameter })
            .collect();
        // SAFETY: every weight is a contiguous tensor of its dimensions, and the block has room for each in turn.
        unsafe { layout::filters(self, &placed) }?;
        let filters = weights.iter().zip(&placed).map(|(weight, parameter)| {
            let (outputs, inputs, kernel, width) = weight.dims4()?;
            Ok(Filter {
                _block: block.clone(),
                address: parameter.to,
                dims: [outputs, inputs, kernel, width],
            })
        });
        filters.collect()
    }

    fn store_images(&self, x: &Images, dims: [usize; 4]) -> Result<Storage> {
        let [batch, height, width, channels] = dims;
        x.check("images", batch * height * width, channels)?;
        let (slice, to) = self.storage(x.pixels * channels)?;
        // SAFETY: a new allocation of as many floats.
        unsafe { layout::pixels(self, x, to) }?;
        Ok(Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.device().clone())))
    }

    fn store_features(&self, x: &Features) -> Result<Storage> {
        let (slice, to) = self.storage(x.len)?;
        // SAFETY: vectors of `len` floats.
        unsafe {
            layout::gradients(self, &[Parameter { from: x.block.address(), to, ..layout::vector(x.len) }])
        }?;
        Ok(Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.device().clone())))
    }

    /// All gradients are written by one kernel, into views of one tensor.
    fn gradients(&self, gradients: Vec<Gradient>) -> Result<Vec<Tensor>> {
        let mut starts = Vec::with_capacity(gradients.len());
        let mut len = 0;
        for gradient in &gradients {
            starts.push(len);
            len += gradient.dims.iter().product::<usize>().next_multiple_of(ALIGNMENT);
        }
        let (slice, base) = self.storage(len)?;
        let parameter = |(gradient, &start): (&Gradient, &usize)| {
            let to = base + (start * size_of::<f32>()) as u64;
            match (gradient.filter, &gradient.dims[..]) {
                (true, &[outputs, inputs, kernel, width]) => Parameter {
                    from: gradient.block.address(),
                    to,
                    ..layout::filter([outputs, inputs, kernel, width])
                },
                _ => {
                    let from = gradient.block.address() + (gradient.skipped * size_of::<f32>()) as u64;
                    Parameter { from, to, ..layout::vector(gradient.dims.iter().product()) }
                }
            }
        };
        let parameters: Vec<_> = gradients.iter().zip(&starts).map(parameter).collect();
        // SAFETY: each gradient is as long as its dimensions say, and so is its part of the new allocation.
        unsafe { layout::gradients(self, &parameters) }?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.device().clone()));
        let all = autograd::constant(storage, len.max(1))?;
        let view = |(gradient, &start): (&Gradient, &usize)| {
            let elements = gradient.dims.iter().product::<usize>();
            Ok(all.narrow(0, start, elements)?.reshape(gradient.dims.clone())?)
        };
        gradients.iter().zip(&starts).map(view).collect()
    }

    fn normalize(
        &self,
        x: &Images,
        rows: usize,
        norm: &BatchNormState,
        statistics: BatchStatistics,
        mask: Option<Mask>,
    ) -> Result<Activated> {
        x.check("x", rows, norm.weight.elem_count())?;
        batch_norm::normalize(self, x, norm, statistics, mask)
    }

    fn activated(&self, _: &Images, activated: &Activated) -> Result<Images> {
        let Images { block, pixels, channels, pitch, .. } = &activated.images;
        Ok(Images::new(block.clone(), *pixels, *channels, *pitch))
    }

    fn backward_normalize(
        &self,
        x: &Images,
        activated: &Activated,
        grad: &mut Images,
        add: Option<&Images>,
    ) -> Result<[Gradient; 2]> {
        let block = batch_norm::backward(self, x, activated, grad, add)?;
        let gradient =
            |skipped| Gradient { block: block.clone(), skipped, dims: vec![x.channels], filter: false };
        Ok([gradient(0), gradient(x.pitch)])
    }

    fn accumulate(&self, sum: &mut Images, x: &Images) -> Result<()> {
        x.check("x", sum.pixels, sum.channels)?;
        self.settled(x)?;
        layout::add(self, sum, &x.block)
    }

    /// The sum is left to whoever reads the images next: a batch norm does it in passing.
    fn convolve(
        &self,
        shape: &Conv2dShape,
        x: Input<Self>,
        filter: &Filter,
        add: Option<&Images>,
    ) -> Result<Images> {
        let [inputs, outputs] = pixels(shape);
        let x = x.images();
        filter.check(shape)?;
        x.check("x", inputs, shape.in_channels)?;
        let y = self.new_images("a convolution", outputs, shape.out_channels)?;
        self.product(
            ConvolutionProduct::Forward,
            shape,
            self.settled(x)?,
            filter.address,
            y.block.address(),
        )?;
        let Some(add) = add else { return Ok(y) };
        add.check("add", outputs, shape.out_channels)?;
        self.settled(add)?;
        Ok(y.with_addend(add.block.clone()))
    }

    fn backward_input(
        &self,
        shape: &Conv2dShape,
        dy: &Images,
        filter: &Filter,
        add: Option<&Images>,
    ) -> Result<Images> {
        let [inputs, outputs] = pixels(shape);
        filter.check(shape)?;
        dy.check("dy", outputs, shape.out_channels)?;
        let dx = self.new_images("a convolution", inputs, shape.in_channels)?;
        let to = dx.block.address();
        self.product(ConvolutionProduct::BackwardInput, shape, to, filter.address, self.settled(dy)?)?;
        if let Some(add) = add {
            add.check("add", inputs, shape.in_channels)?;
            self.settled(add)?;
            layout::add(self, &dx, &add.block)?;
        }
        Ok(dx)
    }

    fn backward_weight(&self, shape: &Conv2dShape, x: Input<Self>, dy: &Images) -> Result<Gradient> {
        let [inputs, outputs] = pixels(shape);
        let x = x.images();
        x.check("x", inputs, shape.in_channels)?;
        dy.check("dy", outputs, shape.out_channels)?;
        let block = self.block("a convolution", padded(shape).weight_len(), self.element())?;
        let to = block.address();
        self.product(ConvolutionProduct::BackwardWeight, shape, self.settled(x)?, to, self.settled(dy)?)?;
        Ok(Gradient { block, skipped: 0, dims: shape.weight_dims().to_vec(), filter: true })
    }

    fn pool(&self, shape: &PoolShape, x: Input<Self>) -> Result<Features> {
        let block = pool::cuda::forward(self, shape, x.images())?;
        Ok(Features { block, len: shape.output_len() })
    }

    fn backward_pool(&self, shape: &PoolShape, dy: &Features) -> Result<Images> {
        dy.check("dy", shape.output_len())?;
        pool::cuda::backward(self, shape, &dy.block)
    }

    fn linear(&self, shape: &LinearShape, x: &Features, w: &Tensor, b: &Tensor) -> Result<Features> {
        x.check("x", shape.batch * shape.inputs)?;
        crate::conv2d::check_len("w", shape.outputs * shape.inputs, w.elem_count())?;
        crate::conv2d::check_len("b", shape.outputs, b.elem_count())?;
        let (w, b) = (self.address("linear", w)?, self.address("linear", b)?);
        let block = linear::cuda::forward(self, shape, &x.block, w, b)?;
        Ok(Features { block, len: shape.batch * shape.outputs })
    }

    fn backward_linear(
        &self,
        shape: &LinearShape,
        x: &Features,
        w: &Tensor,
        dy: &Features,
    ) -> Result<(Features, [Gradient; 2])> {
        x.check("x", shape.batch * shape.inputs)?;
        dy.check("dy", shape.batch * shape.outputs)?;
        crate::conv2d::check_len("w", shape.outputs * shape.inputs, w.elem_count())?;
        let w = self.address("linear", w)?;
        let [dx, dw, db] = linear::cuda::backward(self, shape, &x.block, w, &dy.block)?;
        let gradient = |block, dims| Gradient { block, skipped: 0, dims, filter: false };
        let gradients = [gradient(dw, vec![shape.outputs, shape.inputs]), gradient(db, vec![shape.outputs])];
        Ok((Features { block: dx, len: shape.batch * shape.inputs }, gradients))
    }
}
