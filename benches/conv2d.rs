//! The convolution products of WRN-16-2 at batch 128 and of WRN-28-10 at batch 8: GFLOP/s, counted as the
//! direct convolution's, and as a part of what multiply-adds in registers reach on this machine (Winograd's
//! may pass it).
//!
//! `cargo bench --bench conv2d`; some alone: `cargo bench --bench conv2d -- '160->320'`, `-- forward`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use wrn_sam::kernels::Cpu;
use wrn_sam::kernels::conv2d::{self, Activation, Conv2dShape};

use support::{Bench, NETWORKS, Yardstick, numbers};

/// Every convolution in WRN-`16 + 6n`-`width`, by name.
fn shapes(batch: usize, width: usize) -> Vec<(String, Conv2dShape)> {
    let [first, second, third] = [16 * width, 32 * width, 64 * width];
    let convolutions = [
        (32, 3, 16, 3, 1),
        (32, 16, first, 3, 1),
        (32, 16, first, 1, 1),
        (32, first, first, 3, 1),
        (32, first, second, 3, 2),
        (32, first, second, 1, 2),
        (16, second, second, 3, 1),
        (16, second, third, 3, 2),
        (16, second, third, 1, 2),
        (8, third, third, 3, 1),
    ];
    let shape = |(size, in_channels, out_channels, kernel, stride)| {
        let name = format!("{size}x{size} {in_channels}->{out_channels} k{kernel} s{stride}");
        let input = [batch, size, size, in_channels];
        let shape = Conv2dShape::new(input, out_channels, kernel, stride, kernel / 2);
        (name, shape.expect("a shape of the network"))
    };
    convolutions.map(shape).into()
}

fn bench(criterion: &mut Criterion) {
    let cpu = Cpu::shared();
    for (network, batch, width) in NETWORKS {
        let group = format!("conv2d {network} batch {batch}");
        let mut bench = Bench::new(criterion, group, Yardstick::Flops);
        for (name, shape) in shapes(batch, width) {
            let [.., in_channels] = shape.input_dims();
            let (x, w, dy) =
                (numbers(shape.input_len()), numbers(shape.weight_len()), numbers(shape.output_len()));
            let (scale, shift) = (numbers(in_channels), numbers(in_channels));
            // The network's own image comes as it is, everything later through a batch norm and ReLU.
            let activation = (in_channels > 3).then_some(Activation { scale: &scale, shift: &shift });
            let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
            let flops = shape.flops();
            bench.operation("forward", &name, flops, || {
                conv2d::forward(cpu, &shape, &x, activation, &w, None, &mut y)
            });
            if in_channels > 3 {
                bench.operation("dx", &name, flops, || {
                    conv2d::backward_input(cpu, &shape, &dy, &w, None, &mut dx)
                });
            }
            bench.operation("dw", &name, flops, || {
                conv2d::backward_weight(cpu, &shape, &x, activation, &dy, &mut dw)
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
