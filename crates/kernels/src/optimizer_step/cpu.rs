//! The passes on contiguous `f32` on the CPU, each in one sweep over memory on all threads.
//!
//! No sum or product is contracted or reordered by instruction set, and the blocks below are cut by the
//! shape alone, so a pass gives the same bits on every machine and with any number of threads.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor, Var};

use super::{AdamWStep, Combination, Neighborhood, SgdStep, Size, Slope};
use crate::parallel::for_each;
use crate::simd::{Algorithm, F32x16, LANES};
use crate::{Cpu, Error, Result};

/// The elements that one task works on: enough to outweigh handing it out, few enough to spread a layer of
/// a narrow network over the threads.
const BLOCK: usize = 16 << 10;

pub(super) fn power_sum(cpu: &Cpu, ball: &Neighborhood, slope: &Slope<'_>) -> Result<f64> {
    read(slope.w, |w| {
        read(slope.gradient, |g| {
            // Without a memory the gradient stands in its place, and no sum reads it there.
            read(slope.memory.map_or(slope.gradient, Var::as_tensor), |m| {
                let operands = Operands { cpu, w, g, m };
                let (of_g, of_m) = (ball.gradient, ball.memory);
                match slope.memory {
                    Some(_) => operands.sum_by_size(slope.size, ball.dual(), |g, m| of_g * g + of_m * m),
                    None => operands.sum_by_size(slope.size, ball.dual(), |g, _| g),
                }
            })
        })?
    })?
}

/// The weights, the gradient and the memory of a slope.
struct Operands<'a> {
    cpu: &'a Cpu,
    w: &'a [f32],
    g: &'a [f32],
    m: &'a [f32],
}

impl Operands<'_> {
    fn sum_by_size(&self, size: Size, q: f64, a: impl Fn(f64, f64) -> f64 + Copy + Sync) -> f64 {
        match size {
            Size::Constant(t) => self.sum_by_power(q, move |_, g, m| t * a(g, m)),
            Size::Weights { eta } => self.sum_by_power(q, move |w, g, m| (w.abs() + eta) * a(g, m)),
        }
    }

    fn sum_by_power(&self, q: f64, u: impl Fn(f64, f64, f64) -> f64 + Copy + Sync) -> f64 {
        let square = move |w, g, m| {
            let u = u(w, g, m);
            [u * u]
        };
        let Self { cpu, w, g, m } = self;
        let [sum] = match q {
            2.0 => sums(cpu, w, g, m, square),
            _ => sums(cpu, w, g, m, move |w, g, m| [u(w, g, m).abs().powf(q)]),
        };
        sum
    }
}

pub(super) fn dots(cpu: &Cpu, x: &Tensor, y: &Tensor) -> Result<[f64; 3]> {
    read(x, |x| read(y, |y| sums(cpu, x, y, y, |x, y, _| [x * x, x * y, y * y])))?
}

/// N sums of f(aᵢ, bᵢ, cᵢ) in `f64`, block by block.
fn sums<const N: usize>(
    cpu: &Cpu,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    f: impl Fn(f64, f64, f64) -> [f64; N] + Copy + Sync,
) -> [f64; N] {
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).zip(c.chunks(BLOCK));
    let mut partial = vec![[0.0; N]; blocks.len()];
    let set = cpu.instruction_set();
    for_each(cpu, partial.iter_mut().zip(blocks), |(sums, ((a, b), c))| {
        *sums = set.dispatch(Sum { a, b, c, f });
    });
    std::array::from_fn(|n| partial.iter().map(|sums| sums[n]).sum())
}

/// The sums of one block, each in sixteen interleaved ones, which the compiler turns into vectors of the instruction set.
struct Sum<'a, F, const N: usize> {
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    f: F,
}

impl<F: Fn(f64, f64, f64) -> [f64; N], const N: usize> Algorithm for Sum<'_, F, N> {
    type Output = [f64; N];

    #[inline(always)]
    fn run<V: F32x16>(self) -> [f64; N] {
        let Self { a, b, c, f } = self;
        let (a, a_rest) = a.as_chunks::<LANES>();
        let (b, b_rest) = b.as_chunks::<LANES>();
        let (c, c_rest) = c.as_chunks::<LANES>();
        let mut sums = [[0.0; LANES]; N];
        for ((a, b), c) in a.iter().zip(b).zip(c) {
            for lane in 0..LANES {
                let values = f(a[lane].into(), b[lane].into(), c[lane].into());
                for n in 0..N {
                    sums[n][lane] += values[n];
                }
            }
        }
        let mut rest = [0.0; N];
        for ((&a, &b), &c) in a_rest.iter().zip(b_rest).zip(c_rest) {
            let values = f(a.into(), b.into(), c.into());
            for n in 0..N {
                rest[n] += values[n];
            }
        }
        std::array::from_fn(|n| sums[n].iter().sum::<f64>() + rest[n])
    }
}

