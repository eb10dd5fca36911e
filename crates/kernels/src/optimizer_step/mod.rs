//! The passes of an optimizer step over a variable and its gradient: SAM's ascent and return, SGD, AdamW.
//!
//! A step reads and writes every parameter of a network several times and computes next to nothing, so
//! what it costs is memory traffic. Here every pass reads each of its operands once and allocates nothing,
//! and the return from SAM's ascent moves no memory at all: [`perturb`] leaves the weights in the buffer they
//! were in and writes the perturbed ones to the other, so that [`restore`] only exchanges the two.
//!
//! Contiguous `f32` on the CPU takes these passes (`cpu.rs`), and on an NVIDIA GPU kernels that take all parameters
//! at once (`cuda.cu`, by way of [`ascent`], [`perturb_all`], [`sgd_all`] and [`adamw_all`]) and never wait; any other
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
mod operands;
mod plain;
#[cfg(test)]
mod tests;

use candle_core::{DType, Tensor, Var};

pub use ascent::{Ascent, ascent, perturb_all, supports_ascent};
pub use copy::copy_all;
pub use found_inf::FoundInf;

use operands::{adamw_operand, check_state, operand, sgd_operand};

use crate::span::{self, Cost};
use crate::{Cpu, Result};

/// The ball ‖e‖ₚ ≤ ρ around the weights in which SAM looks for the largest loss
/// (Foret et al., <https://arxiv.org/abs/2010.01412>, section 2), adaptive to the weights' sizes or not
/// (Kwon et al., <https://arxiv.org/abs/2102.11600>).
///
/// With 1/p + 1/q = 1, the gradient g, and u = g, or u = |w|·g where adaptive, the loss grows fastest to
/// first order at
///
/// e = ρ sign(u) |u|^(q-1) / (Σ|u|^q)^(1/p), times |w| where adaptive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighborhood {
    /// The norm's exponent, in (1, ∞]. 2 is the usual one: e = ρ u / ‖u‖₂. With ∞, e = ρ sign(u).
    pub p: f64,
    /// Whether the ball is measured in units of each weight's size.
    pub adaptive: bool,
}

impl Neighborhood {
    /// q of 1/p + 1/q = 1.
    pub fn dual(&self) -> f64 {
        if self.p.is_infinite() { 1.0 } else { self.p / (self.p - 1.0) }
    }
}

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

/// Σ|u|^q of every variable and its gradient (see [`Neighborhood`]); the squared norm of the gradient for
/// p = 2, not adaptive. Summed in `f64` in an order that depends only on the shapes.
///
/// # Errors
/// A gradient of another shape, type or device than its variable's.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::Cpu;
/// use wrn_sam_kernels::optimizer_step::{Neighborhood, power_sums};
/// let w = Var::new(&[1f32, 2.], &Device::Cpu)?;
/// let gradient = Tensor::new(&[3f32, 4.], &Device::Cpu)?;
/// let ball = Neighborhood { p: 2.0, adaptive: false };
/// assert_eq!(power_sums(Cpu::shared(), &ball, &[(&w, &gradient)])?, [25.0]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn power_sums(cpu: &Cpu, ball: &Neighborhood, parameters: &[(&Var, &Tensor)]) -> Result<Vec<f64>> {
    let gradients = parameters.iter().map(|(w, gradient)| operand(w, gradient, &[]));
    let gradients = gradients.collect::<Result<Vec<_>>>()?;
    let parameters: Vec<_> =
        parameters.iter().zip(&gradients).map(|((w, _), gradient)| (*w, gradient)).collect();
    let mut sums = vec![0.0; parameters.len()];
    let mut rest = Vec::new();
    for (index, (w, gradient)) in parameters.iter().enumerate() {
        if is_fused(w) {
            let streams = if ball.adaptive { 2 } else { 1 };
            let _span = span::enter("power_sums", "a parameter", Cost::passes(streams, w.elem_count()));
            sums[index] = cpu::power_sum(cpu, ball, w, gradient)?;
        } else {
            rest.push(index);
        }
    }
    let others: Vec<_> = rest.iter().map(|&index| parameters[index]).collect();
    for (index, sum) in rest.into_iter().zip(plain::power_sums(ball, &others)?) {
        sums[index] = sum;
    }
    Ok(sums)
}

/// SAM's ascent: w ← w + `scale` · sign(u) |u|^(q-1), times |w| where adaptive, with the weights as they
/// were left in `old`. What `old` held before does not matter.
///
/// # Errors
/// A gradient or `old` of another shape, type or device than the variable's, or an `old` that is `w` itself or shares
/// its memory with the gradient.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::Cpu;
/// use wrn_sam_kernels::optimizer_step::{Neighborhood, perturb, restore};
/// let (w, old) = (Var::new(&[1f32, 2.], &Device::Cpu)?, Var::new(&[0f32, 0.], &Device::Cpu)?);
/// let gradient = Tensor::new(&[3f32, 4.], &Device::Cpu)?;
/// let ball = Neighborhood { p: 2.0, adaptive: false };
/// perturb(Cpu::shared(), &w, &old, &gradient, &ball, 0.25)?;
/// assert_eq!(w.to_vec1::<f32>()?, [1.75, 3.]);
/// restore(&w, &old)?;
/// assert_eq!(w.to_vec1::<f32>()?, [1., 2.]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn perturb(
    cpu: &Cpu,
    w: &Var,
    old: &Var,
    gradient: &Tensor,
    ball: &Neighborhood,
    scale: f64,
) -> Result<()> {
    let gradient = operand(w, gradient, &[("old", old)])?;
    if is_fused(w) {
        let _span = span::enter("perturb", "a parameter", Cost::passes(3, w.elem_count()));
        cpu::perturb(cpu, w, old, &gradient, ball, scale)
    } else {
        plain::perturb(w, old, &gradient, ball, scale)
    }
}

/// Returns from [`perturb`]: w ← `old`, to the bit. What `old` holds afterwards is unspecified.
///
/// # Errors
/// As [`perturb`].
pub fn restore(w: &Var, old: &Var) -> Result<()> {
    check_state(w, "old", old)?;
    #[cfg(feature = "cuda")]
    if cuda::device_of([w, old].into_iter())?.is_some() {
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
    if let Some(device) =
        cuda::device_of(parameters.iter().flat_map(|(w, _, buffer)| std::iter::once(*w).chain(*buffer)))?
    {
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
    if let Some(device) = cuda::device_of(parameters.iter().flat_map(|(w, _, m, v)| [*w, *m, *v]))? {
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
fn is_fused(w: &Var) -> bool {
    w.device().is_cpu() && w.dtype() == DType::F32 && w.is_contiguous()
}
