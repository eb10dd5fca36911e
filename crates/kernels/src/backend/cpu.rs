//! The CPU: slices of `f32` from the arena, and batch norms that the operation after them applies.

use candle_core::{CpuStorage, Device, Storage, Tensor};

use super::{Backend, Input};
use crate::batch_norm::{self, BatchNormState, BatchStatistics, Forward, Saved};
use crate::conv2d::{self, Activation, Conv2dShape};
use crate::dropout::Mask;
use crate::elementwise;
use crate::linear::{self, LinearShape};
use crate::pool::{self, MaxPoolShape, PoolShape};
use crate::tensor::{contiguous, cpu_f32, with_f32};
use crate::uninit::{Uninit, as_uninit, written};
use crate::{Buffer, Cpu, Result};

/// A batch norm and ReLU as its reader applies it: `relu(x * scale + shift)`.
pub struct Activated {
    scale: Vec<f32>,
    shift: Vec<f32>,
    saved: Saved,
    statistics: BatchStatistics,
    /// The mask, and the activated and masked images it made.
    dropped: Option<(Mask, Buffer)>,
}

impl Activated {
    fn activation(&self) -> Activation<'_> {
        Activation { scale: &self.scale, shift: &self.shift }
    }
}

impl<'a> Input<'a, Cpu> {
    fn parts(self) -> (&'a [f32], Option<Activation<'a>>) {
        match self {
            Self::Plain(x) => (x, None),
            Self::Activated(_, Activated { dropped: Some((_, dropped)), .. }) => (dropped, None),
            Self::Activated(x, activated) => (x, Some(activated.activation())),
        }
    }
}

impl Backend for Cpu {
    type Images = Buffer;
    type Features = Buffer;
    type Filter = Tensor;
    type Activated = Activated;
    type Gradient = Tensor;

    fn images(&self, x: &Tensor) -> Result<Buffer> {
        x.dims4()?;
        self.features(&x.permute((0, 2, 3, 1))?)
    }

    fn features(&self, x: &Tensor) -> Result<Buffer> {
        let mut values = self.buffer(x.elem_count());
        read(x, |x| {
            values.copy_from_slice(x);
            Ok(())
        })?;
        Ok(values)
    }

    fn filters(&self, weights: &[&Tensor]) -> Result<Vec<Tensor>> {
        weights.iter().try_for_each(|weight| cpu_f32("a convolution", weight))?;
        Ok(weights.iter().map(|&weight| weight.clone()).collect())
    }

    fn store_images(&self, x: &Buffer, dims: [usize; 4]) -> Result<Storage> {
        conv2d::check_len("images", dims.iter().product(), x.len())?;
        Ok(Storage::Cpu(CpuStorage::F32(x.to_vec())))
    }

    fn store_features(&self, x: &Buffer) -> Result<Storage> {
        Ok(Storage::Cpu(CpuStorage::F32(x.to_vec())))
    }

    fn gradients(&self, gradients: Vec<Tensor>) -> Result<Vec<Tensor>> {
        Ok(gradients)
    }

    fn normalize(
        &self,
        x: &Buffer,
        rows: usize,
        norm: &BatchNormState,
        statistics: BatchStatistics,
        mask: Option<Mask>,
    ) -> Result<Activated> {
        let channels = norm.weight.elem_count();
        conv2d::check_len("x", rows * channels, x.len())?;
        statistics.check(rows)?;
        let (mut mean, mut var) = (vec![0.0; channels], vec![0.0; channels]);
        match statistics {
            BatchStatistics::Batch { moves } => {
                batch_norm::statistics(self, x, &mut mean, &mut var)?;
                let tensor = |values: &[f32]| Tensor::from_slice(values, channels, &Device::Cpu);
                batch_norm::track(norm, &tensor(&mean)?, &tensor(&var)?, rows, moves)?;
            }
            BatchStatistics::Running => {
                for (running, values) in [(norm.running_mean, &mut mean), (norm.running_var, &mut var)] {
                    read(running, |running| {
                        conv2d::check_len("running statistics", channels, running.len())?;
                        values.copy_from_slice(running);
                        Ok(())
                    })?;
                }
            }
        }
        let (scale, shift) = read(norm.weight, |gamma| {
            read(norm.bias, |beta| Ok(batch_norm::scale_shift(gamma, beta, &mean, &var, norm.epsilon)))
        })?;
        let saved = Saved::new(&mean, &var, norm.epsilon);
        let mut activated = Activated { scale, shift, saved, statistics, dropped: None };
        if let Some(mask) = mask {
            let mut dropped = self.buffer(x.len());
            batch_norm::apply(self, x, activated.activation(), &mut dropped)?;
            mask.apply(self, &mut dropped);
            activated.dropped = Some((mask, dropped));
        }
        Ok(activated)
    }

    fn activated(&self, x: &Buffer, activated: &Activated) -> Result<Buffer> {
        let mut y = self.buffer(x.len());
        match &activated.dropped {
            Some((_, dropped)) => y.copy_from_slice(dropped),
            None => batch_norm::apply(self, x, activated.activation(), &mut y)?,
        }
        Ok(y)
    }

