//! Cross entropy against smoothed labels.

use candle_core::{DType, Device, Tensor};
use wrn_sam_kernels::OutOfRange;
use wrn_sam_kernels::cross_entropy::{self, SmoothedLabels, cross_entropy};

use crate::{Error, Result};

/// Which number stands for the distance between the smoothed labels q and the prediction p.
///
/// The two differ by the entropy of q, which is the same for every sample, so their gradients are equal.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// # use wrn_sam_losses::{Convention, smooth_cross_entropy_with};
/// let logits = Tensor::new(&[[0.3f64, -1.2, 0.5]], &Device::Cpu)?;
/// let labels = Tensor::new(&[2u32], &Device::Cpu)?;
/// let loss = |convention| smooth_cross_entropy_with(&logits, &labels, 0.1, convention)?.to_vec1::<f64>();
///
/// let entropy = -0.9 * 0.9f64.ln() - 0.1 * 0.05f64.ln();
/// let difference = loss(Convention::CrossEntropy)?[0] - loss(Convention::KullbackLeibler)?[0];
/// assert!((difference - entropy).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// KL(q‖p) = Σ q (ln q - ln p), zero where the prediction equals the smoothed label: what the original
    /// Wide ResNet + SAM training code reports.
    #[default]
    KullbackLeibler,
    /// H(q, p) = -Σ q ln p, at least the entropy of q: what `torch.nn.CrossEntropyLoss` reports (which
    /// however spreads its smoothing over all K classes, the label's included).
    CrossEntropy,
}

/// The Kullback-Leibler divergence of the prediction from smoothed labels, per sample.
///
/// With the smoothed label q, 1 - smoothing on the label and smoothing / (K - 1) on every other class
/// (Szegedy et al., <https://arxiv.org/abs/1512.00567>), and the prediction p = softmax(logits):
///
/// KL(q‖p) = Σₖ qₖ (ln qₖ - ln pₖ), with 0 ln 0 = 0.
///
/// `logits` are `[N, K]`, `f32` or `f64`, on any device; `labels` `[N]`, `u8`, `u32` or `i64`; the result is
/// `[N]` in the logits' type and differentiable by the logits. Labels are checked on the
/// CPU, unless they and `f32` logits lie on one NVIDIA GPU (feature `cuda`): there one kernel computes loss and gradient,
/// nothing waits, and a label outside `0..K` is no error but makes its loss and gradient NaN. Infinite logits other than
/// all of a row give the limits that mathematics gives; NaN stays NaN.
///
/// # Errors
/// Smoothing outside `[0, 1)`, other shapes or types than these, an empty batch, a label outside `0..K`.
pub fn smooth_cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor> {
    smooth_cross_entropy_with(logits, labels, smoothing, Convention::KullbackLeibler)
}

/// As [`smooth_cross_entropy`], in the [`Convention`] of the caller's choice.
///
/// # Errors
/// As [`smooth_cross_entropy`].
pub fn smooth_cross_entropy_with(
    logits: &Tensor,
    labels: &Tensor,
    smoothing: f64,
    convention: Convention,
) -> Result<Tensor> {
    let classes = check(logits, labels, smoothing)?;
    // q on the label and on every other class.
    let on = 1.0 - smoothing;
    let off = if smoothing > 0.0 { smoothing / (classes - 1) as f64 } else { 0.0 };

    let entropy = -x_ln_x(on) - (classes - 1) as f64 * x_ln_x(off);
    let constant = match convention {
        Convention::KullbackLeibler => -entropy,
        Convention::CrossEntropy => 0.0,
    };
    let on_gpu = logits.device().is_cuda() && labels.device().is_cuda() && logits.dtype() == DType::F32;
    let labels = &if on_gpu { labels.to_dtype(DType::U32)? } else { labels.clone() };
    if cross_entropy::supports(logits, labels) {
        return Ok(cross_entropy(logits, labels, &SmoothedLabels { on, off, constant })?);
    }

    let index = class_index(labels, classes)?.to_device(logits.device())?;
    let log_p = log_softmax(logits)?;
    let of_label = log_p.gather(&index.unsqueeze(1)?, 1)?.squeeze(1)?;
    // Σ q ln p = (on - off) ln p_label + off Σ ln p. Without smoothing the sum is left out, so that a class
    // of probability zero costs nothing rather than 0 · -∞.
    let expected = (of_label * (on - off))?;
    let expected = if off > 0.0 { (expected + (log_p.sum(1)? * off)?)? } else { expected };
    Ok(expected.affine(-1.0, constant)?)
}

/// Checks that a loss can have this `smoothing`: [0, 1).
///
/// # Errors
/// [`Error::OutOfRange`].
pub fn check_smoothing(smoothing: f64) -> Result<()> {
    let expected = "at least 0 and less than 1 (0 for none; 0.1 is usual)";
    Ok(OutOfRange::check("smoothing", smoothing, (0.0..1.0).contains(&smoothing), expected)?)
}

/// Checks everything but the labels' values; returns K.
fn check(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<usize> {
    check_smoothing(smoothing)?;
    let classes = match (logits.dims(), labels.dims()) {
        (&[rows, classes], &[labels]) if rows == labels && rows > 0 && classes > 0 => classes,
        _ => return Err(Error::Shape { logits: logits.shape().clone(), labels: labels.shape().clone() }),
    };
    if !matches!(logits.dtype(), DType::F32 | DType::F64) {
        return Err(Error::DType { what: "logits", expected: "f32 or f64", found: logits.dtype() });
    }
    if !matches!(labels.dtype(), DType::U8 | DType::U32 | DType::I64) {
        return Err(Error::DType { what: "labels", expected: "u8, u32 or i64", found: labels.dtype() });
    }
    if smoothing > 0.0 && classes < 2 {
        return Err(Error::Classes { smoothing, classes });
    }
    Ok(classes)
}

/// The labels as `u32` class indices on the CPU, each checked.
fn class_index(labels: &Tensor, classes: usize) -> Result<Tensor> {
    let labels: Vec<i64> = labels.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.to_vec1()?;
    let index = |(row, label)| match u32::try_from(label) {
        Ok(index) if (index as usize) < classes => Ok(index),
        _ => Err(Error::Label { row, label, classes }),
    };
    let index: Vec<u32> = labels.iter().copied().enumerate().map(index).collect::<Result<_>>()?;
    Ok(Tensor::from_vec(index, labels.len(), &Device::Cpu)?)
}

/// ln softmax over the classes. The maximum only guards against overflow and cancels, so no gradient flows
/// through it.
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let total = shifted.exp()?.sum_keepdim(1)?;
    Ok(shifted.broadcast_sub(&total.log()?)?)
}

/// x ln x, continued by 0 at 0.
fn x_ln_x(x: f64) -> f64 {
    if x > 0.0 { x * x.ln() } else { 0.0 }
}
