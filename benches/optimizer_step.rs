//! The passes of SAM, SGD and AdamW over a variable of a million and one of twenty million elements: GB/s of what a
//! pass must read and write at least, and as a part of what copying large buffers reaches on this machine.
//!
//! `cargo bench --bench optimizer_step`; some alone: `cargo bench --bench optimizer_step -- sgd`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use wrn_sam::candle::{Device, Tensor, Var};
use wrn_sam::kernels::Cpu;
use wrn_sam::kernels::optimizer_step::{
    AdamWStep, Neighborhood, SgdStep, adamw, perturb, power_sums, restore, sgd,
};

use support::{Bench, Yardstick, numbers};

fn bench(criterion: &mut Criterion) {
    let cpu = Cpu::shared();
    let mut bench = Bench::new(criterion, "optimizer_step".to_string(), Yardstick::Bytes);
    for len in [1_000_000, 20_000_000] {
        let tensor = || Tensor::from_vec(numbers(len), len, &Device::Cpu).expect("a length");
        let variable = || Var::from_tensor(&tensor()).expect("a tensor");
        let (w, old, gradient, m, v) = (variable(), variable(), tensor(), variable(), variable());
        v.set(&v.abs().expect("numbers")).expect("the same shape");
        let ball = Neighborhood { p: 2.0, adaptive: false };
        let momentum = SgdStep {
            learning_rate: 1e-3,
            momentum: 0.9,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 5e-4,
        };
        let decoupled = AdamWStep {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 5e-4,
            step: 10,
        };
        let (stream, name) = ((len * size_of::<f32>()) as u64, format!("{} million", len / 1_000_000));
        bench.operation("norm", &name, stream, || power_sums(cpu, &ball, &[(&w, &gradient)]).map(drop));
        bench.operation("perturb, restore", &name, 3 * stream, || {
            perturb(cpu, &w, &old, &gradient, &ball, 1e-3)?;
            restore(&w, &old)
        });
        bench.operation("sgd", &name, 5 * stream, || sgd(cpu, &w, &gradient, Some(&m), &momentum));
        bench.operation("adamw", &name, 7 * stream, || adamw(cpu, &w, &gradient, &m, &v, &decoupled));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
