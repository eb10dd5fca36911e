//! The mean of what the micro-batches of a step make of the buffers.

use candle_core::{DType, Device, Tensor};
use wrn_sam_collective::{Collective, Precision};

use super::buffers::Buffers;
use crate::Result;

/// What was taken so far: subtrees of decreasing height, as in [`Sums`](super::sums::Sums).
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Subtree>);

#[derive(Debug)]
struct Subtree {
    height: u32,
    /// The sum of the shares.
    share: f64,
    /// For each buffer of a float type the sum of share · value; of an integer type how much it grew.
    values: Vec<Tensor>,
}

impl Subtree {
    fn plus(self, other: &Self) -> Result<Self> {
        let values = self.values.iter().zip(&other.values).map(|(one, other)| Ok((one + other)?));
        Ok(Self {
            height: self.height.max(other.height) + 1,
            share: self.share + other.share,
            values: values.collect::<Result<_>>()?,
        })
    }
}

impl Pool {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn add(&mut self, leaf: Subtree) -> Result<()> {
        self.0.push(leaf);
        while let [.., left, right] = self.0.as_slice()
            && left.height == right.height
        {
            self.join()?;
        }
        Ok(())
    }

    fn join(&mut self) -> Result<()> {
        if let (Some(right), Some(left)) = (self.0.pop(), self.0.pop()) {
            self.0.push(left.plus(&right)?);
        }
        Ok(())
    }

    fn total(&mut self) -> Result<Option<Subtree>> {
        while self.0.len() > 1 {
            self.join()?;
        }
        Ok(self.0.pop())
    }
}

impl Buffers {
    /// Takes what a micro-batch made of them, and puts them back as they were before the step.
    pub(super) fn pool(&mut self, share: f64) -> Result<()> {
        let mut values = Vec::with_capacity(self.vars.len());
        for (var, before) in self.vars.iter().zip(&self.before) {
            let (var, before) = (var.as_detached_tensor(), before.as_detached_tensor());
            values.push(match var.dtype().is_float() {
                true => (var * share)?,
                false => (var.to_dtype(DType::F64)? - before.to_dtype(DType::F64)?)?,
            });
        }
        self.pool.add(Subtree { height: 0, share, values })?;
        self.restore()
    }

    /// Makes them the mean over the micro-batches of all ranks, if any were taken; integers have grown by the sum.
    pub(super) fn end_pool(&mut self, ranks: &dyn Collective) -> Result<()> {
        let own = self.pool.total()?;
        if self.vars.is_empty() {
            return Ok(());
        }
        let share = own.as_ref().map_or(0.0, |own| own.share);
        let mut values = match own {
            Some(own) => own.values,
            None => self.vars.iter().map(|var| absent(var)).collect::<Result<_>>()?,
        };
        let mut share = Tensor::new(&[share], &Device::Cpu)?;
        if ranks.world() > 1 {
            // Those of one type together.
            for dtype in [DType::F32, DType::F64] {
                let places: Vec<usize> = (0..values.len()).filter(|&i| values[i].dtype() == dtype).collect();
                let own: Vec<Tensor> = places.iter().map(|&place| values[place].clone()).collect();
                for (place, sum) in places.into_iter().zip(ranks.all_reduce(&own, Precision::Exact)?.wait()?)
                {
                    values[place] = sum;
                }
            }
            share = ranks.all_reduce(&[share], Precision::Exact)?.wait()?.swap_remove(0);
        }
        if share.to_vec1::<f64>()?[0] == 0.0 {
            return Ok(());
        }
        for ((var, before), value) in self.vars.iter().zip(&self.before).zip(values) {
            match var.dtype().is_float() {
                true => var.set(&value)?,
                false => var.set(&(before.to_dtype(DType::F64)? + value)?.to_dtype(var.dtype())?)?,
            }
        }
        Ok(())
    }
}

/// What a rank without micro-batches gives for a buffer: -0.0, which changes nothing that it is added to.
fn absent(var: &Tensor) -> Result<Tensor> {
    let dtype = if var.dtype().is_float() { var.dtype() } else { DType::F64 };
    Ok(var.zeros_like()?.to_dtype(dtype)?.neg()?)
}
