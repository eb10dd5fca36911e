//! The passes of an optimizer step over variables and their gradients: the ascents and descents of the SAM family, SGD,
//! AdamW.
//!
//! A step reads and writes every parameter of a network several times and computes next to nothing, so
//! what it costs is memory traffic. Here every pass reads each of its operands once and allocates nothing,
//! and the return from SAM's ascent moves no memory at all: [`perturb_all`] leaves the weights in the buffer they
//! were in and writes the perturbed ones to the other, so that [`restore`] only exchanges the two.
//!
//! Contiguous `f32` on the CPU takes these passes (`cpu.rs`), and on an NVIDIA GPU kernels that take all parameters
//! at once (`cuda.cu`) and never wait; any other
//! device or element type takes the same arithmetic as plain candle operations (`plain.rs`), which is also what
//! the tests compare with.

mod ascent;
mod copy;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;
mod found_inf;
mod mix;
mod neighborhood;
mod operands;
mod plain;
#[cfg(test)]
mod tests;

use candle_core::{DType, Tensor, Var};

pub use ascent::{Ascent, ascent, perturb_all, power_sums, supports_ascent};
pub use copy::copy_all;
pub use found_inf::FoundInf;
pub use mix::{Combination, Dots, Mix, Rule, combine_all, dots};
pub use neighborhood::{Neighborhood, Size, Slope};

use operands::{adamw_operand, check_state, sgd_operand};

use crate::span::{self, Cost};
use crate::{Cpu, Result};

/// The constants of one step of stochastic gradient descent, as PyTorch's `SGD` has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// The learning rate.
    pub learning_rate: f64,
    /// What part of the momentum buffer stays.
    pub momentum: f64,
    /// What part of the gradient does not enter the momentum buffer.
    pub dampening: f64,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
    /// What part of the weight is added to the gradient.
    pub weight_decay: f64,
}

/// The constants of one step of AdamW, as PyTorch's `AdamW` has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// The learning rate.
    pub learning_rate: f64,
    /// What part of the mean of the gradients stays.
    pub beta1: f64,
    /// What part of the mean of the squared gradients stays.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// What part of the weight the step takes away, times the learning rate.
    pub weight_decay: f64,
    /// The number of this step, from 1.
    pub step: u64,
}

impl AdamWStep {
    /// The learning rate over the first moment's bias, and the root of the second's.
    fn corrections(&self) -> (f64, f64) {
        let bias = |beta: f64| 1.0 - beta.powf(self.step as f64);
        (self.learning_rate / bias(self.beta1), bias(self.beta2).sqrt())
    }
}

/// Returns from [`perturb_all`]: w ← `old`, to the bit. What `old` holds afterwards is unspecified.
///
/// # Errors
/// As [`perturb_all`].
pub fn restore(w: &Var, old: &Var) -> Result<()> {
    check_state(w, "old", old)?;
    #[cfg(feature = "cuda")]
    if cuda::device_of([w, old].into_iter().map(Var::as_tensor))?.is_some() {
        return cuda::exchange(w, old);
    }
    if is_fused(w) { cpu::restore(w, old) } else { plain::restore(w, old) }
}

/// A step of stochastic gradient descent:
///
/// d = gradient + weight_decay · w;  b ← momentum · b + (1 - dampening) · d;
/// w ← w - learning_rate · (b, or d + momentum · b with Nesterov).
///
/// Without a momentum buffer `b`, w ← w - learning_rate · d. For a first step as PyTorch's, b = d, hand in a
/// buffer of zeros and no dampening.
///
/// # Errors
/// A gradient or buffer of another shape, type or device than the variable's, or a buffer that is `w` itself or shares
/// its memory with the gradient.
pub fn sgd(cpu: &Cpu, w: &Var, gradient: &Tensor, buffer: Option<&Var>, step: &SgdStep) -> Result<()> {
    let gradient = sgd_operand(w, gradient, buffer)?;
    if is_fused(w) {
        let streams = if buffer.is_some() { 5 } else { 3 };
        let _span = span::enter("sgd", "a parameter", Cost::passes(streams, w.elem_count()));
        cpu::sgd(cpu, w, &gradient, buffer, step)
    } else {
        plain::sgd(w, &gradient, buffer, step)
    }
}

