//! How far SAM climbs.

use candle_core::{Device, Tensor, Var};

#[cfg(feature = "cuda")]
use super::cuda;
use super::operands::check;
#[cfg(feature = "cuda")]
use super::operands::operand;
use super::{FoundInf, Neighborhood, perturb, restore};
#[cfg(feature = "cuda")]
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
    /// The ascent for the sum over all parameters of [`power_sums`](super::power_sums).
    ///
    /// # Errors
    /// If candle has no memory for a number.
    pub fn new(ball: &Neighborhood, rho: f64, sum: f64) -> Result<Self> {
        let norm = Tensor::new(sum.powf(1.0 / ball.dual()), &Device::Cpu)?;
        Ok(Self { ball: *ball, scale: Scale::Here(rho / (sum.powf(1.0 / ball.p) + 1e-12)), norm })
    }

    /// The norm (Σ|u|^q)^(1/q): a scalar in `f64`, on the device that computed it.
    pub fn norm(&self) -> &Tensor {
        &self.norm
    }
}

/// Whether a GPU computes the [`ascent()`] of these parameters by itself: all of them are contiguous `f32` on one NVIDIA GPU,
/// with the feature `cuda`. For others there are [`power_sums`](super::power_sums) and [`Ascent::new`].
///
/// # Errors
/// If the GPU cannot be asked.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn supports_ascent(parameters: &[(&Var, &Tensor)]) -> Result<bool> {
    #[cfg(feature = "cuda")]
    return Ok(cuda::device_of(parameters.iter().map(|(w, _)| *w))?.is_some());
    #[cfg(not(feature = "cuda"))]
    Ok(false)
}

/// The ascent for these parameters and gradients, computed by the GPU that holds them: this program does not wait for it. A
/// sum that is not finite goes to `found_inf`, not to this program. Summed in `f64` in an order that depends only on the
/// shapes.
///
/// # Errors
/// A gradient of another shape, type or device than its variable's; [`Error::Unsupported`] unless
/// [`supports_ascent`]; a launch that fails.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn ascent(
    ball: &Neighborhood,
    rho: f64,
    parameters: &[(&Var, &Tensor)],
    found_inf: &FoundInf,
) -> Result<Ascent> {
    parameters.iter().try_for_each(|(w, gradient)| check(w, "gradient", gradient))?;
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::device_of(parameters.iter().map(|(w, _)| *w))? {
        let ascent = cuda::ascent(&device, ball, rho, parameters, found_inf)?;
        let found_inf = found_inf.on(ascent.device())?;
        let norm = ascent.get(0)?;
        return Ok(Ascent { ball: *ball, scale: Scale::OnGpu { ascent, found_inf }, norm });
    }
    let describe = |(w, _): &(&Var, &Tensor)| format!("{:?} on {:?}", w.dtype(), w.device().location());
    let found = parameters.first().map_or("no parameters".to_string(), describe);
    Err(Error::Unsupported { operation: "ascent", expected: "contiguous f32 on one NVIDIA GPU", found })
}

/// [`perturb`] of several parameters, each given as (w, `old`, gradient), by an [`Ascent`].
///
/// # Errors
/// As [`perturb`]; nothing has moved then.
pub fn perturb_all(cpu: &Cpu, ascent: &Ascent, parameters: &[(&Var, &Var, &Tensor)]) -> Result<()> {
    match &ascent.scale {
        Scale::Here(scale) => {
            for (index, (w, old, gradient)) in parameters.iter().enumerate() {
                if let Err(error) = perturb(cpu, w, old, gradient, &ascent.ball, *scale) {
                    for (w, old, _) in &parameters[..index] {
                        restore(w, old)?;
                    }
                    return Err(error);
                }
            }
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Scale::OnGpu { ascent: numbers, found_inf } => {
            let checked = parameters.iter().map(|&(w, old, gradient)| {
                operand(w, gradient, &[("old", old)]).map(|gradient| (w, old, gradient))
            });
            let parameters = checked.collect::<Result<Vec<_>>>()?;
            let Some(device) = cuda::device_of(parameters.iter().flat_map(|(w, old, _)| [*w, *old]))? else {
                return parameters.first().map_or(Ok(()), |(w, ..)| Err(not_of_the_ascent(w)));
            };
            let elements = parameters.iter().map(|(w, ..)| w.elem_count()).sum();
            let _span = span::enter("perturb", "all parameters", Cost::passes(3, elements));
            cuda::perturb(&device, &ascent.ball, numbers, found_inf, &parameters)
        }
    }
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
