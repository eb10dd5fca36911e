//! A pass over a backend's channels-last images. Where the mode has gradients it records what its backward pass needs, and
//! all of it is one node of candle's graph.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Tensor, TensorId};
use wrn_sam_kernels::autograd;
use wrn_sam_kernels::backend::{Backend, Input};
use wrn_sam_kernels::linear::LinearShape;
use wrn_sam_kernels::pool::PoolShape;

use crate::batch_norm::BatchNorm;
use crate::conv2d::Conv2d;
use crate::description::Description;
use crate::dropout::{Dropout, Masks};
use crate::error::Result;
use crate::linear::Linear;
use crate::pass::{Dims, Layer, Output, Pass, dims_of};
use crate::recording::{INPUT, Operation, Recording};

/// A pass that is running.
pub(crate) struct Tape<'a, B: Backend> {
    backend: &'a B,
    masks: Masks,
    /// The convolutions' weights as the backend has prepared them.
    filters: HashMap<TensorId, Arc<B::Filter>>,
    recording: Recording<B>,
}

/// Images, with what is still to be applied to them and the slot of their gradient.
pub(crate) struct Images<B: Backend> {
    pub(crate) values: Arc<B::Images>,
    /// A batch norm and ReLU that the reader of the values applies.
    activated: Option<Arc<B::Activated>>,
    dims: Dims,
    pub(crate) slot: usize,
}

/// Rows of numbers, with the slot of their gradient.
pub(crate) struct Features<B: Backend> {
    pub(crate) values: B::Features,
    rows: usize,
    columns: usize,
    pub(crate) slot: usize,
}

impl<B: Backend> Clone for Images<B> {
    fn clone(&self) -> Self {
        let (values, activated) = (self.values.clone(), self.activated.clone());
        Self { values, activated, ..*self }
    }
}

impl<B: Backend> Images<B> {
    pub(crate) fn input(&self) -> Input<'_, B> {
        match &self.activated {
            Some(activated) => Input::Activated(&*self.values, &**activated),
            None => Input::Plain(&*self.values),
        }
    }

    /// The values for a reader that applies nothing.
    fn settled(&self, backend: &B) -> Result<Arc<B::Images>> {
        match &self.activated {
            Some(activated) => Ok(Arc::new(backend.activated(&self.values, activated)?)),
            None => Ok(self.values.clone()),
        }
    }
}

impl<'a, B: Backend> Tape<'a, B> {
    /// Runs `x`, `[N, C, H, W]`, through the layer that `description` describes. The result is a node of candle's graph where
    /// the mode has gradients.
    pub(crate) fn run(
        backend: &'a B,
        masks: Masks,
        layer: &'a impl Layer,
        description: &Description<'a>,
        x: &Tensor,
        hands_over_variables: bool,
    ) -> Result<Tensor> {
        let weights: Vec<&Tensor> = description.convolutions().map(|layer| &layer.weight).collect();
        let filters = backend.filters(&weights)?.into_iter().map(Arc::new);
        let filters = weights.iter().map(|weight| weight.id()).zip(filters).collect();
        let dims = dims_of(x)?;
        let has_gradients = masks.mode.has_gradients();
        let recording = Recording::new(backend, dims, x.track_op(), hands_over_variables);
        let images = Images { values: Arc::new(backend.images(x)?), activated: None, dims, slot: INPUT };
        let mut tape = Self { backend, masks, filters, recording };

        let (output, shape, slot) = match layer.apply(&mut tape, images)? {
            Output::Images(y) => {
                (backend.store_images(&*y.settled(backend)?, y.dims)?, y.dims.to_vec(), y.slot)
            }
            Output::Features(y) => (backend.store_features(&y.values)?, vec![y.rows, y.columns], y.slot),
        };
        let is_images = shape.len() == 4;
        let y = match has_gradients {
            true => tape.recording.into_node(output, shape, x, slot)?,
            false => autograd::constant(output, shape)?,
        };
        Ok(if is_images { y.permute((0, 3, 1, 2))? } else { y })
    }

    /// Records an operation on the values of `inputs`, with the parameters whose gradients it gives, in this order. The slot of
    /// its result.
    fn record(
        &mut self,
        parameters: &[&Tensor],
        inputs: Vec<usize>,
        operation: impl FnOnce() -> Operation<B>,
    ) -> usize {
        match self.masks.mode.has_gradients() {
            true => self.recording.record(parameters, inputs, operation),
            false => INPUT,
        }
    }
}

impl<'a, B: Backend> Pass<'a> for Tape<'a, B> {
    type Images = Images<B>;
    type Features = Features<B>;

    fn convolve(
        &mut self,
        convolution: &'a Conv2d,
        x: &Images<B>,
        add: Option<&Images<B>>,
    ) -> Result<Images<B>> {
        let shape = convolution.shape(x.dims)?;
        // The description that the filters were prepared from is of these same layers.
        let filter = self.filters[&convolution.weight.id()].clone();
        let addend = add.map(|add| add.settled(self.backend)).transpose()?;
        let values = self.backend.convolve(&shape, x.input(), &filter, addend.as_deref())?;
        let add = add.map(|add| add.slot);
        let inputs = std::iter::once(x.slot).chain(add).collect();
        let operation = || Operation::Convolve { shape, filter, x: x.clone(), add };
        let slot = self.record(&[&convolution.weight], inputs, operation);
        Ok(Images { values: Arc::new(values), activated: None, dims: shape.output_dims(), slot })
    }

    fn normalize(
        &mut self,
        norm: &'a BatchNorm,
        dropout: Option<&'a Dropout>,
        x: &Images<B>,
    ) -> Result<Images<B>> {
        let statistics = BatchNorm::statistics(self.masks.mode);
        let (values, rows, mask) =
            (x.settled(self.backend)?, x.dims[..3].iter().product(), self.masks.mask(dropout));
        let state = norm.state(self.masks.mode);
        let activated = Arc::new(self.backend.normalize(&values, rows, &state, statistics, mask)?);
        let operation = || {
            let (values, activated) = (values.clone(), activated.clone());
            Operation::Normalize { values, activated, x: x.slot }
        };
        let slot = self.record(&[&norm.weight, &norm.bias], vec![x.slot], operation);
        Ok(Images { values, activated: Some(activated), dims: x.dims, slot })
    }

    fn average(&mut self, _: &'a str, x: &Images<B>) -> Result<Features<B>> {
        let [batch, height, _, channels] = x.dims;
        let shape = PoolShape::new(x.dims, height)?;
        let values = self.backend.pool(&shape, x.input())?;
        let slot = self.record(&[], vec![x.slot], || Operation::Average { shape, x: x.slot });
        Ok(Features { values, rows: batch, columns: channels, slot })
    }

    fn linear(&mut self, linear: &'a Linear, x: Features<B>) -> Result<Features<B>> {
        let (rows, columns) = (x.rows, linear.outputs());
        let shape = LinearShape::new(rows, x.columns, columns)?;
        let values = self.backend.linear(&shape, &x.values, &linear.weight, &linear.bias)?;
        let (slot, weight) = (x.slot, linear.weight.clone());
        let operation = || Operation::Linear { shape, weight, x };
        let slot = self.record(&[&linear.weight, &linear.bias], vec![slot], operation);
        Ok(Features { values, rows, columns, slot })
    }
}
