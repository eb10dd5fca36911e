//! The average pool before the classifier, with the batch norm and ReLU in front of it: GB/s of reading its input
//! (writing its gradient), and as a part of what copying large buffers reaches on this machine.
//!
//! `cargo bench --bench pool`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use wrn_sam::kernels::Cpu;
use wrn_sam::kernels::conv2d::Activation;
use wrn_sam::kernels::pool::{self, PoolShape};

use support::{Bench, NETWORKS, Yardstick, numbers};

fn bench(criterion: &mut Criterion) {
    let cpu = Cpu::shared();
    for (network, batch, width) in NETWORKS {
        let mut bench = Bench::new(criterion, format!("pool {network} batch {batch}"), Yardstick::Bytes);
        let channels = 64 * width;
        let shape = PoolShape::new([batch, 8, 8, channels], 8).expect("the network's pool");
        let (mut x, mut y) = (numbers(shape.input_len()), numbers(shape.output_len()));
        let (scale, shift) = (numbers(channels), numbers(channels));
        let activation = Some(Activation { scale: &scale, shift: &shift });
        let (bytes, name) = (size_of_val(&x[..]) as u64, format!("8x8 {channels}"));
        bench.operation("forward", &name, bytes, || pool::forward(cpu, &shape, &x, activation, &mut y));
        bench.operation("backward", &name, bytes, || pool::backward(cpu, &shape, &y, &mut x));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
