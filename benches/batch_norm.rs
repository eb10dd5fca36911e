//! The passes of batch norm and ReLU on the tensors of WRN-16-2 at batch 128 and of WRN-28-10 at batch 8:
//! GB/s of what a pass must read and write at least, and as a part of what copying large buffers reaches on
//! this machine (tensors that stay in the cache may pass it).
//!
//! `cargo bench --bench batch_norm`; some alone: `cargo bench --bench batch_norm -- backward`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use wrn_sam::kernels::Cpu;
use wrn_sam::kernels::batch_norm::{self, BatchStatistics, EPS, Forward, Saved};
use wrn_sam::kernels::conv2d::Activation;

use support::{Bench, NETWORKS, Yardstick, numbers};

fn bench(criterion: &mut Criterion) {
    let cpu = Cpu::shared();
    for (network, batch, width) in NETWORKS {
        let group = format!("batch_norm {network} batch {batch}");
        let mut bench = Bench::new(criterion, group, Yardstick::Bytes);
        for (size, channels) in [(32, 16), (32, 16 * width), (16, 32 * width), (8, 64 * width)] {
            let x = numbers(batch * size * size * channels);
            let (add, mut y, mut grad) = (x.clone(), x.clone(), x.clone());
            let (gamma, beta) = (vec![1.; channels], numbers(channels));
            let (mut mean, mut var) = (vec![0.; channels], vec![1.; channels]);
            let (mut dgamma, mut dbeta) = (gamma.clone(), beta.clone());
            let saved = Saved::new(&mean, &var, EPS);
            let (scale, shift) = batch_norm::scale_shift(&gamma, &beta, &mean, &var, EPS);
            let activation = Activation { scale: &scale, shift: &shift };
            let statistics = BatchStatistics::Batch { moves: true };
            let forward = Forward { x: &x, activation, saved: &saved, statistics, relu: true };
            let name = format!("{size}x{size} {channels}");
            let tensor = size_of_val(&x[..]) as u64;
            bench.operation("statistics", &name, tensor, || {
                batch_norm::statistics(cpu, &x, &mut mean, &mut var)
            });
            bench.operation("apply", &name, 2 * tensor, || batch_norm::apply(cpu, &x, activation, &mut y));
            // Both of its passes read x and the gradient; the second also writes it.
            bench.operation("backward", &name, 5 * tensor, || {
                batch_norm::backward(cpu, forward, &mut grad, None, &mut dgamma, &mut dbeta)
            });
            bench.operation("backward + add", &name, 6 * tensor, || {
                batch_norm::backward(cpu, forward, &mut grad, Some(&add), &mut dgamma, &mut dbeta)
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