    fn backward_normalize(
        &self,
        x: &Buffer,
        activated: &Activated,
        grad: &mut Buffer,
        add: Option<&Buffer>,
    ) -> Result<[Tensor; 2]> {
        if let Some((mask, _)) = &activated.dropped {
            mask.apply(self, grad);
        }
        let channels = activated.scale.len();
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        let (activation, saved) = (activated.activation(), &activated.saved);
        let forward = Forward { x, activation, saved, statistics: activated.statistics, relu: true };
        batch_norm::backward(self, forward, grad, add.map(|add| &**add), &mut dgamma, &mut dbeta)?;
        let tensor = |values| Tensor::from_vec(values, channels, &Device::Cpu);
        Ok([tensor(dgamma)?, tensor(dbeta)?])
    }

    fn accumulate(&self, sum: &mut Buffer, x: &Buffer) -> Result<()> {
        const CHUNK: usize = 1 << 14;
        conv2d::check_len("x", sum.len(), x.len())?;
        self.for_each_chunk(sum, CHUNK, |index, sum| {
            sum.iter_mut().zip(&x[index * CHUNK..]).for_each(|(sum, x)| *sum += x);
        });
        Ok(())
    }

    fn convolve(
        &self,
        shape: &Conv2dShape,
        x: Input<Self>,
        filter: &Tensor,
        add: Option<&Buffer>,
    ) -> Result<Buffer> {
        let mut y = self.buffer(shape.output_len());
        let (x, activation) = x.parts();
        let add = add.map(|add| &**add);
        read(filter, |w| {
            // SAFETY: only sums are written to it.
            let y = unsafe { as_uninit(&mut y) };
            conv2d::forward_to(self, shape, x, activation, w, add, y)
        })?;
        Ok(y)
    }

    fn backward_input(
        &self,
        shape: &Conv2dShape,
        dy: &Buffer,
        filter: &Tensor,
        add: Option<&Buffer>,
    ) -> Result<Buffer> {
        let mut dx = self.buffer(shape.input_len());
        let add = add.map(|add| &**add);
        read(filter, |w| conv2d::backward_input(self, shape, dy, w, add, &mut dx))?;
        Ok(dx)
    }

    fn backward_weight(&self, shape: &Conv2dShape, x: Input<Self>, dy: &Buffer) -> Result<Tensor> {
        let (x, activation) = x.parts();
        let write = |dw: &mut Uninit| conv2d::backward_weight_to(self, shape, x, activation, dy, dw);
        // SAFETY: a weight's gradient is written wholly.
        let dw = unsafe { written(shape.weight_len(), write) }?;
        Ok(Tensor::from_vec(dw, &shape.weight_dims(), &Device::Cpu)?)
    }

    fn pool(&self, shape: &PoolShape, x: Input<Self>) -> Result<Buffer> {
        let mut y = self.buffer(shape.output_len());
        let (x, activation) = x.parts();
        pool::forward(self, shape, x, activation, &mut y)?;
        Ok(y)
    }

    fn backward_pool(&self, shape: &PoolShape, dy: &Buffer) -> Result<Buffer> {
        let mut dx = self.buffer(shape.input_len());
        pool::backward(self, shape, dy, &mut dx)?;
        Ok(dx)
    }

    fn linear(&self, shape: &LinearShape, x: &Buffer, w: &Tensor, b: &Tensor) -> Result<Buffer> {
        let mut y = self.buffer(shape.batch * shape.outputs);
        read(w, |w| read(b, |b| linear::forward(self, shape, x, w, b, &mut y)))?;
        Ok(y)
    }

    fn backward_linear(
        &self,
        shape: &LinearShape,
        x: &Buffer,
        w: &Tensor,
        dy: &Buffer,
    ) -> Result<(Buffer, [Tensor; 2])> {
        let (mut dw, mut db) = (vec![0.0; shape.inputs * shape.outputs], vec![0.0; shape.outputs]);
        linear::backward_parameters(self, shape, x, dy, &mut dw, &mut db)?;
        let mut dx = self.buffer(shape.batch * shape.inputs);
        read(w, |w| linear::backward_input(self, shape, dy, w, &mut dx))?;
        let dw = Tensor::from_vec(dw, (shape.outputs, shape.inputs), &Device::Cpu)?;
        let db = Tensor::from_vec(db, shape.outputs, &Device::Cpu)?;
        Ok((dx, [dw, db]))
    }

    fn conv2d(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, shape: &Conv2dShape) -> Result<Tensor> {
        conv2d::tensors::on_cpu(self, x, w, bias, shape)
    }

    fn batch_norm(
        &self,
        x: &Tensor,
        norm: &BatchNormState,
        statistics: BatchStatistics,
        relu: bool,
    ) -> Result<Tensor> {
        batch_norm::tensors::on_cpu(self, x, norm, statistics, relu)
    }

    fn elementwise(&self, a: &Tensor, b: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        elementwise::tensors::on_cpu(self, a, b, relu)
    }

    fn avg_pool2d(&self, x: &Tensor, shape: &PoolShape) -> Result<Tensor> {
        pool::tensors::avg_on_cpu(self, x, shape)
    }

    fn global_avg_pool2d(&self, x: &Tensor) -> Result<Tensor> {
        pool::tensors::global_on_cpu(self, x)
    }

    fn max_pool2d(&self, x: &Tensor, shape: &MaxPoolShape) -> Result<Tensor> {
        pool::tensors::max_on_cpu(self, x, shape)
    }
}

/// Calls `f` with the values of an `f32` tensor on the CPU, which are copied only where they are not contiguous.
fn read<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    cpu_f32("the fused layers", tensor)?;
    with_f32(&tensor.contiguous()?, |values, layout| Ok(f(contiguous(values, layout)?)))?
}
