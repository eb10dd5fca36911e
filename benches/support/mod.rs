//! What the benches of single operations share: a rate beside the most that this machine reaches.
#![allow(dead_code)] // every bench takes what it needs

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use wrn_sam::kernels::{Cpu, Result, machine};

/// The networks whose shapes are measured: name, batch and width factor.
pub const NETWORKS: [(&str, usize, usize); 2] = [("WRN-16-2", 128, 2), ("WRN-28-10", 8, 10)];

/// Numbers of no special kind: between -1 and 1, and not all the same.
pub fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7548777).fract() * 2. - 1.).collect()
}

/// What an operation is limited by, and so measured in.
#[derive(Clone, Copy)]
pub enum Yardstick {
    /// Floating-point operations a second, beside multiply-adds in registers.
    Flops,
    /// Bytes a second, beside copying between buffers far larger than the caches.
    Bytes,
}

/// Operations of one kind, with this machine's peak in what they are measured in.
pub struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    yardstick: Yardstick,
    peak: f64,
}

impl<'a> Bench<'a> {
    /// Measures the peak, says it, and opens a group.
    pub fn new(criterion: &'a mut Criterion, group: String, yardstick: Yardstick) -> Self {
        let cpu = Cpu::shared();
        let (peak, unit) = match yardstick {
            Yardstick::Flops => (machine::multiply_add_rate(cpu), "GFLOP/s of multiply-adds"),
            Yardstick::Bytes => (machine::copy_rate(cpu), "GB/s of copying"),
        };
        println!("{} threads, {:?}, {:.1} {unit}", cpu.threads(), cpu.instruction_set(), peak / 1e9);
        let mut group = criterion.benchmark_group(group);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
        Self { group, yardstick, peak }
    }

    /// Times `run`, which does `amount` of what is measured, and prints its best rate and the part of the peak.
    pub fn operation(&mut self, name: &str, shape: &str, amount: u64, mut run: impl FnMut() -> Result<()>) {
        let (throughput, unit) = match self.yardstick {
            Yardstick::Flops => (Throughput::Elements(amount), "GFLOP/s"),
            Yardstick::Bytes => (Throughput::Bytes(amount), "GB/s"),
        };
        let mut fastest = f64::INFINITY;
        self.group.throughput(throughput);
        self.group.bench_function(BenchmarkId::new(name, shape), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    let start = Instant::now();
                    run().expect("the slices fit the shape");
                    let elapsed = start.elapsed();
                    fastest = fastest.min(elapsed.as_secs_f64());
                    total += elapsed;
                }
                total
            });
        });
        // Infinite where the command line chose other operations.
        if fastest.is_finite() {
            let rate = amount as f64 / fastest;
            println!("{shape} {name}: at best {:.1} {unit}, {:.2} of the peak", rate / 1e9, rate / self.peak);
        }
    }
}
