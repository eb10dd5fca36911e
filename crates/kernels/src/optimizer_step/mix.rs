//! What becomes of two gradients: their dot products, the factors that follow from these, and sums of tensors.

use candle_core::{Device, Tensor, Var};

#[cfg(feature = "cuda")]
use super::cuda;
use super::operands::{check, operand};
use super::{FoundInf, cpu, is_fused, plain};
use crate::span::{self, Cost};
use crate::{Cpu, Error, Result};

/// Added to what is divided by.
const EPSILON: f64 = 1e-12;

/// How two vectors over all parameters, x and y, become one, α x + β y.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// α and β as they are.
    Fixed(f64, f64),
    /// y - alpha · (x - c y), c = x·y / (y·y + 1e-12): GSAM's descent from x = g1 and y = g2.
    SurrogateGap {
        /// The weight of the part of x that is orthogonal to y.
        alpha: f64,
    },
    /// x + alpha · ‖x‖₂ / (‖y‖₂ + 1e-12) · y: LookSAM's descent without a second pass, from x = g1 and what it keeps, y.
    Reuse {
        /// The length of the part along y, relative to x.
        alpha: f64,
    },
    /// y - x·y / (x·x + 1e-12) · x: what LookSAM keeps of y = g2 beside x = g1.
    Beside,
}

impl Rule {
    /// α and β for (x·x, x·y, y·y).
    fn factors(self, [xx, xy, yy]: [f64; 3]) -> [f64; 2] {
        match self {
            Self::Fixed(x, y) => [x, y],
            Self::SurrogateGap { alpha } => [-alpha, 1.0 + alpha * xy / (yy + EPSILON)],
            Self::Reuse { alpha } => [1.0, alpha * xx.sqrt() / (yy.sqrt() + EPSILON)],
            Self::Beside => [-xy / (xx + EPSILON), 1.0],
        }
    }
}

/// x·x, x·y and y·y of two vectors over all parameters, known to whoever computed them: to this program, or to a GPU that is
/// not waited for.
#[derive(Clone, Debug)]
pub enum Dots {
    /// To this program.
    Here([f64; 3]),
    /// To a GPU, in partial sums.
    #[cfg(feature = "cuda")]
    OnGpu {
        /// One row for each block.
        partials: Tensor,
        /// The note of what was not finite.
        found_inf: Tensor,
        /// The step under way.
        step: f64,
    },
}

/// The factors α and β of a [`Rule`], known to whoever computed them.
#[derive(Clone, Debug)]
pub struct Mix {
    pub(super) factors: Factors,
    norm: Tensor,
    cosine: Tensor,
}

#[derive(Clone, Debug)]
pub(super) enum Factors {
    Here([f64; 2]),
    /// `[4]` in `f64`: both, the norm and the cosine.
    #[cfg(feature = "cuda")]
    OnGpu(Tensor),
}

impl Dots {
    /// The factors that `rule` gives, both multiplied by min(1, clip / (‖α x + β y‖₂ + 1e-6)) where there is a `clip`.
    ///
    /// # Errors
    /// If candle has no memory for a number; a launch that fails.
    pub fn mix(&self, rule: Rule, clip: Option<f64>) -> Result<Mix> {
        let clip = clip.unwrap_or(f64::INFINITY);
        match self {
            &Self::Here([xx, xy, yy]) => {
                let [x, y] = rule.factors([xx, xy, yy]);
                let norm = (x * x * xx + 2.0 * x * y * xy + y * y * yy).max(0.0).sqrt();
                let shorter = (clip / (norm + 1e-6)).min(1.0);
                let scalar = |value: f64| Tensor::new(value, &Device::Cpu);
                Ok(Mix {
                    factors: Factors::Here([x * shorter, y * shorter]),
                    norm: scalar(norm)?,
                    cosine: scalar(xy / (xx.sqrt() * yy.sqrt() + EPSILON))?,
                })
            }
            #[cfg(feature = "cuda")]
            Self::OnGpu { partials, found_inf, step } => {
                let numbers = cuda::factors(partials, found_inf, *step, rule, clip)?;
                let (norm, cosine) = (numbers.get(2)?, numbers.get(3)?);
                Ok(Mix { factors: Factors::OnGpu(numbers), norm, cosine })
            }
        }
    }
}

impl Mix {
    /// ‖α x + β y‖₂ before it is clipped: a scalar in `f64`, on the device that computed it.
    pub fn norm(&self) -> &Tensor {
        &self.norm
    }

    /// x·y / (‖x‖₂ ‖y‖₂ + 1e-12): a scalar in `f64`, on the device that computed it.
    pub fn cosine(&self) -> &Tensor {
        &self.cosine
    }
}

