//! A network's layers and the shapes between them, without a computation.

use crate::batch_norm::BatchNorm;
use crate::conv2d::Conv2d;
use crate::dropout::Dropout;
use crate::error::Result;
use crate::linear::Linear;
use crate::mode::Mode;
use crate::pass::{Dims, Layer, Pass, channels_first};

/// The layers in the order of a pass through them, each with the shape of its output.
pub(crate) struct Description<'a> {
    mode: Mode,
    pub(crate) steps: Vec<(Step<'a>, Vec<usize>)>,
}

/// One layer.
pub(crate) enum Step<'a> {
    Convolution(&'a Conv2d),
    BatchNorm(&'a BatchNorm),
    Dropout(&'a Dropout),
    Pool(&'a str, Dims),
    Linear(&'a Linear),
}

impl<'a> Description<'a> {
    /// Of a pass over images of the given shape.
    ///
    /// # Errors
    /// [`Error::TooFewValues`](crate::Error::TooFewValues) where the pass would take a variance of one value, and
    /// [`Error::Kernels`](crate::Error::Kernels) where the images are smaller than a kernel.
    pub(crate) fn new(layer: &'a impl Layer, x: Dims, mode: Mode) -> Result<Self> {
        let mut description = Self { mode, steps: Vec::new() };
        layer.apply(&mut description, x)?;
        Ok(description)
    }

    /// The convolutions.
    pub(crate) fn convolutions(&self) -> impl Iterator<Item = &'a Conv2d> {
        self.steps.iter().filter_map(|(step, _)| match step {
            Step::Convolution(convolution) => Some(*convolution),
            _ => None,
        })
    }
}

impl<'a> Pass<'a> for Description<'a> {
    type Images = Dims;
    /// Rows and columns.
    type Features = [usize; 2];

    fn convolve(&mut self, convolution: &'a Conv2d, x: &Dims, _: Option<&Dims>) -> Result<Dims> {
        let y = convolution.shape(*x)?.output_dims();
        self.steps.push((Step::Convolution(convolution), channels_first(y).to_vec()));
        Ok(y)
    }

    fn normalize(&mut self, norm: &'a BatchNorm, dropout: Option<&'a Dropout>, x: &Dims) -> Result<Dims> {
        let shape = channels_first(*x);
        norm.check_count(&shape, self.mode)?;
        self.steps.push((Step::BatchNorm(norm), shape.to_vec()));
        // A dropout of nothing is no layer.
        let dropout = dropout.filter(|dropout| dropout.probability() > 0.0);
        self.steps.extend(dropout.map(|dropout| (Step::Dropout(dropout), shape.to_vec())));
        Ok(*x)
    }

    fn average(&mut self, name: &'a str, x: &Dims) -> Result<[usize; 2]> {
        let y = [x[0], x[3]];
        self.steps.push((Step::Pool(name, *x), y.to_vec()));
        Ok(y)
    }

    fn linear(&mut self, linear: &'a Linear, [batch, _]: [usize; 2]) -> Result<[usize; 2]> {
        let y = [batch, linear.outputs()];
        self.steps.push((Step::Linear(linear), y.to_vec()));
        Ok(y)
    }
}
