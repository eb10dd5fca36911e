//! The passes on contiguous `f32` on the CPU, each in one sweep over memory on all threads.
//!
//! No sum or product is contracted or reordered by instruction set, and the blocks below are cut by the
//! shape alone, so a pass gives the same bits on every machine and with any number of threads.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor, Var};

use super::{AdamWStep, Neighborhood, SgdStep};
use crate::parallel::for_each;
use crate::simd::{Algorithm, F32x16, LANES};
use crate::{Cpu, Error, Result};

/// The elements that one task works on: enough to outweigh handing it out, few enough to spread a layer of
/// a narrow network over the threads.
const BLOCK: usize = 16 << 10;

pub(super) fn power_sum(cpu: &Cpu, ball: &Neighborhood, w: &Var, gradient: &Tensor) -> Result<f64> {
    read(w, |w| {
        read(gradient, |g| {
            let blocks = w.chunks(BLOCK).zip(g.chunks(BLOCK));
            let mut sums = vec![0.0; blocks.len()];
            let q = ball.dual();
            for_each(cpu, sums.iter_mut().zip(blocks), |(sum, (w, g))| {
                let power = |u: f64| u.abs().powf(q);
                let set = cpu.instruction_set();
                *sum = match (ball.adaptive, q) {
                    (false, 2.0) => set.dispatch(Sum { a: g, b: g, f: |_, g| g * g }),
                    (false, _) => set.dispatch(Sum { a: g, b: g, f: |_, g| power(g) }),
                    (true, 2.0) => set.dispatch(Sum { a: w, b: g, f: |w, g| (w * g) * (w * g) }),
                    (true, _) => set.dispatch(Sum { a: w, b: g, f: |w, g| power(w * g) }),
                };
            });
            sums.iter().sum()
        })
    })?
}

/// Σ f(aᵢ, bᵢ) in `f64`, in sixteen interleaved sums, which the compiler turns into vectors of the instruction set.
struct Sum<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    f: F,
}

impl<F: Fn(f64, f64) -> f64> Algorithm for Sum<'_, F> {
    type Output = f64;

    #[inline(always)]
    fn run<V: F32x16>(self) -> f64 {
        let Self { a, b, f } = self;
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut sums = [0.0; LANES];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                sums[lane] += f(a[lane].into(), b[lane].into());
            }
        }
        let mut rest = 0.0;
        for (&a, &b) in a_rest.iter().zip(b_rest) {
            rest += f(a.into(), b.into());
        }
        sums.iter().sum::<f64>() + rest
    }
}

pub(super) fn perturb(
    cpu: &Cpu,
    w: &Var,
    old: &Var,
    gradient: &Tensor,
    ball: &Neighborhood,
    scale: f64,
) -> Result<()> {
    let scale = scale as f32;
    let power = (ball.dual() - 1.0) as f32;
    write(old, |old| {
        write(w, |w| {
            std::mem::swap(old, w);
            read(gradient, |g| {
                let blocks = w.chunks_mut(BLOCK).zip(old.chunks(BLOCK)).zip(g.chunks(BLOCK));
                for_each(cpu, blocks, |((w, old), g)| {
                    // No sign for a zero, whatever its power.
                    let root = |u: f32| if u == 0.0 { 0.0 } else { u.abs().powf(power).copysign(u) };
                    match (ball.adaptive, power) {
                        (false, 1.0) => map2(w, old, g, |old, g| old + g * scale),
                        (false, _) => map2(w, old, g, |old, g| old + root(g) * scale),
                        (true, 1.0) => map2(w, old, g, |old, g| old + old * old * g * scale),
                        (true, _) => map2(w, old, g, |old, g| old + root(old.abs() * g) * scale * old.abs()),
                    }
                });
            })
        })?
    })?
}

fn map2(to: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
        *to = f(a, b);
    }
}

pub(super) fn restore(w: &Var, old: &Var) -> Result<()> {
    write(old, |old| write(w, |w| std::mem::swap(old, w)))?
}

