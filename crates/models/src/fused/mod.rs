//! The fast way through the network: each layer has a hand-written backward pass over channels-last images, and a whole
//! chain of layers is one node of candle's graph.
//!
//! A layer is written once, against the [`Backend`] that runs it. What this saves over `forward_plain`, besides the
//! kernels being faster: the residual sum is not an operation of its own, gradients are not zero-filled and added up, and
//! all large buffers are reused from one pass to the next; on the CPU, moreover, the normalized and activated tensors are
//! never stored (the convolutions compute them again while reading).

mod basic_unit;
mod compute;
mod downsample_unit;
mod ends;

pub(crate) use compute::Compute;
pub(crate) use ends::Head;

use candle_core::Tensor;
use wrn_sam_kernels::autograd;
use wrn_sam_kernels::backend::{Backend, BatchNormState, BatchStatistics, Input};
use wrn_sam_kernels::conv2d::Conv2dShape;
use wrn_sam_kernels::dropout::Mask;

use crate::batch_norm::{BatchNorm, EPSILON, MOMENTUM};
use crate::conv::Conv2d;
use crate::error::Result;
use crate::mode::Mode;

/// Images on their way through the layers: `[N, H, W, C]`.
pub(crate) struct Images<B: Backend> {
    values: B::Images,
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
}

/// A layer with its own backward pass.
pub(crate) trait Layer<B: Backend> {
    /// The parameters, in the order in which [`Saved::backward`] gives their gradients.
    fn parameters(&self) -> Vec<&Tensor>;

    /// The output, and in a training mode what the backward pass needs. `filters` are the pass's, from this layer's
    /// first on, of which it takes its own, in the order of its parameters.
    fn forward(
        &self,
        backend: &B,
        filters: &mut Filters<B>,
        x: Images<B>,
        mode: Mode,
    ) -> Result<(Images<B>, Option<BoxedSaved<B>>)>;
}

/// What a layer's forward pass leaves for its backward pass.
pub(crate) trait Saved<B: Backend>: Send + Sync {
    /// From the output's gradient: the input's, unless `needs_input` is false, and the parameters'.
    fn backward(&self, backend: &B, dy: Images<B>, needs_input: bool) -> Result<Gradients<B>>;
}

/// What any layer's forward pass leaves.
pub(crate) type BoxedSaved<B> = Box<dyn Saved<B>>;

/// The gradient of a layer's input, where it was needed, and those of its parameters.
pub(crate) type Gradients<B> = (Option<Images<B>>, Vec<<B as Backend>::Gradient>);

/// The convolutions' weights, as a backend has prepared them for a pass, in the order of the layers.
pub(crate) type Filters<B> = std::vec::IntoIter<<B as Backend>::Filter>;

/// What a pass runs through, and how its gradients are had.
pub(crate) struct Network<'a, B: Backend> {
    pub(crate) layers: &'a [&'a dyn Layer<B>],
    pub(crate) head: Option<&'a Head<'a>>,
    /// See [`autograd::Backward::hands_over_variables`].
    pub(crate) hands_over_variables: bool,
}

impl<B: Backend> Network<'_, B> {
    /// Runs `x` `[N, C, H, W]` through the layers, as one node of candle's graph in a training mode and outside of the
    /// graph in [`Mode::Eval`]. The result is `[N, H, W, C]`, or `[N, classes]` where there is a head.
    pub(crate) fn run(&self, backend: &B, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut inputs = vec![x];
        inputs.extend(self.layers.iter().flat_map(|layer| layer.parameters()));
        inputs.extend(self.head.iter().flat_map(|head| head.parameters()));
        let weights: Vec<&Tensor> = inputs[1..].iter().copied().filter(|input| input.rank() == 4).collect();
        let mut filters = backend.filters(&weights)?.into_iter();

        let mut images = Images::read(backend, x)?;
        let mut saved = Vec::new();
        for layer in self.layers {
            let (output, state) = layer.forward(backend, &mut filters, images, mode)?;
            images = output;
            saved.extend(state);
        }
        let batch = images.batch;
        let (output, shape, head) = match self.head {
            Some(head) => {
                let (features, state) = head.forward(backend, images, mode)?;
                (backend.store_features(&features)?, vec![batch, head.classes()], state)
            }
            None => {
                let Images { values, batch, height, width, channels } = images;
                let dims = [batch, height, width, channels];
                (backend.store_images(&values, dims)?, dims.to_vec(), None)
            }
        };
        if !mode.is_training() {
            return Ok(autograd::constant(output, shape)?);
        }
        let hands_over_variables = self.hands_over_variables;
        let backward = Chain { backend: backend.clone(), layers: saved, head, hands_over_variables };
        Ok(autograd::node(output, shape, &inputs, backward)?)
    }
}

/// The backward pass of the whole chain.
struct Chain<B: Backend> {
    backend: B,
    layers: Vec<BoxedSaved<B>>,
    head: Option<ends::SavedHead<B>>,
    hands_over_variables: bool,
}

