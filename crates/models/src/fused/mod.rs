//! The fast way through the network, for f32 on the CPU: each layer has a hand-written backward pass over
//! channels-last buffers, and a whole chain of layers is one node of candle's graph.
//!
//! What this saves over `forward_plain`, besides the kernels being faster: the normalised and activated
//! tensors are never stored (the convolutions compute them again while reading), the residual sum is part of
//! a convolution's output, gradients are not zero-filled and added up, and all large buffers are reused from
//! one pass to the next.

mod basic_unit;
mod downsample_unit;
mod ends;
mod normalization;

pub(crate) use ends::Head;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use wrn_sam_kernels::conv2d::{self, Activation, Conv2dShape};
use wrn_sam_kernels::{Buffer, Context, autograd};

use crate::conv::Conv2d;
use crate::error::Result;
use crate::mode::Mode;

/// Whether the fast way serves `x`.
pub(crate) fn serves(x: &Tensor) -> bool {
    x.dtype() == DType::F32 && matches!(x.device(), Device::Cpu)
}

/// Images on their way through the layers: `[N, H, W, C]`.
pub(crate) struct Images {
    values: Buffer,
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
}

/// A layer with its own backward pass.
pub(crate) trait Layer {
    /// The parameters, in the order in which [`Saved::backward`] gives their gradients.
    fn parameters(&self) -> Vec<&Tensor>;

    /// The output, and in a training mode what the backward pass needs.
    fn forward(&self, ctx: &Context, x: Images, mode: Mode) -> Result<(Images, Option<Box<dyn Saved>>)>;
}

/// What a layer's forward pass leaves for its backward pass.
pub(crate) trait Saved: Send + Sync {
    /// From the output's gradient: the input's, unless `needs_input` is false, and the parameters'.
    fn backward(&self, ctx: &Context, dy: Images, needs_input: bool)
    -> Result<(Option<Images>, Vec<Tensor>)>;
}

/// Runs `x` `[N, C, H, W]` through the layers, as one node of candle's graph in a training mode and outside of the
/// graph in [`Mode::Eval`]. The result is `[N, H, W, C]`.
pub(crate) fn run(ctx: &Context, layers: &[&dyn Layer], x: &Tensor, mode: Mode) -> Result<Tensor> {
    let mut images = Images::read(ctx, x)?;
    let mut saved = Vec::new();
    for layer in layers {
        let (output, state) = layer.forward(ctx, images, mode)?;
        images = output;
        saved.extend(state);
    }
    let Images { ref values, batch, height, width, channels } = images;
    let shape = (batch, height, width, channels);
    if !mode.is_training() {
        return Ok(Tensor::from_slice(values, shape, &Device::Cpu)?);
    }
    let mut inputs = vec![x];
    inputs.extend(layers.iter().flat_map(|layer| layer.parameters()));
    let backward = Chain { ctx: ctx.clone(), layers: saved, output: [batch, height, width, channels] };
    Ok(autograd::node(CpuStorage::F32(values.to_vec()), shape, &inputs, backward)?)
}

/// The backward pass of the whole chain.
struct Chain {
    ctx: Context,
    layers: Vec<Box<dyn Saved>>,
    output: [usize; 4],
}

impl autograd::Backward for Chain {
    fn name(&self) -> &'static str {
        "wide-resnet"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let [batch, height, width, channels] = self.output;
        let mut values = self.ctx.buffer(dy.elem_count());
        copy(dy, &mut values)?;
        let mut images = Some(Images { values, batch, height, width, channels });
        let mut by_layer = Vec::new();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let Some(dy) = images.take() else { break };
            let needs_input = index > 0 || needed[0];
            let (dx, gradients) = layer.backward(&self.ctx, dy, needs_input)?;
            images = dx;
            by_layer.push(gradients);
        }
        let dx = images.map(|dx| dx.to_tensor()).transpose()?;
        Ok(std::iter::once(dx).chain(by_layer.into_iter().rev().flatten().map(Some)).collect())
    }
}

impl Images {
    /// Reads `[N, C, H, W]`.
    fn read(ctx: &Context, x: &Tensor) -> Result<Self> {
        let (batch, channels, height, width) = x.dims4()?;
        let mut values = ctx.buffer(x.elem_count());
        copy(&x.permute((0, 2, 3, 1))?, &mut values)?;
        Ok(Self { values, batch, height, width, channels })
    }

    /// As `[N, C, H, W]`, a view of channels-last values.
    fn to_tensor(&self) -> candle_core::Result<Tensor> {
        let shape = (self.batch, self.height, self.width, self.channels);
        Tensor::from_slice(&self.values, shape, &Device::Cpu)?.permute((0, 3, 1, 2))
    }
}

/// A convolution's part in a layer: its weight, and the shape of the images it meets.
struct Convolution {
    weight: Tensor,
    shape: Conv2dShape,
}

impl Convolution {
    fn new(convolution: &Conv2d, x: &Images) -> Result<Self> {
        let (out_channels, in_channels, kernel, _) = convolution.weight.dims4()?;
        let Images { batch, height, width, .. } = *x;
        let Conv2d { stride, padding, .. } = *convolution;
        let shape = Conv2dShape { batch, height, width, in_channels, out_channels, kernel, stride, padding };
        Ok(Self { weight: convolution.weight.clone(), shape })
    }

    /// `conv(activation(x)) + add`.
    fn forward(
        &self,
        ctx: &Context,
        x: &Images,
        activation: Option<Activation>,
        add: Option<&Images>,
    ) -> Result<Images> {
        let shape = &self.shape;
        let mut values = ctx.buffer(shape.output_len());
        let add = add.map(|images| &*images.values);
        read(&self.weight, |w| conv2d::forward(ctx, shape, &x.values, activation, w, add, &mut values))?;
        let (height, width) = (shape.out_height(), shape.out_width());
        Ok(Images { values, batch: x.batch, height, width, channels: shape.out_channels })
    }

    /// The gradient of the (activated) input, plus `add`.
    fn backward_input(&self, ctx: &Context, dy: &Images, add: Option<&Images>) -> Result<Images> {
        let Conv2dShape { batch, height, width, in_channels: channels, .. } = self.shape;
        let mut values = ctx.buffer(self.shape.input_len());
        let add = add.map(|images| &*images.values);
        read(&self.weight, |w| conv2d::backward_input(ctx, &self.shape, &dy.values, w, add, &mut values))?;
        Ok(Images { values, batch, height, width, channels })
    }

    /// The gradient of the weight.
    fn backward_weight(
        &self,
        ctx: &Context,
        x: &Images,
        activation: Option<Activation>,
        dy: &Images,
    ) -> Result<Tensor> {
        let mut dw = vec![0.0; self.shape.weight_len()];
        conv2d::backward_weight(ctx, &self.shape, &x.values, activation, &dy.values, &mut dw)?;
        Ok(Tensor::from_vec(dw, self.weight.shape(), &Device::Cpu)?)
    }
}

/// Calls `f` with the values of an f32 tensor on the CPU.
fn read<T, E>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> std::result::Result<T, E>) -> Result<T>
where
    crate::Error: From<E>,
{
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(f(&values[start..end])?),
        _ => Err(candle_core::Error::Msg(format!(
            "the fused layers hold f32 parameters on the CPU, found {:?} on {:?}",
            tensor.dtype(),
            tensor.device().location()
        ))
        .into()),
    }
}

/// Copies a tensor of any strides.
fn copy(tensor: &Tensor, to: &mut [f32]) -> Result<()> {
    read(tensor, |values| {
        to.copy_from_slice(values);
        Ok::<_, crate::Error>(())
    })
}
