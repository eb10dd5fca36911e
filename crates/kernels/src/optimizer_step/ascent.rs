//! How far SAM climbs, and the climb.

use candle_core::{Device, Tensor, Var};

#[cfg(feature = "cuda")]
use super::cuda;
use super::operands::check_state;
use super::{FoundInf, Neighborhood, Slope, cpu, is_fused, plain, restore};
use crate::span::{self, Cost};
use crate::{Cpu, Error, Result};

/// How far SAM climbs, known to whoever computed it: to this program, or to a GPU that is not waited for.
#[derive(Clone, Debug)]
pub struct Ascent {
    ball: Neighborhood,
    scale: Scale,
    norm: Tensor,
}

#[derive(Clone, Debug)]
enum Scale {
    Here(f64),
    /// The norm and the scale, and the note of what was not finite.
    #[cfg(feature = "cuda")]
    OnGpu {
        ascent: Tensor,
        found_inf: Tensor,
    },
}

impl Ascent {
    /// The ascent for the sum over all parameters of [`power_sums`].
    ///
    /// # Errors
    /// If candle has no memory for a number.
    pub fn new(ball: &Neighborhood, rho: f64, sum: f64) -> Result<Self> {
        let norm = Tensor::new(sum.powf(1.0 / ball.dual()), &Device::Cpu)?;
        let divisor = if ball.normalize { sum.powf(1.0 / ball.p) + 1e-12 } else { 1.0 };
        Ok(Self { ball: *ball, scale: Scale::Here(rho / divisor), norm })
    }

    /// The norm (Σ|u|^q)^(1/q): a scalar in `f64`, on the device that computed it.
    pub fn norm(&self) -> &Tensor {
        &self.norm
    }
}

/// Σ|u|^q of every slope (see [`Neighborhood`]); the squared norm of the gradient for p = 2 in plain units. Summed in `f64`
/// in an order that depends only on the shapes.
///
/// # Errors
/// A gradient or memory of another shape, type or device than its variable's.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::Cpu;
/// use wrn_sam_kernels::optimizer_step::{Neighborhood, Slope, power_sums};
/// let w = Var::new(&[1f32, 2.], &Device::Cpu)?;
/// let gradient = Tensor::new(&[3f32, 4.], &Device::Cpu)?;
/// assert_eq!(power_sums(Cpu::shared(), &Neighborhood::new(2.0), &[Slope::new(&w, &gradient)])?, [25.0]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn power_sums(cpu: &Cpu, ball: &Neighborhood, slopes: &[Slope<'_>]) -> Result<Vec<f64>> {
    let gradients = slopes.iter().map(|slope| slope.operand(None)).collect::<Result<Vec<_>>>()?;
    let mut sums = vec![0.0; slopes.len()];
    let (mut rest, mut others) = (Vec::new(), Vec::new());
    for (index, (slope, gradient)) in slopes.iter().zip(&gradients).enumerate() {
        let slope = Slope { gradient, ..*slope };
        if is_fused(slope.w) {
            let streams = streams_read(&slope);
            let _span = span::enter("power_sums", "a parameter", Cost::passes(streams, slope.w.elem_count()));
            sums[index] = cpu::power_sum(cpu, ball, &slope)?;
        } else {
            rest.push(index);
            others.push(slope);
        }
    }
    for (index, sum) in rest.into_iter().zip(plain::power_sums(ball, &others)?) {
        sums[index] = sum;
    }
    Ok(sums)
}

fn streams_read(slope: &Slope<'_>) -> usize {
    let adaptive = matches!(slope.size, super::Size::Weights { .. });
    1 + usize::from(adaptive) + usize::from(slope.memory.is_some())
}

/// Whether a GPU computes the [`ascent()`] of these slopes by itself: all of their variables are contiguous `f32` on one
/// NVIDIA GPU, with the feature `cuda`. For others there are [`power_sums`] and [`Ascent::new`].
///
/// # Errors
/// If the GPU cannot be asked.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn supports_ascent(slopes: &[Slope<'_>]) -> Result<bool> {
    #[cfg(feature = "cuda")]
    return Ok(cuda::device_of(vars_of(slopes))?.is_some());
    #[cfg(not(feature = "cuda"))]
    Ok(false)
}

