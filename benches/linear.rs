//! The classifier's products: GFLOP/s, and as a part of what multiply-adds in registers reach on this machine.
//!
//! `cargo bench --bench linear`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use wrn_sam::kernels::Cpu;
use wrn_sam::kernels::linear::{self, LinearShape};

use support::{Bench, NETWORKS, Yardstick, numbers};

fn bench(criterion: &mut Criterion) {
    let cpu = Cpu::shared();
    for (network, batch, width) in NETWORKS {
        let mut bench = Bench::new(criterion, format!("linear {network} batch {batch}"), Yardstick::Flops);
        let (inputs, outputs) = (64 * width, 100);
        let shape = LinearShape::new(batch, inputs, outputs).expect("the network's classifier");
        let (mut x, mut w, mut b) = (numbers(batch * inputs), numbers(outputs * inputs), numbers(outputs));
        let (mut y, dy) = (numbers(batch * outputs), numbers(batch * outputs));
        let (flops, name) = (2 * (batch * inputs * outputs) as u64, format!("{inputs}->{outputs}"));
        bench.operation("forward", &name, flops, || linear::forward(cpu, &shape, &x, &w, &b, &mut y));
        bench.operation("dx", &name, flops, || linear::backward_input(cpu, &shape, &dy, &w, &mut x));
        bench.operation("dw", &name, flops, || {
            linear::backward_parameters(cpu, &shape, &x, &dy, &mut w, &mut b)
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
