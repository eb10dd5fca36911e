//! The operations on candle's tensors.

use candle_core::Tensor;

use super::cpu;
use crate::autograd;
use crate::tensor::{cpu_f32, from_channels_last, with_channels_last};
use crate::uninit::{Uninit, written};
use crate::{Backend, Cpu, Error, Result};

/// `relu(x)` of images `x`, `[N, C, H, W]`, with its channels last in memory.
///
/// # Errors
/// [`Error::Unsupported`] for another device or element type; an error of candle's where `x` is not of four dimensions.
///
/// ```
/// use candle_core::{Device, Var};
/// use wrn_sam_kernels::{Cpu, elementwise::relu};
/// let x = Var::from_vec(vec![-1f32, 2.], (1, 2, 1, 1), &Device::Cpu)?;
/// let y = relu(Cpu::shared(), &x)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [0., 2.]);
/// assert_eq!(y.backward()?.get(&x).unwrap().flatten_all()?.to_vec1::<f32>()?, [0., 1.]);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
pub fn relu<B: Backend>(backend: &B, x: &Tensor) -> Result<Tensor> {
    backend.elementwise(x, None, true)
}

/// `a + b` of images of one shape, `[N, C, H, W]`, with its channels last in memory.
///
/// # Errors
/// As [`relu`], and [`Error::Shape`] where the shapes differ.
pub fn add<B: Backend>(backend: &B, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check(a, b)?;
    backend.elementwise(a, Some(b), false)
}

/// `relu(a + b)`, the end of a residual block, of images of one shape, `[N, C, H, W]`, with its channels last in memory.
///
/// # Errors
/// As [`add`].
pub fn add_relu<B: Backend>(backend: &B, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check(a, b)?;
    backend.elementwise(a, Some(b), true)
}

fn check(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() == b.dims() {
        return Ok(());
    }
    let (expected, found) = (format!("{:?}, as the first", a.dims()), format!("{:?}", b.dims()));
    Err(Error::Shape { what: "the second summand", expected, found })
}

/// The operations on the CPU, where tensors are read where they are.
pub(crate) fn on_cpu(cpu: &Cpu, a: &Tensor, b: Option<&Tensor>, relu: bool) -> Result<Tensor> {
    let inputs: Vec<_> = [a].into_iter().chain(b).collect();
    inputs.iter().try_for_each(|tensor| cpu_f32("an elementwise operation", tensor))?;
    let (batch, channels, height, width) = a.dims4()?;
    // SAFETY: every element is written.
    let y = with_operands(cpu, a, b, |a, b| unsafe {
        written(a.len(), |y| {
            cpu::forward(cpu, a, b, relu, y);
            Ok(())
        })
    })?;
    let saved = relu.then(|| (a.detach(), b.map(Tensor::detach)));
    let backward = Elementwise { cpu: cpu.clone(), saved };
    Ok(autograd::images(y, [batch, height, width, channels], &inputs, backward)?)
}

fn with_operands<T>(
    cpu: &Cpu,
    a: &Tensor,
    b: Option<&Tensor>,
    f: impl FnOnce(&[f32], Option<&[f32]>) -> Result<T>,
) -> candle_core::Result<T> {
    with_channels_last(cpu, a, |a| match b {
        None => Ok(f(a, None)?),
        Some(b) => with_channels_last(cpu, b, |b| Ok(f(a, Some(b))?)),
    })
}

struct Elementwise {
    cpu: Cpu,
    /// The operands, where a ReLU followed.
    saved: Option<(Tensor, Option<Tensor>)>,
}

impl autograd::Backward for Elementwise {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn backward(&self, dy: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let dy = dy.permute((0, 3, 1, 2))?;
        let dx = match &self.saved {
            None => dy,
            Some((a, b)) => {
                let (batch, channels, height, width) = a.dims4()?;
                let dx = with_channels_last(&self.cpu, &dy, |dy| {
                    with_operands(&self.cpu, a, b.as_ref(), |a, b| {
                        let write = |dx: &mut Uninit| {
                            cpu::backward(&self.cpu, a, b, dy, dx);
                            Ok(())
                        };
                        // SAFETY: every element is written.
                        unsafe { written(dy.len(), write) }
                    })
                })?;
                from_channels_last(dx, [batch, height, width, channels])?
            }
        };
        Ok(needed.iter().map(|needed| needed.then(|| dx.clone())).collect())
    }
}
