//! The passes in plain candle operations, for any device and floating-point type.

use candle_core::{DType, Device, Tensor, Var};

use super::{AdamWStep, Combination, Neighborhood, SgdStep, Size, Slope};
use crate::Result;

pub(super) fn power_sums(ball: &Neighborhood, slopes: &[Slope<'_>]) -> Result<Vec<f64>> {
    let Some(first) = slopes.first() else { return Ok(Vec::new()) };
    let q = ball.dual();
    let device = first.w.device();
    let wide = wide_type(device);
    let sum = |slope: &Slope<'_>| {
        let u = (size_of(slope, wide)? * direction_of(ball, slope, wide)?)?.abs()?;
        let powers = if q == 2.0 { u.sqr()? } else { u.powf(q)? };
        powers.sum_all()?.to_device(device)
    };
    let sums = slopes.iter().map(sum).collect::<candle_core::Result<Vec<_>>>()?;
    // One transfer for all of them: each makes a GPU wait.
    Ok(Tensor::stack(&sums, 0)?.to_dtype(DType::F64)?.to_vec1()?)
}

/// `scale` has the slope's factor in it.
pub(super) fn perturb(slope: &Slope<'_>, old: &Var, ball: &Neighborhood, scale: f64) -> Result<()> {
    old.set(&slope.w.as_detached_tensor())?;
    let size = size_of(slope, old.dtype())?;
    let u = (&size * direction_of(ball, slope, old.dtype())?)?;
    let q = ball.dual();
    let direction = if q == 2.0 { u } else { (u.sign()? * u.abs()?.powf(q - 1.0)?)? };
    let ascent = ((direction * scale)? * size)?;
    Ok(slope.w.set(&(old.as_detached_tensor() + ascent)?)?)
}

pub(super) fn dots(pairs: &[(&Tensor, &Tensor)]) -> Result<Vec<[f64; 3]>> {
    let Some((first, _)) = pairs.first() else { return Ok(Vec::new()) };
    let wide = wide_type(first.device());
    let mut sums = Vec::new();
    for (x, y) in pairs {
        let (x, y) = (x.detach().to_dtype(wide)?, y.detach().to_dtype(wide)?);
        for product in [x.sqr()?, (&x * &y)?, y.sqr()?] {
            sums.push(product.sum_all()?.to_device(first.device())?);
        }
    }
    let sums = Tensor::stack(&sums, 0)?.to_dtype(DType::F64)?.to_vec1()?;
    Ok(sums.as_chunks::<3>().0.to_vec())
}

/// `factors` are those of x and y, with the share in them.
pub(super) fn combine(
    combination: &Combination<'_>,
    v: &Var,
    x: &Tensor,
    y: &Tensor,
    [of_x, of_y]: [f64; 2],
) -> Result<()> {
    let (old, x, y) = (v.as_detached_tensor(), x.detach(), y.detach());
    let new = match combination {
        Combination::Mixed(..) => ((x * of_x)? + (y * of_y)?)?,
        Combination::Plus(..) => (old + ((x * of_x)? + (y * of_y)?)?)?,
        Combination::Scaled(_) => (x * of_x)?,
        Combination::PlusScaled(_) => (old + (x * of_x)?)?,
        Combination::Toward(_) => (&old + ((x - &old)? * of_x)?)?,
    };
    Ok(v.set(&new)?)
}

pub(super) fn restore(w: &Var, old: &Var) -> Result<()> {
    Ok(w.set(&old.as_detached_tensor())?)
}

pub(super) fn sgd(w: &Var, gradient: &Tensor, buffer: Option<&Var>, step: &SgdStep) -> Result<()> {
    let weights = w.as_detached_tensor();
    let d = (gradient + (&weights * step.weight_decay)?)?;
    let direction = match buffer {
        None => d,
        Some(buffer) => {
            let b = ((buffer.as_detached_tensor() * step.momentum)? + (&d * (1.0 - step.dampening))?)?;
            buffer.set(&b)?;
            if step.nesterov { (d + (b * step.momentum)?)? } else { b }
        }
    };
    Ok(w.set(&(weights - (direction * step.learning_rate)?)?)?)
}

pub(super) fn adamw(w: &Var, gradient: &Tensor, m: &Var, v: &Var, step: &AdamWStep) -> Result<()> {
    let (mean, square) = (m.as_detached_tensor(), v.as_detached_tensor());
    let mean = (&mean + ((gradient - &mean)? * (1.0 - step.beta1))?)?;
    let square = ((square * step.beta2)? + (gradient.sqr()? * (1.0 - step.beta2))?)?;
    let (rate, root) = step.corrections();
    let denominator = ((square.sqrt()? / root)? + step.epsilon)?;
    let decayed = (w.as_detached_tensor() * (1.0 - step.learning_rate * step.weight_decay))?;
    w.set(&(decayed - ((&mean / denominator)? * rate)?)?)?;
    m.set(&mean)?;
    Ok(v.set(&square)?)
}

/// What sums are computed in: Metal has no `f64`.
fn wide_type(device: &Device) -> DType {
    if device.is_metal() { DType::F32 } else { DType::F64 }
}

/// a of [`Neighborhood`].
fn direction_of(ball: &Neighborhood, slope: &Slope<'_>, dtype: DType) -> candle_core::Result<Tensor> {
    let gradient = slope.gradient.detach().to_dtype(dtype)?;
    let Some(memory) = slope.memory else { return Ok(gradient) };
    (gradient * ball.gradient)? + (memory.as_detached_tensor().to_dtype(dtype)? * ball.memory)?
}

/// T of [`Neighborhood`].
fn size_of(slope: &Slope<'_>, dtype: DType) -> candle_core::Result<Tensor> {
    let weights = slope.w.as_detached_tensor().to_dtype(dtype)?;
    match slope.size {
        Size::Constant(t) => weights.ones_like()? * t,
        Size::Weights { eta } => weights.abs()? + eta,
    }
}
