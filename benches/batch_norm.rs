//! The passes of batch norm and ReLU on the tensors of WRN-16-2 at batch 128 and of WRN-28-10 at batch 8:
//! GB/s of what a pass must read and write at least, and as a part of what copying large buffers reaches on
//! this machine (tensors that stay in the cache may pass it).
//!
//! `cargo bench --bench batch_norm`; some alone: `cargo bench --bench batch_norm -- backward`.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use wrn_sam::kernels::batch_norm::{self, EPS, Forward, Saved, Statistics};
use wrn_sam::kernels::conv2d::Activation;
use wrn_sam::kernels::{Context, Result, machine};

/// Numbers of no special kind: between -1 and 1, and not all the same.
fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7548777).fract() * 2. - 1.).collect()
}

fn bench(criterion: &mut Criterion) {
    let ctx = Context::shared();
    let peak = machine::copy_rate(ctx);
    println!("{} threads, {:?}, copy {:.1} GB/s", ctx.threads(), ctx.instruction_set(), peak / 1e9);
    for (network, batch, width) in [("WRN-16-2", 128, 2), ("WRN-28-10", 8, 10)] {
        let mut group = criterion.benchmark_group(format!("batch_norm {network} batch {batch}"));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
        for (size, channels) in [(32, 16), (32, 16 * width), (16, 32 * width), (8, 64 * width)] {
            let x = numbers(batch * size * size * channels);
            let (add, mut y, mut grad) = (x.clone(), x.clone(), x.clone());
            let (gamma, beta) = (vec![1.; channels], numbers(channels));
            let (mut mean, mut var) = (vec![0.; channels], vec![1.; channels]);
            let (mut dgamma, mut dbeta) = (gamma.clone(), beta.clone());
            let saved = Saved::new(&mean, &var, EPS);
            let (scale, shift) = batch_norm::scale_shift(&gamma, &beta, &mean, &var, EPS);
            let activation = Activation { scale: &scale, shift: &shift };
            let forward = Forward { x: &x, activation, saved: &saved, statistics: Statistics::Batch };
            let name = format!("{size}x{size} {channels}");
            // `streams` times the tensor goes through memory.
            let mut pass = |pass: &str, streams: usize, run: &mut dyn FnMut() -> Result<()>| {
                let bytes = streams * size_of_val(&x[..]);
                let mut fastest = f64::INFINITY;
                group.throughput(Throughput::Bytes(bytes as u64));
                group.bench_function(BenchmarkId::new(pass, &name), |bencher| {
                    bencher.iter_custom(|iterations| {
                        let mut total = Duration::ZERO;
                        for _ in 0..iterations {
                            let start = Instant::now();
                            run().expect("the slices fit each other");
                            let elapsed = start.elapsed();
                            fastest = fastest.min(elapsed.as_secs_f64());
                            total += elapsed;
                        }
                        total
                    });
                });
                if fastest.is_finite() {
                    let rate = bytes as f64 / fastest;
                    println!("{name} {pass}: at best {:.1} GB/s, {:.2} of copying", rate / 1e9, rate / peak);
                }
            };
            pass("statistics", 1, &mut || batch_norm::statistics(ctx, &x, &mut mean, &mut var));
            pass("apply", 2, &mut || batch_norm::apply(ctx, &x, activation, &mut y));
            // Both of its passes read x and the gradient; the second also writes it.
            pass("backward", 5, &mut || {
                batch_norm::backward(ctx, forward, &mut grad, None, &mut dgamma, &mut dbeta)
            });
            pass("backward + add", 6, &mut || {
                batch_norm::backward(ctx, forward, &mut grad, Some(&add), &mut dgamma, &mut dbeta)
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