/// `scale` has the slope's factor in it.
pub(super) fn perturb(
    cpu: &Cpu,
    slope: &Slope<'_>,
    old: &Var,
    ball: &Neighborhood,
    scale: f64,
) -> Result<()> {
    let power = (ball.dual() - 1.0) as f32;
    let (of_g, of_m) = (ball.gradient as f32, ball.memory as f32);
    let (size, memory) = (slope.size, slope.memory);
    write(old, |old| {
        write(slope.w, |w| {
            std::mem::swap(old, w);
            read(slope.gradient, |g| {
                read(memory.map_or(slope.gradient, Var::as_tensor), |m| {
                    let blocks = w.chunks_mut(BLOCK).zip(old.chunks(BLOCK));
                    for_each(cpu, blocks.zip(g.chunks(BLOCK)).zip(m.chunks(BLOCK)), |(((w, old), g), m)| {
                        let block = Block { w, old, g, m };
                        match memory {
                            Some(_) => block.climb(size, power, scale, |g, m| of_g * g + of_m * m),
                            None => block.climb(size, power, scale, |g, _| g),
                        }
                    });
                })
            })?
        })?
    })?
}

/// A block of the operands of [`perturb`].
struct Block<'a> {
    w: &'a mut [f32],
    old: &'a [f32],
    g: &'a [f32],
    m: &'a [f32],
}

impl Block<'_> {
    /// w ← old + e, a being the direction.
    fn climb(self, size: Size, power: f32, scale: f64, a: impl Fn(f32, f32) -> f32) {
        // No sign for a zero, whatever its power.
        let root = |u: f32| if u == 0.0 { 0.0 } else { u.abs().powf(power).copysign(u) };
        match size {
            Size::Constant(t) => {
                // T stands in u^(q - 1) and before it.
                let scale = (scale * t.powf(f64::from(power) + 1.0)) as f32;
                match power {
                    1.0 => self.map(|old, g, m| old + a(g, m) * scale),
                    _ => self.map(|old, g, m| old + root(a(g, m)) * scale),
                }
            }
            Size::Weights { eta } => {
                let (scale, eta) = (scale as f32, eta as f32);
                match power {
                    1.0 => self.map(|old, g, m| {
                        let t = old.abs() + eta;
                        old + t * t * a(g, m) * scale
                    }),
                    _ => self.map(|old, g, m| {
                        let t = old.abs() + eta;
                        old + root(t * a(g, m)) * scale * t
                    }),
                }
            }
        }
    }

    fn map(self, f: impl Fn(f32, f32, f32) -> f32) {
        for (((w, &old), &g), &m) in self.w.iter_mut().zip(self.old).zip(self.g).zip(self.m) {
            *w = f(old, g, m);
        }
    }
}

/// `factors` are those of x and y, with the share in them.
pub(super) fn combine(
    cpu: &Cpu,
    combination: &Combination<'_>,
    v: &Var,
    x: &Tensor,
    y: &Tensor,
    factors: [f64; 2],
) -> Result<()> {
    let [of_x, of_y] = factors.map(|factor| factor as f32);
    write(v, |v| {
        read(x, |x| {
            read(y, |y| {
                let blocks = v.chunks_mut(BLOCK).zip(x.chunks(BLOCK)).zip(y.chunks(BLOCK));
                for_each(cpu, blocks, |((v, x), y)| {
                    let each = v.iter_mut().zip(x).zip(y);
                    match combination {
                        Combination::Mixed(..) => each.for_each(|((v, x), y)| *v = of_x * x + of_y * y),
                        Combination::Plus(..) => each.for_each(|((v, x), y)| *v += of_x * x + of_y * y),
                        Combination::Scaled(_) => each.for_each(|((v, x), _)| *v = of_x * x),
                        Combination::PlusScaled(_) => each.for_each(|((v, x), _)| *v += of_x * x),
                        Combination::Toward(_) => each.for_each(|((v, x), _)| *v += of_x * (x - *v)),
                    }
                });
            })
        })?
    })?
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