impl<B: Backend> autograd::Backward for Chain<B> {
    fn name(&self) -> &'static str {
        "wide-resnet"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let backend = &self.backend;
        let mut by_layer = Vec::new();
        let mut images = Some(match &self.head {
            Some(head) => {
                let (dx, gradients) = head.backward(backend, &backend.features(dy)?)?;
                by_layer.push(gradients);
                dx
            }
            None => Images::read(backend, &dy.permute((0, 3, 1, 2))?)?,
        });
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let Some(dy) = images.take() else { break };
            let needs_input = index > 0 || needed[0];
            let (dx, gradients) = layer.backward(backend, dy, needs_input)?;
            images = dx;
            by_layer.push(gradients);
        }
        let gradients = backend.gradients(by_layer.into_iter().rev().flatten().collect())?;
        let dx = images.map(|dx| dx.into_tensor(backend)).transpose()?;
        Ok(std::iter::once(dx).chain(gradients.into_iter().map(Some)).collect())
    }

    fn hands_over_variables(&self) -> bool {
        self.hands_over_variables
    }
}

impl<B: Backend> Images<B> {
    /// Reads `[N, C, H, W]`.
    fn read(backend: &B, x: &Tensor) -> Result<Self> {
        let (batch, channels, height, width) = x.dims4()?;
        Ok(Self { values: backend.images(x)?, batch, height, width, channels })
    }

    /// As `[N, C, H, W]`, a view of channels-last values.
    fn into_tensor(self, backend: &B) -> Result<Tensor> {
        let dims = [self.batch, self.height, self.width, self.channels];
        let tensor = autograd::constant(backend.store_images(&self.values, dims)?, dims.to_vec())?;
        Ok(tensor.permute((0, 3, 1, 2))?)
    }

    /// `relu(norm(self))`, dropped out where there is a mask.
    fn normalize(
        &self,
        backend: &B,
        norm: &BatchNorm,
        mask: Option<Mask>,
        mode: Mode,
    ) -> Result<B::Activated> {
        let statistics = if mode.is_training() {
            norm.check_count(&[self.batch, self.channels, self.height, self.width], mode)?;
            BatchStatistics::Batch { moves: mode.moves_statistics() }
        } else {
            BatchStatistics::Running
        };
        let rows = self.batch * self.height * self.width;
        Ok(backend.normalize(&self.values, rows, &norm.state(), statistics, mask)?)
    }
}

impl BatchNorm {
    pub(crate) fn state(&self) -> BatchNormState<'_> {
        BatchNormState {
            weight: &self.weight,
            bias: &self.bias,
            running_mean: &self.running_mean,
            running_var: &self.running_var,
            num_batches_tracked: &self.num_batches_tracked,
            epsilon: EPSILON,
            momentum: MOMENTUM,
        }
    }
}

/// A convolution's part in a pass: its weight, and the shape of the images it meets.
struct Convolution<B: Backend> {
    filter: B::Filter,
    shape: Conv2dShape,
}

impl<B: Backend> Convolution<B> {
    /// Takes the next of the filters.
    fn new(convolution: &Conv2d, filters: &mut Filters<B>, x: &Images<B>) -> Result<Self> {
        let (out_channels, in_channels, kernel, _) = convolution.weight.dims4()?;
        let Images { batch, height, width, .. } = *x;
        let Conv2d { stride, padding, .. } = *convolution;
        let shape = Conv2dShape { batch, height, width, in_channels, out_channels, kernel, stride, padding };
        let missing = || candle_core::Error::Msg("a backend prepares every filter it is given".to_string());
        Ok(Self { filter: filters.next().ok_or_else(missing)?, shape })
    }

    /// `conv(x) + add`.
    fn forward(&self, backend: &B, x: Input<B>, add: Option<&Images<B>>) -> Result<Images<B>> {
        let shape = &self.shape;
        let values = backend.convolve(shape, x, &self.filter, add.map(|add| &add.values))?;
        let (height, width) = (shape.out_height(), shape.out_width());
        Ok(Images { values, batch: shape.batch, height, width, channels: shape.out_channels })
    }

    /// The gradient of the input, plus `add`.
    fn backward_input(&self, backend: &B, dy: &Images<B>, add: Option<&Images<B>>) -> Result<Images<B>> {
        let Conv2dShape { batch, height, width, in_channels: channels, .. } = self.shape;
        let add = add.map(|add| &add.values);
        let values = backend.backward_input(&self.shape, &dy.values, &self.filter, add)?;
        Ok(Images { values, batch, height, width, channels })
    }

    /// The gradient of the weight.
    fn backward_weight(&self, backend: &B, x: Input<B>, dy: &Images<B>) -> Result<B::Gradient> {
        Ok(backend.backward_weight(&self.shape, x, &dy.values)?)
    }
}
