//! What this machine can do at most, measured: the yardsticks of kernels that compute and of kernels that
//! move memory.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Cpu;
use crate::parallel::for_each;
use crate::simd::{Algorithm, F32x16, LANES};

/// Repetitions, of which the fastest counts.
const REPETITIONS: usize = 10;

/// Floating-point operations per second of multiply-adds in registers, on all threads of `cpu` with its
/// instruction set. Takes some tens of milliseconds.
///
/// ```
/// use wrn_sam_kernels::{Cpu, machine};
/// assert!(machine::multiply_add_rate(Cpu::shared()) > 1e8);
/// ```
pub fn multiply_add_rate(cpu: &Cpu) -> f64 {
    const STEPS: usize = 50_000;
    // Several tasks a thread, so that one that starts late is not waited for.
    let tasks = 8 * cpu.threads();
    let once = || {
        cpu.run(tasks, |_| {
            cpu.instruction_set().dispatch(MultiplyAdd { steps: STEPS });
        });
    };
    let flops = cpu.instruction_set().dispatch(MultiplyAdd { steps: 0 }) * STEPS;
    (tasks * flops) as f64 / fastest(once).as_secs_f64()
}

/// Bytes per second, read and written together, of copying between buffers far larger than the caches on all
/// threads of `cpu`. Takes some tenths of a second.
pub fn copy_rate(cpu: &Cpu) -> f64 {
    const LEN: usize = 32 << 20;
    const TASK: usize = 1 << 15;
    let (from, mut to) = (cpu.zeroed(LEN), cpu.zeroed(LEN));
    let once =
        || for_each(cpu, to.chunks_mut(TASK).zip(from.chunks(TASK)), |(to, from)| to.copy_from_slice(from));
    (2 * LEN * size_of::<f32>()) as f64 / fastest(once).as_secs_f64()
}

fn fastest(mut run: impl FnMut()) -> Duration {
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..REPETITIONS).map(|_| time()).min().unwrap_or_default()
}

/// Steps of multiply-adds in chains that wait for nothing but themselves: as many as the registers hold sums
/// of a matrix product, which is enough to hide the latency of one. Returns the operations of a step.
struct MultiplyAdd {
    steps: usize,
}

impl Algorithm for MultiplyAdd {
    type Output = usize;

    #[inline(always)]
    fn run<V: F32x16>(self) -> usize {
        match V::NARROW_TILE.0 {
            16 => chains::<V, 16>(self.steps),
            6 => chains::<V, 6>(self.steps),
            2 => chains::<V, 2>(self.steps),
            _ => unreachable!("every register block has its code"),
        }
    }
}

#[inline(always)]
fn chains<V: F32x16, const CHAINS: usize>(steps: usize) -> usize {
    let (factor, summand) = (V::splat(black_box(0.5)), V::splat(black_box(1.0)));
    let mut chains = [V::zero(); CHAINS];
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = chain.mul_add(factor, summand);
        }
    }
    let mut results = [0f32; LANES];
    for chain in chains {
        // SAFETY: sixteen elements.
        unsafe { chain.store(results.as_mut_ptr()) };
        black_box(&results);
    }
    CHAINS * LANES * 2
}