pub(super) fn sgd(cpu: &Cpu, w: &Var, gradient: &Tensor, buffer: Option<&Var>, step: &SgdStep) -> Result<()> {
    let rate = step.learning_rate as f32;
    let momentum = step.momentum as f32;
    let fresh = (1.0 - step.dampening) as f32;
    let decay = step.weight_decay as f32;
    let Some(buffer) = buffer else {
        return write(w, |w| {
            read(gradient, |g| {
                for_each(cpu, w.chunks_mut(BLOCK).zip(g.chunks(BLOCK)), |(w, g)| {
                    for (w, &g) in w.iter_mut().zip(g) {
                        *w -= rate * (g + decay * *w);
                    }
                });
            })
        })?;
    };
    write(buffer, |b| {
        write(w, |w| {
            read(gradient, |g| {
                let blocks = w.chunks_mut(BLOCK).zip(b.chunks_mut(BLOCK)).zip(g.chunks(BLOCK));
                for_each(cpu, blocks, |((w, b), g)| {
                    for ((w, b), &g) in w.iter_mut().zip(b).zip(g) {
                        let d = g + decay * *w;
                        *b = momentum * *b + fresh * d;
                        *w -= rate * if step.nesterov { d + momentum * *b } else { *b };
                    }
                });
            })
        })?
    })?
}

pub(super) fn adamw(cpu: &Cpu, w: &Var, gradient: &Tensor, m: &Var, v: &Var, step: &AdamWStep) -> Result<()> {
    let keep = (1.0 - step.learning_rate * step.weight_decay) as f32;
    let fresh1 = (1.0 - step.beta1) as f32;
    let (beta2, fresh2) = (step.beta2 as f32, (1.0 - step.beta2) as f32);
    let (rate, root) = step.corrections();
    let (rate, root, epsilon) = (rate as f32, root as f32, step.epsilon as f32);
    write(m, |m| {
        write(v, |v| {
            write(w, |w| {
                read(gradient, |g| {
                    let moments = m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK));
                    let blocks = w.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).zip(moments);
                    for_each(cpu, blocks, |((w, g), (m, v))| {
                        for ((w, &g), (m, v)) in w.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                            *m += fresh1 * (g - *m);
                            *v = beta2 * *v + fresh2 * (g * g);
                            *w = keep * *w - rate * (*m / (v.sqrt() / root + epsilon));
                        }
                    });
                })
            })?
        })?
    })?
}

/// Calls `f` with the elements of `tensor`, contiguous `f32` on the CPU.
fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(elements)), Some((start, end))) => Ok(f(&elements[start..end])),
        _ => Err(unsupported(tensor)),
    }
}

/// Calls `f` with the elements that the variable owns, contiguous `f32` on the CPU.
fn write<R>(var: &Var, f: impl FnOnce(&mut Vec<f32>) -> R) -> Result<R> {
    /// candle lends a storage exclusively to an in-place operation alone, by way of `&self`.
    struct Write<F, R>(Cell<Option<F>>, Cell<Option<R>>);

    impl<F: FnOnce(&mut Vec<f32>) -> R, R> InplaceOp1 for Write<F, R> {
        fn name(&self) -> &'static str {
            "optimizer step"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            if let CpuStorage::F32(elements) = storage
                && layout.contiguous_offsets() == Some((0, elements.len()))
            {
                self.1.set(self.0.take().map(|f| f(elements)));
            }
            Ok(())
        }
    }

    let write = Write(Cell::new(Some(f)), Cell::new(None));
    var.inplace_op1(&write)?;
    write.1.into_inner().ok_or_else(|| unsupported(var))
}

fn unsupported(tensor: &Tensor) -> Error {
    Error::Unsupported {
        operation: "optimizer step",
        expected: "contiguous f32 on the CPU",
        found: format!("{:?} on {:?}", tensor.dtype(), tensor.device().location()),
    }
}
