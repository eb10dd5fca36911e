//! The sum of a step's micro-batches over all ranks: the one place where processes that train together meet in a step.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use wrn_sam_collective::{Collective, Pending, Precision, Solo};

use super::Sam;
use super::sums::Node;
use crate::Result;

/// The bytes after which a bucket is sent. The next one is filled while it travels.
const BUCKET: usize = 25 << 20;

/// Those who step together, and how their gradients travel.
#[derive(Debug)]
pub(super) struct Together {
    pub(super) ranks: Arc<dyn Collective>,
    pub(super) precision: Precision,
}

impl Default for Together {
    fn default() -> Self {
        Self { ranks: Arc::new(Solo), precision: Precision::Exact }
    }
}

impl Together {
    pub(super) fn are_several(&self) -> bool {
        self.ranks.world() > 1
    }
}

/// The sum of micro-batches, and the memory that it lies in where it is to be given back.
#[derive(Debug)]
pub(super) struct Total {
    pub(super) gradients: GradStore,
    pub(super) node: Option<Node>,
}

impl<O> Sam<O> {
    /// Steps together with other ranks, which have the same parameters in the same order and take the same calls. Each gives
    /// some of a step's micro-batches, by [`Step::part`](super::Step::part) or [`Step::gather`](super::Step::gather), and all
    /// take the step along the sum. With `part` only what the descent sees is exchanged; with `gather` the first gradients too.
    ///
    /// Rank r of W gives the r-th block of neighbors, of as many micro-batches as every rank, a power of two; fewer, or none,
    /// only where the batch ends in the block or before it. With [`Precision::Exact`] the sum then has the same bits
    /// for any W. On the CPU every number that decides about the step (norm, clip, whether it is finite) is taken from
    /// the sum, so all ranks decide the same.
    ///
    /// An error on one rank leaves the others waiting in their next exchange: tell them by
    /// [`fail`](wrn_sam_collective::Collective::fail). A `Trainer` does.
    ///
    /// ```
    /// use std::{sync::Arc, thread};
    /// use candle_core::{Device, Var};
    /// use candle_nn::Optimizer;
    /// use wrn_sam_collective::{Collective, Precision, Ranks};
    /// use wrn_sam_optim::{Result, Sam, SamConfig, Sgd, SgdConfig};
    ///
    /// // The gradient of micro-batch k at w is k · w; one of two micro-batches on each of two ranks.
    /// let train = |ranks: Ranks| -> Result<Vec<f32>> {
    ///     let k = [1.0, 3.0][ranks.rank()];
    ///     let w = Var::new(&[3f32, 4.], &Device::Cpu)?;
    ///     let base = Sgd::new(vec![w.clone()], SgdConfig::new(0.5))?;
    ///     let mut sam = Sam::new(base, SamConfig::sam(2.5))?.with_ranks(Arc::new(ranks), Precision::Exact);
    ///     let loss = || (w.sqr()?.sum_all()? * (k * 0.5))?.backward();
    ///     let mut step = sam.begin()?;
    ///     if let Some(part) = step.part(0.5, &loss()?)? {
    ///         part.descend(&loss()?)?;
    ///     }
    ///     step.finish()?;
    ///     Ok(w.to_vec1()?)
    /// };
    /// let ranks: Vec<_> = Ranks::threads(2)?.into_iter().map(|ranks| thread::spawn(move || train(ranks))).collect();
    /// for rank in ranks {
    ///     assert_eq!(rank.join().unwrap()?, [-1.5, -2.]); // as in the example of `Step::part`
    /// }
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    #[must_use]
    pub fn with_ranks(mut self, ranks: Arc<dyn Collective>, precision: Precision) -> Self {
        self.together = Together { ranks, precision };
        self
    }

    /// [`total`](Self::total) of the passes that move the buffers, which become their mean over the micro-batches.
    pub(super) fn total_and_buffers(&mut self) -> Result<Option<Total>> {
        self.buffers.end_pool(&*self.together.ranks)?;
        self.total()
    }

    /// The whole sum over the micro-batches of all ranks, if there is anything in it.
    pub(super) fn total(&mut self) -> Result<Option<Total>> {
        let node = self.sums.total(&self.context, &self.found_inf)?;
        if !self.together.are_several() {
            let total =
                |node: Node| Total { gradients: node.gradients(self.parameters.vars()), node: Some(node) };
            return Ok(node.map(total));
        }
        let gradients = self.over_ranks(node.as_ref())?;
        self.sums.give_back(node);
        Ok(gradients.map(|gradients| Total { gradients, node: None }))
    }

    /// The sum of every rank's `node`; `None` where no rank has one.
    fn over_ranks(&self, node: Option<&Node>) -> Result<Option<GradStore>> {
        let Together { ranks, precision } = &self.together;
        let vars = self.parameters.vars();
        let present = |index: usize| node.is_some_and(|node| node.get(index).is_some());
        let flags: Vec<f32> = (0..vars.len()).map(|index| u8::from(present(index)).into()).collect();
        let flags = ranks.all_reduce(&[Tensor::new(flags, &Device::Cpu)?], Precision::Exact)?;

        let mut sent = Vec::new();
        for bucket in buckets(vars) {
            let own = vars[bucket.clone()].iter().zip(bucket.clone()).map(|(var, index)| {
                match node.and_then(|node| node.get(index)) {
                    Some(sum) => Ok(sum.as_detached_tensor()),
                    // Not 0.0: -0.0 is what changes nothing that it is added to.
                    None => Ok(var.zeros_like()?.neg()?),
                }
            });
            sent.push((bucket, ranks.all_reduce(&own.collect::<Result<Vec<_>>>()?, *precision)?));
        }
        let flags: Vec<f32> = flags.wait()?.swap_remove(0).to_vec1()?;
        let (mut gradients, mut any) = (GradStore::default(), false);
        for (bucket, sums) in sent {
            for (index, sum) in bucket.zip(Pending::wait(sums)?) {
                if flags[index] > 0.0 {
                    gradients.insert(&vars[index], sum);
                    any = true;
                }
            }
        }
        Ok(any.then_some(gradients))
    }
}

/// Neighboring parameters of one type, and about [`BUCKET`] bytes.
fn buckets(vars: &[Var]) -> Vec<std::ops::Range<usize>> {
    let mut buckets: Vec<std::ops::Range<usize>> = Vec::new();
    let (mut bytes, mut dtype) = (0, DType::F32);
    for (index, var) in vars.iter().enumerate() {
        let own = var.elem_count() * var.dtype().size_in_bytes();
        match buckets.last_mut() {
            Some(bucket) if bytes + own <= BUCKET && var.dtype() == dtype => {
                bucket.end = index + 1;
                bytes += own;
            }
            _ => {
                buckets.push(index..index + 1);
                (bytes, dtype) = (own, var.dtype());
            }
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_parameter_once_and_no_two_types() {
        let var = |len: usize, dtype| Var::zeros(len, dtype, &Device::Cpu).unwrap();
        let large = BUCKET / 4 - 10;
        let vars = [
            var(large, DType::F32),
            var(10, DType::F32),
            var(1, DType::F32), // no room
            var(2, DType::F64),
            var(BUCKET, DType::F64), // larger than a bucket
            var(3, DType::F32),
        ];
        assert_eq!(buckets(&vars), [0..2, 2..3, 3..4, 4..5, 5..6]);
        assert!(buckets(&[]).is_empty());
    }
}
