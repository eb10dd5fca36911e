//! The passes of the SAM family, SGD and AdamW over a variable of a million and one of twenty million elements: GB/s of what a
//! pass must read and write at least, and as a part of what copying large buffers reaches on this machine.
//!
//! `cargo bench --bench optimizer_step`; some alone: `cargo bench --bench optimizer_step -- sgd`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use wrn_sam::candle::{Device, Tensor, Var};
use wrn_sam::kernels::Cpu;
use wrn_sam::kernels::optimizer_step::{
    AdamWStep, Ascent, Combination, FoundInf, Neighborhood, Rule, SgdStep, Slope, adamw, combine_all, dots,
    perturb_all, power_sums, restore, sgd,
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
        let (ball, note) = (Neighborhood::new(2.0), FoundInf::default());
        let remembering = Neighborhood { memory: -1.0, ..ball };
        let ascent = |ball| Ascent::new(ball, 1e-3, 1.0).expect("two numbers");
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
        let plain = Slope::new(&w, &gradient);
        let along_memory = Slope { memory: Some(&m), ..plain };
        bench.operation("norm", &name, stream, || power_sums(cpu, &ball, &[plain]).map(drop));
        bench.operation("norm with memory", &name, 2 * stream, || {
            power_sums(cpu, &remembering, &[along_memory]).map(drop)
        });
        bench.operation("perturb, restore", &name, 3 * stream, || {
            perturb_all(cpu, &ascent(&ball), &[(plain, &old)])?;
            restore(&w, &old)
        });
        bench.operation("perturb with memory, restore", &name, 4 * stream, || {
            perturb_all(cpu, &ascent(&remembering), &[(along_memory, &old)])?;
            restore(&w, &old)
        });
        bench.operation("dots", &name, 2 * stream, || dots(cpu, &[(&gradient, &m)], &note).map(drop));
        let mix = dots(cpu, &[(&gradient, &m)], &note).and_then(|(dots, _)| dots.mix(Rule::Beside, None));
        let mix = mix.expect("two tensors of one shape");
        bench.operation("mix", &name, 3 * stream, || {
            combine_all(cpu, Combination::Mixed(&mix, 1.0), &[(&old, &gradient, &m)], &note)
        });
        bench.operation("sum", &name, 3 * stream, || {
            combine_all(cpu, Combination::PlusScaled(0.5), &[(&old, &gradient, &gradient)], &note)
        });
        bench.operation("average", &name, 3 * stream, || {
            combine_all(cpu, Combination::Toward(0.01), &[(&old, &gradient, &gradient)], &note)
        });
        bench.operation("sgd", &name, 5 * stream, || sgd(cpu, &w, &gradient, Some(&m), &momentum));
        bench.operation("adamw", &name, 7 * stream, || adamw(cpu, &w, &gradient, &m, &v, &decoupled));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
