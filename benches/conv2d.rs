//! The convolution products of WRN-16-2 at batch 128 and of WRN-28-10 at batch 8: GFLOP/s, counted as the
//! direct convolution's, and as a part of what multiply-adds in registers reach on this machine (Winograd's
//! may pass it).
//!
//! `cargo bench --bench conv2d`; some alone: `cargo bench --bench conv2d -- '160->320'`, `-- forward`.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use wrn_sam::kernels::conv2d::{self, Activation, Conv2dShape};
use wrn_sam::kernels::{Context, machine};

/// Every shape of convolution in WRN-`16 + 6n`-`width`: size of the image, channels, kernel and stride.
fn shapes(batch: usize, width: usize) -> Vec<Conv2dShape> {
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
    let shape = |(size, in_channels, out_channels, kernel, stride)| Conv2dShape {
        batch,
        height: size,
        width: size,
        in_channels,
        out_channels,
        kernel,
        stride,
        padding: kernel / 2,
    };
    convolutions.map(shape).into()
}

/// Numbers of no special kind: between -1 and 1, and not all the same.
fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7548777).fract() * 2. - 1.).collect()
}

fn bench(criterion: &mut Criterion) {
    let ctx = Context::shared();
    let peak = machine::multiply_add_rate(ctx);
    println!("{} threads, {:?}, peak {:.0} GFLOP/s", ctx.threads(), ctx.instruction_set(), peak / 1e9);
    for (network, batch, width) in [("WRN-16-2", 128, 2), ("WRN-28-10", 8, 10)] {
        let mut group = criterion.benchmark_group(format!("conv2d {network} batch {batch}"));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
        for shape in shapes(batch, width) {
            let (x, w, dy) =
                (numbers(shape.input_len()), numbers(shape.weight_len()), numbers(shape.output_len()));
            let (scale, shift) = (numbers(shape.in_channels), numbers(shape.in_channels));
            // The network's own image comes as it is, everything later through a batch norm and ReLU.
            let activation = (shape.in_channels > 3).then_some(Activation { scale: &scale, shift: &shift });
            let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
            let Conv2dShape { height, in_channels, out_channels, kernel, stride, .. } = shape;
            let name = format!("{height}x{height} {in_channels}->{out_channels} k{kernel} s{stride}");
            group.throughput(Throughput::Elements(shape.flops()));
            let mut product = |product: &str, run: &mut dyn FnMut() -> wrn_sam::kernels::Result<()>| {
                let id = BenchmarkId::new(product, &name);
                let mut fastest = f64::INFINITY;
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|iterations| {
                        let mut total = Duration::ZERO;
                        for _ in 0..iterations {
                            let start = Instant::now();
                            run().expect("the slices are the shape's");
                            let elapsed = start.elapsed();
                            fastest = fastest.min(elapsed.as_secs_f64());
                            total += elapsed;
                        }
                        total
                    });
                });
                if fastest.is_finite() {
                    let rate = shape.flops() as f64 / fastest;
                    println!(
                        "{name} {product}: at best {:.0} GFLOP/s, {:.2} of the peak",
                        rate / 1e9,
                        rate / peak
                    );
                }
            };
            product("forward", &mut || conv2d::forward(ctx, &shape, &x, activation, &w, None, &mut y));
            if in_channels > 3 {
                product("dx", &mut || conv2d::backward_input(ctx, &shape, &dy, &w, None, &mut dx));
            }
            product("dw", &mut || conv2d::backward_weight(ctx, &shape, &x, activation, &dy, &mut dw));
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
