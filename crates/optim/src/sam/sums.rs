//! Sums over the micro-batches of a step, in an order that only their number decides.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use wrn_sam_kernels::Cpu;
use wrn_sam_kernels::optimizer_step::{Combination, FoundInf, combine_all};

use super::ascent::keep_beside;
use crate::{Error, Result};

/// The sum of what the micro-batches of a step give, along a binary tree over their index: two neighbors are added, then two
/// neighboring pairs, and so on; of a number that is no power of two, the smaller trees at the end are added to the larger
/// ones before them. A block of 2ⁿ micro-batches that begins at a multiple of 2ⁿ is one subtree, so whoever sums blocks apart
/// and adds those in the same way gets the same bits.
#[derive(Debug)]
pub(super) struct Sums {
    /// Subtrees of decreasing height.
    nodes: Vec<Node>,
    /// Memory of nodes that are added to others.
    spare: Vec<Vec<Option<Var>>>,
    /// Whether every micro-batch that was begun is in the sum.
    pub(super) whole: bool,
}

impl Default for Sums {
    fn default() -> Self {
        Self { nodes: Vec::new(), spare: Vec::new(), whole: true }
    }
}

/// A subtree's sum: for each parameter, and whether anything was added for it.
#[derive(Debug)]
pub(super) struct Node {
    height: u32,
    vars: Vec<Option<Var>>,
    present: Vec<bool>,
}

impl Node {
    /// What was added for a parameter.
    pub(super) fn get(&self, index: usize) -> Option<&Var> {
        self.vars[index].as_ref().filter(|_| self.present[index])
    }

    /// The sum as gradients of the parameters.
    pub(super) fn gradients(&self, parameters: &[Var]) -> GradStore {
        let mut store = GradStore::default();
        for ((parameter, var), present) in parameters.iter().zip(&self.vars).zip(&self.present) {
            if let (Some(var), true) = (var, present) {
                store.insert(parameter, var.as_detached_tensor());
            }
        }
        store
    }
}

impl Sums {
    /// Adds a micro-batch's combination of x and y, each row given as (index, parameter, x, y).
    pub(super) fn add(
        &mut self,
        cpu: &Cpu,
        parameters: usize,
        combination: Combination<'_>,
        rows: &[(usize, &Var, &Tensor, &Tensor)],
        found_inf: &FoundInf,
    ) -> Result<()> {
        let mut vars = self.spare.pop().unwrap_or_else(|| vec![None; parameters]);
        let mut present = vec![false; parameters];
        for &(index, var, ..) in rows {
            keep_beside(&mut vars[index], var)?;
            present[index] = true;
        }
        let written: Vec<_> =
            rows.iter().filter_map(|&(index, _, x, y)| Some((vars[index].as_ref()?, x, y))).collect();
        combine_all(cpu, combination, &written, found_inf)?;
        self.nodes.push(Node { height: 0, vars, present });
        while let [.., left, right] = self.nodes.as_slice()
            && left.height == right.height
        {
            self.join(cpu, found_inf)?;
        }
        Ok(())
    }

    /// The whole sum, if there is anything in it. None is left.
    pub(super) fn total(&mut self, cpu: &Cpu, found_inf: &FoundInf) -> Result<Option<Node>> {
        while self.nodes.len() > 1 {
            self.join(cpu, found_inf)?;
        }
        Ok(self.nodes.pop())
    }

    /// Adds the last subtree to the one before it.
    fn join(&mut self, cpu: &Cpu, found_inf: &FoundInf) -> Result<()> {
        let (Some(mut right), Some(mut left)) = (self.nodes.pop(), self.nodes.pop()) else { return Ok(()) };
        let mut added = Vec::new();
        for index in 0..left.vars.len() {
            if right.present[index] && !left.present[index] {
                std::mem::swap(&mut left.vars[index], &mut right.vars[index]);
                left.present[index] = true;
            } else if right.present[index] {
                added.push(index);
            }
        }
        let both = added.iter().filter_map(|&i| left.vars[i].as_ref().zip(right.vars[i].as_ref()));
        let rows: Vec<_> = both.map(|(left, right)| (left, right.as_tensor(), right.as_tensor())).collect();
        combine_all(cpu, Combination::PlusScaled(1.0), &rows, found_inf)?;
        self.spare.push(right.vars);
        self.nodes.push(Node { height: left.height.max(right.height) + 1, ..left });
        Ok(())
    }

    /// Takes back the memory of a sum that was used.
    pub(super) fn give_back(&mut self, node: Option<Node>) {
        self.spare.extend(node.map(|node| node.vars));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// # Errors
    /// [`Error::MicroBatches`] where a micro-batch was begun and not finished.
    pub(super) fn check_whole(&self) -> Result<()> {
        let why = "a micro-batch of this step failed or was dropped; drop the step";
        if self.whole { Ok(()) } else { Err(Error::MicroBatches(why)) }
    }

    /// Forgets what was added.
    pub(super) fn clear(&mut self) {
        self.whole = true;
        self.spare.extend(self.nodes.drain(..).map(|node| node.vars));
    }
}
