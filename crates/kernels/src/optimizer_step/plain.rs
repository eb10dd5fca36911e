//! The passes in plain candle operations, for any device and floating-point type.

use candle_core::{DType, Tensor, Var};

use super::{AdamWStep, Neighborhood, SgdStep};
use crate::Result;

pub(super) fn power_sums(ball: &Neighborhood, parameters: &[(&Var, &Tensor)]) -> Result<Vec<f64>> {
    let Some((first, _)) = parameters.first() else { return Ok(Vec::new()) };
    let q = ball.dual();
    // Metal has no f64.
    let wide = if first.device().is_metal() { DType::F32 } else { DType::F64 };
    let sum = |(w, gradient): &(&Var, &Tensor)| {
        let u = direction_of(ball, &w.to_dtype(wide)?, &gradient.to_dtype(wide)?)?.abs()?;
        let powers = if q == 2.0 { u.sqr()? } else { u.powf(q)? };
        powers.sum_all()?.to_device(first.device())
    };
    let sums = parameters.iter().map(sum).collect::<candle_core::Result<Vec<_>>>()?;
    // One transfer for all of them: each makes a GPU wait.
    Ok(Tensor::stack(&sums, 0)?.to_dtype(DType::F64)?.to_vec1()?)
}

pub(super) fn perturb(w: &Var, old: &Var, gradient: &Tensor, ball: &Neighborhood, scale: f64) -> Result<()> {
    old.set(&w.as_detached_tensor())?;
    let weights = old.as_detached_tensor();
    let u = direction_of(ball, &weights, gradient)?;
    let q = ball.dual();
    let direction = if q == 2.0 { u } else { (u.sign()? * u.abs()?.powf(q - 1.0)?)? };
    let ascent = (direction * scale)?;
    let ascent = if ball.adaptive { (ascent * weights.abs()?)? } else { ascent };
    Ok(w.set(&(weights + ascent)?)?)
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

/// u of [`Neighborhood`].
fn direction_of(ball: &Neighborhood, w: &Tensor, gradient: &Tensor) -> candle_core::Result<Tensor> {
    if ball.adaptive { w.detach().abs()? * gradient } else { Ok(gradient.clone()) }
}