/// A step of AdamW (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>), with the gradient g and the
/// step's number t:
///
/// w ← (1 - learning_rate · weight_decay) · w;  m ← m + (1 - beta1) (g - m);  v ← beta2 · v + (1 - beta2) g²;
/// w ← w - learning_rate / (1 - beta1ᵗ) · m / (√v / √(1 - beta2ᵗ) + epsilon).
///
/// # Errors
/// A gradient, `m` or `v` of another shape, type or device than the variable's, two of the variables the same one, or a
/// gradient that shares its memory with `m` or `v`.
pub fn adamw(cpu: &Cpu, w: &Var, gradient: &Tensor, m: &Var, v: &Var, step: &AdamWStep) -> Result<()> {
    let gradient = adamw_operand(w, gradient, m, v)?;
    if is_fused(w) {
        let _span = span::enter("adamw", "a parameter", Cost::passes(7, w.elem_count()));
        cpu::adamw(cpu, w, &gradient, m, v, step)
    } else {
        plain::adamw(w, &gradient, m, v, step)
    }
}

/// [`sgd`] of several parameters, each given as (w, gradient, momentum buffer).
///
/// # Errors
/// As [`sgd`]; on a GPU nothing has moved then, elsewhere the parameters before the one at fault.
pub fn sgd_all(cpu: &Cpu, parameters: &[(&Var, &Tensor, Option<&Var>)], step: &SgdStep) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::device_of(
        parameters.iter().flat_map(|(w, _, buffer)| std::iter::once(*w).chain(*buffer)).map(Var::as_tensor),
    )? {
        let checked = parameters.iter().map(|&(w, gradient, buffer)| {
            sgd_operand(w, gradient, buffer).map(|gradient| (w, gradient, buffer))
        });
        let parameters = checked.collect::<Result<Vec<_>>>()?;
        let elements = parameters.iter().map(|(w, ..)| w.elem_count()).sum();
        let _span = span::enter("sgd", "all parameters", Cost::passes(5, elements));
        return cuda::sgd(&device, &parameters, step);
    }
    parameters.iter().try_for_each(|&(w, gradient, buffer)| sgd(cpu, w, gradient, buffer, step))
}

/// [`adamw`] of several parameters at the same step, each given as (w, gradient, m, v).
///
/// # Errors
/// As [`adamw`]; on a GPU nothing has moved then, elsewhere the parameters before the one at fault.
pub fn adamw_all(cpu: &Cpu, parameters: &[(&Var, &Tensor, &Var, &Var)], step: &AdamWStep) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(device) =
        cuda::device_of(parameters.iter().flat_map(|(w, _, m, v)| [*w, *m, *v]).map(Var::as_tensor))?
    {
        let checked = parameters
            .iter()
            .map(|&(w, gradient, m, v)| adamw_operand(w, gradient, m, v).map(|gradient| (w, gradient, m, v)));
        let parameters = checked.collect::<Result<Vec<_>>>()?;
        let elements = parameters.iter().map(|(w, ..)| w.elem_count()).sum();
        let _span = span::enter("adamw", "all parameters", Cost::passes(7, elements));
        return cuda::adamw(&device, &parameters, step);
    }
    parameters.iter().try_for_each(|&(w, gradient, m, v)| adamw(cpu, w, gradient, m, v, step))
}

/// Whether `w`, and so everything checked against it, takes the passes of `cpu.rs`.
fn is_fused(w: &Tensor) -> bool {
    w.device().is_cpu() && w.dtype() == DType::F32 && w.is_contiguous()
}