/// The dot products of x and y, each parameter given as (x, y). Summed in `f64` in an order that depends only on the shapes.
/// Beside the sums over all come those of each parameter, unless a GPU has them: that is not waited for, and
/// [`Dots::mix`] lets it note a sum that is not finite in `found_inf`.
///
/// # Errors
/// An x of another shape, type or device than its y.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use wrn_sam_kernels::Cpu;
/// use wrn_sam_kernels::optimizer_step::{FoundInf, Rule, dots};
/// let (x, y) = (Tensor::new(&[3f32, 4.], &Device::Cpu)?, Tensor::new(&[1f32, 0.], &Device::Cpu)?);
/// let (dots, _) = dots(Cpu::shared(), &[(&x, &y)], &FoundInf::default())?;
/// let mix = dots.mix(Rule::Fixed(1.0, -3.0), None)?;
/// assert_eq!(mix.norm().to_scalar::<f64>()?, 4.0);
/// assert!((mix.cosine().to_scalar::<f64>()? - 0.6).abs() < 1e-9);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn dots(
    cpu: &Cpu,
    pairs: &[(&Tensor, &Tensor)],
    found_inf: &FoundInf,
) -> Result<(Dots, Option<Vec<[f64; 3]>>)> {
    pairs.iter().try_for_each(|(x, y)| check(y, "x", x))?;
    let whole = |tensor: &Tensor| tensor.contiguous();
    let pairs = pairs.iter().map(|(x, y)| Ok((whole(x)?, whole(y)?))).collect::<Result<Vec<_>>>()?;
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::device_of(pairs.iter().flat_map(|(x, y)| [x, y]))? {
        let (partials, found_inf, step) = cuda::dots(&device, &pairs, found_inf)?;
        return Ok((Dots::OnGpu { partials, found_inf, step }, None));
    }
    let mut each = vec![[0.0; 3]; pairs.len()];
    let (mut rest, mut others) = (Vec::new(), Vec::new());
    for (index, (x, y)) in pairs.iter().enumerate() {
        if is_fused(y) {
            let _span = span::enter("dots", "a parameter", Cost::passes(2, y.elem_count()));
            each[index] = cpu::dots(cpu, x, y)?;
        } else {
            rest.push(index);
            others.push((x, y));
        }
    }
    for (index, sums) in rest.into_iter().zip(plain::dots(&others)?) {
        each[index] = sums;
    }
    let sum = |i: usize| each.iter().map(|sums| sums[i]).sum();
    Ok((Dots::Here([sum(0), sum(1), sum(2)]), Some(each)))
}

/// What [`combine_all`] makes of a variable and two tensors x and y.
#[derive(Clone, Copy, Debug)]
pub enum Combination<'a> {
    /// share · (α x + β y), α and β those of the mix.
    Mixed(&'a Mix, f64),
    /// What is there, and that.
    Plus(&'a Mix, f64),
    /// share · x.
    Scaled(f64),
    /// What is there, and that: v + share · x.
    PlusScaled(f64),
    /// v + share · (x - v), the way of share from what is there to x.
    Toward(f64),
}

impl Combination<'_> {
    /// The factors of x and y where they are known here, with the share in them.
    pub(super) fn factors_here(&self) -> Option<[f64; 2]> {
        match self {
            Self::Scaled(share) | Self::PlusScaled(share) | Self::Toward(share) => Some([*share, 0.0]),
            Self::Mixed(mix, share) | Self::Plus(mix, share) => match mix.factors {
                Factors::Here([x, y]) => Some([x * share, y * share]),
                #[cfg(feature = "cuda")]
                Factors::OnGpu(_) => None,
            },
        }
    }
}

/// Writes a [`Combination`] of every variable v, each given as (v, x, y); where the combination has no y, that is not read.
/// On a GPU nothing is written once `found_inf` has noted something that was not finite.
///
/// # Errors
/// An x or y of another shape, type or device than v, or one that shares its memory with it; factors that a GPU has for
/// variables that are elsewhere. Nothing is written then.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use wrn_sam_kernels::Cpu;
/// use wrn_sam_kernels::optimizer_step::{Combination, FoundInf, combine_all};
/// let (average, x) = (Var::new(&[1f32, 2.], &Device::Cpu)?, Tensor::new(&[3f32, 2.], &Device::Cpu)?);
/// combine_all(Cpu::shared(), Combination::Toward(0.25), &[(&average, &x, &x)], &FoundInf::default())?;
/// assert_eq!(average.to_vec1::<f32>()?, [1.5, 2.]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn combine_all(
    cpu: &Cpu,
    combination: Combination<'_>,
    rows: &[(&Var, &Tensor, &Tensor)],
    found_inf: &FoundInf,
) -> Result<()> {
    let checked = rows.iter().map(|&(v, x, y)| Ok((v, operand(v, x, &[])?, operand(v, y, &[])?)));
    let rows = checked.collect::<Result<Vec<_>>>()?;
    let Some((first, ..)) = rows.first() else { return Ok(()) };
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::device_of(rows.iter().map(|(v, ..)| v.as_tensor()))? {
        let elements = rows.iter().map(|(v, ..)| v.elem_count()).sum();
        let _span = span::enter("combine", "all parameters", Cost::passes(3, elements));
        return cuda::combine(&device, &combination, &rows, found_inf);
    }
    let Some(factors) = combination.factors_here() else {
        let found = format!("{:?}", first.device().location());
        let expected = "variables on the GPU that has the factors";
        return Err(Error::Unsupported { operation: "combine", expected, found });
    };
    for (v, x, y) in &rows {
        if is_fused(v) {
            let _span = span::enter("combine", "a parameter", Cost::passes(3, v.elem_count()));
            cpu::combine(cpu, &combination, v, x, y, factors)?;
        } else {
            plain::combine(&combination, v, x, y, factors)?;
        }
    }
    Ok(())
}