/// The ascent for these slopes, computed by the GPU that holds them: this program does not wait for it. A sum that is not
/// finite goes to `found_inf`, not to this program. Summed in `f64` in an order that depends only on the shapes.
///
/// # Errors
/// A gradient or memory of another shape, type or device than its variable's; [`Error::Unsupported`] unless
/// [`supports_ascent`]; a launch that fails.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn ascent(ball: &Neighborhood, rho: f64, slopes: &[Slope<'_>], found_inf: &FoundInf) -> Result<Ascent> {
    let gradients = slopes.iter().map(|slope| slope.operand(None)).collect::<Result<Vec<_>>>()?;
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::device_of(vars_of(slopes))? {
        let slopes: Vec<_> =
            slopes.iter().zip(&gradients).map(|(slope, gradient)| Slope { gradient, ..*slope }).collect();
        let ascent = cuda::ascent(&device, ball, rho, &slopes, found_inf)?;
        let found_inf = found_inf.on(ascent.device())?;
        let norm = ascent.get(0)?;
        return Ok(Ascent { ball: *ball, scale: Scale::OnGpu { ascent, found_inf }, norm });
    }
    let describe = |s: &Slope<'_>| format!("{:?} on {:?}", s.w.dtype(), s.w.device().location());
    let found = slopes.first().map_or("no parameters".to_string(), describe);
    Err(Error::Unsupported { operation: "ascent", expected: "contiguous f32 on one NVIDIA GPU", found })
}

/// SAM's ascent of several parameters, each given by its slope and `old`: w ← w + e (see [`Neighborhood`]), with the weights
/// as they were left in `old`. What `old` held before does not matter.
///
/// # Errors
/// A gradient, memory or `old` of another shape, type or device than the variable's, or an `old` that is `w` itself or
/// shares its memory with the gradient. Nothing has moved then.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::Cpu;
/// use wrn_sam_kernels::optimizer_step::{Ascent, Neighborhood, Slope, perturb_all, restore};
/// let (w, old) = (Var::new(&[1f32, 2.], &Device::Cpu)?, Var::new(&[0f32, 0.], &Device::Cpu)?);
/// let gradient = Tensor::new(&[3f32, 4.], &Device::Cpu)?;
/// let ascent = Ascent::new(&Neighborhood::new(2.0), 1.25, 25.0)?; // the sum that power_sums gives
/// perturb_all(Cpu::shared(), &ascent, &[(Slope::new(&w, &gradient), &old)])?;
/// assert_eq!(w.to_vec1::<f32>()?, [1.75, 3.]);
/// restore(&w, &old)?;
/// assert_eq!(w.to_vec1::<f32>()?, [1., 2.]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn perturb_all(cpu: &Cpu, ascent: &Ascent, parameters: &[(Slope<'_>, &Var)]) -> Result<()> {
    match &ascent.scale {
        Scale::Here(scale) => {
            for (index, (slope, old)) in parameters.iter().enumerate() {
                if let Err(error) = perturb(cpu, slope, old, &ascent.ball, *scale) {
                    for (slope, old) in &parameters[..index] {
                        restore(slope.w, old)?;
                    }
                    return Err(error);
                }
            }
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Scale::OnGpu { ascent: numbers, found_inf } => {
            let gradients = parameters.iter().map(|&(slope, old)| slope.operand(Some(old)));
            let gradients = gradients.collect::<Result<Vec<_>>>()?;
            let parameters: Vec<_> = parameters
                .iter()
                .zip(&gradients)
                .map(|((slope, old), gradient)| (Slope { gradient, ..*slope }, *old))
                .collect();
            let vars = parameters.iter().flat_map(|(s, old)| [Some(s.w), Some(*old), s.memory]).flatten();
            let Some(device) = cuda::device_of(vars.map(Var::as_tensor))? else {
                return parameters.first().map_or(Ok(()), |(slope, _)| Err(not_of_the_ascent(slope.w)));
            };
            let elements = parameters.iter().map(|(slope, _)| slope.w.elem_count()).sum();
            let _span = span::enter("perturb", "all parameters", Cost::passes(3, elements));
            cuda::perturb(&device, &ascent.ball, numbers, found_inf, &parameters)
        }
    }
}

fn perturb(cpu: &Cpu, slope: &Slope<'_>, old: &Var, ball: &Neighborhood, scale: f64) -> Result<()> {
    check_state(slope.w, "old", old)?;
    let slope = Slope { gradient: &slope.operand(Some(old))?, ..*slope };
    if is_fused(slope.w) {
        let streams = 3 + usize::from(slope.memory.is_some());
        let _span = span::enter("perturb", "a parameter", Cost::passes(streams, slope.w.elem_count()));
        cpu::perturb(cpu, &slope, old, ball, scale * slope.factor)
    } else {
        plain::perturb(&slope, old, ball, scale * slope.factor)
    }
}

/// The variables of all slopes.
#[cfg(feature = "cuda")]
fn vars_of<'a>(slopes: &'a [Slope<'_>]) -> impl Iterator<Item = &'a Tensor> {
    slopes.iter().flat_map(|slope| [Some(slope.w), slope.memory]).flatten().map(Var::as_tensor)
}

#[cfg(feature = "cuda")]
fn not_of_the_ascent(w: &Var) -> Error {
    let found = format!("{:?} on {:?}", w.dtype(), w.device().location());
    Error::Unsupported {
        operation: "perturb",
        expected: "the parameters that the ascent was computed of",
        found,
    }
}
