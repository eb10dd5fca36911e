//! The kernels of `cuda.cu`, run on the host, against the passes of the CPU.

mod mixes;

use candle_core::{Device, Tensor, Var};

use super::cuda_args::{
    AdamW, Ascent, CHUNK, Copies, OPERANDS, Perturb, PowerSums, Sgd, TENSORS, Tensors, by_table, size,
};
use super::{AdamWStep, Neighborhood, SgdStep, Size, Slope};
use crate::Cpu;
use crate::on_host::{Grid, Guarded, Module, Order, compile};

const KERNELS: [&str; 9] =
    ["power_sums", "ascent", "perturb", "dots", "factors", "combine", "sgd", "adamw", "copy"];
const PLAIN: Size = Size::Constant(1.0);
/// With a memory of another factor in every second.
const BALLS: [(Neighborhood, Size); 8] = [
    (Neighborhood::new(2.0), PLAIN),
    (Neighborhood { memory: -0.5, ..Neighborhood::new(2.0) }, Size::Weights { eta: 0.0 }),
    (Neighborhood::new(3.0), Size::Constant(0.5)),
    (Neighborhood { gradient: 0.3, memory: 0.7, ..Neighborhood::new(1.5) }, Size::Weights { eta: 0.1 }),
    (Neighborhood::new(f64::INFINITY), PLAIN),
    (Neighborhood { memory: 0.25, ..Neighborhood::new(2.0) }, PLAIN),
    (Neighborhood::new(2.0), Size::Weights { eta: 0.01 }),
    (Neighborhood { normalize: false, memory: 1.0, ..Neighborhood::new(3.0) }, PLAIN),
];

/// Lengths around a vector's, a block's and a chunk's, none at all, and more tensors than one launch takes.
fn lens() -> Vec<usize> {
    let mut lens = vec![1, 3, 4, 0, 7, 255, 1025, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5];
    lens.extend((0..TENSORS).map(|i| 1 + i % 9));
    lens
}

/// Numbers of both signs, with zeros among them.
fn numbers(seed: usize, len: usize) -> Vec<f32> {
    let number = |i: usize| {
        let bits = (i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 7;
        if bits.is_multiple_of(31) { 0.0 } else { (bits % 20_001) as f32 / 10_000.0 - 1.0 }
    };
    (0..len).map(number).collect()
}

/// One operand of every tensor. Every third begins one element late, where no vector may be loaded.
struct Operand(Vec<Guarded<f32>>);

impl Operand {
    fn new(values: &[Vec<f32>]) -> Self {
        let shifted = |(index, values): (usize, &Vec<f32>)| {
            let shift = usize::from(index % 3 == 2);
            Guarded::new(&[&[f32::NAN][..shift], values].concat())
        };
        Self(values.iter().enumerate().map(shifted).collect())
    }

    fn address(&self, index: usize) -> u64 {
        self.0[index].device() + if index % 3 == 2 { size_of::<f32>() as u64 } else { 0 }
    }

    fn values(&self, index: usize) -> &[f32] {
        &self.0[index][usize::from(index % 3 == 2)..]
    }
}

fn tables<const N: usize>(operands: [Option<&Operand>; N]) -> Vec<(Tensors, usize)> {
    let lens = lens();
    let tensor = |(index, &len): (usize, &usize)| {
        let mut addresses = [0; OPERANDS];
        for (to, operand) in addresses.iter_mut().zip(operands) {
            *to = operand.map_or(0, |operand| operand.address(index));
        }
        (addresses, len)
    };
    let tables = Tensors::tables(&lens.iter().enumerate().map(tensor).collect::<Vec<_>>());
    assert!(tables.len() > 1, "more tensors than one launch takes");
    tables
}

fn grid(blocks: usize) -> Grid {
    Grid { blocks: (blocks, 1), threads: 256, shared: 0 }
}

fn module() -> Option<Module> {
    compile("optimizer_step", &KERNELS)
}

fn values(seed: usize) -> Vec<Vec<f32>> {
    lens().iter().enumerate().map(|(index, &len)| numbers(seed + index, len)).collect()
}

/// A variable for every tensor but the empty ones, which candle's reductions do not take.
fn vars(values: &[Vec<f32>]) -> Vec<Var> {
    values.iter().map(|values| Var::from_vec(values.clone(), values.len(), &Device::Cpu).unwrap()).collect()
}

fn tensors(values: &[Vec<f32>]) -> Vec<Tensor> {
    values
        .iter()
        .map(|values| Tensor::from_vec(values.clone(), values.len(), &Device::Cpu).unwrap())
        .collect()
}

fn assert_close(name: &str, found: &Operand, expected: &[Var]) {
    for (index, expected) in expected.iter().enumerate() {
        let expected: Vec<f32> = expected.to_vec1().unwrap();
        assert_eq!(found.values(index).len(), expected.len());
        for (i, (found, expected)) in found.values(index).iter().zip(&expected).enumerate() {
            let close = (found - expected).abs() <= 2e-6 * expected.abs().max(1e-3);
            assert!(close, "{name}: element {i} of tensor {index} is {found}, expected {expected}");
        }
    }
}

/// A number for every tensor, in the tables' order.
fn same(value: f32) -> Vec<[f32; TENSORS]> {
    by_table(&lens().into_iter().map(|len| (value, len)).collect::<Vec<_>>())
}

/// A kernel that adds up what others left.
const ONE_BLOCK: Grid = Grid { blocks: (1, 1), threads: 1024, shared: 0 };

/// The norm and the scale, and the note.
fn ascent(
    module: &Module,
    order: Order,
    (ball, unit): (&Neighborhood, Size),
    w: &Operand,
    g: &Operand,
    m: Option<&Operand>,
) -> ([f64; 2], [f64; 3]) {
    let tables = tables([Some(w), Some(g), m]);
    let count: usize = tables.iter().map(|(_, blocks)| blocks).sum();
    let partials = Guarded::new(&vec![f64::NAN; count]);
    let mut first = 0;
    for ((tensors, blocks), sizes) in tables.into_iter().zip(same(size(unit))) {
        let partials = partials.device() + 8 * first as u64;
        let (of_gradient, of_memory) = (ball.gradient, ball.memory);
        let arguments = PowerSums { tensors, partials, q: ball.dual(), of_gradient, of_memory, sizes };
        module.launch("power_sums", grid(blocks), order, &arguments);
        first += blocks;
    }
    let (numbers, found_inf) = (Guarded::new(&[f64::NAN; 2]), Guarded::new(&[0f64; 3]));
    let arguments = Ascent {
        partials: partials.device(),
        count: count as u64,
        ascent: numbers.device(),
        found_inf: found_inf.device(),
        rho: 0.05,
        p: ball.p,
        q: ball.dual(),
        normalize: f64::from(ball.normalize),
        step: 41.0,
    };
    module.launch("ascent", ONE_BLOCK, order, &arguments);
    ([numbers[0], numbers[1]], [found_inf[0], found_inf[1], found_inf[2]])
}

#[test]
fn norms_and_ascents_are_those_of_the_cpu() {
    let Some(module) = module() else { return };
    let (cpu, weights, gradients, memories) = (Cpu::shared(), values(1), values(2), values(5));
    for (ball, unit) in BALLS {
        let remembers = ball.memory != 0.0;
        let (w, g, m) = (vars(&weights), tensors(&gradients), vars(&memories));
        let old: Vec<Var> = w.iter().map(|w| Var::from_tensor(&w.zeros_like().unwrap()).unwrap()).collect();
        let slope = |((w, g), m)| Slope {
            memory: Some(m).filter(|_| remembers),
            size: unit,
            factor: 0.5,
            ..Slope::new(w, g)
        };
        let slopes: Vec<_> = w.iter().zip(&g).zip(&m).map(slope).collect();
        let sum: f64 = super::power_sums(cpu, &ball, &slopes).unwrap().iter().sum();
        let expected = super::Ascent::new(&ball, 0.05, sum).unwrap();
        super::perturb_all(cpu, &expected, &slopes.into_iter().zip(&old).collect::<Vec<_>>()).unwrap();

        let both = Order::BOTH.map(|order| {
            let (old, g) = (Operand::new(&weights), Operand::new(&gradients));
            let m = remembers.then(|| Operand::new(&memories));
            let perturbed = Operand::new(&values(3));
            let (numbers, note) = ascent(&module, order, (&ball, unit), &old, &g, m.as_ref());
            assert_eq!(note[0], 0.0);
            let norm: f64 = expected.norm().to_scalar().unwrap();
            assert!((numbers[0] / norm - 1.0).abs() < 1e-7, "{ball:?}: {numbers:?}, expected {norm}");

            let (numbers_at, note_at) = (Guarded::new(&numbers), Guarded::new(&note));
            let tables = tables([Some(&old), Some(&g), Some(&perturbed), m.as_ref()]);
            for (((tensors, blocks), sizes), factors) in
                tables.into_iter().zip(same(size(unit))).zip(same(0.5))
            {
                let arguments = Perturb {
                    tensors,
                    ascent: numbers_at.device(),
                    found_inf: note_at.device(),
                    power: (ball.dual() - 1.0) as f32,
                    of_gradient: ball.gradient as f32,
                    of_memory: ball.memory as f32,
                    sizes,
                    factors,
                };
                module.launch("perturb", grid(blocks), order, &arguments);
            }
            assert_close(&format!("{ball:?}"), &perturbed, &w);
            numbers.map(f64::to_bits)
        });
        assert_eq!(both[0], both[1], "the sum depends on the order in which threads run");
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_noted_and_moves_nothing() {
    let Some(module) = module() else { return };
    let weights = values(1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut gradients = values(2);
        gradients[10][CHUNK + 1] = bad;
        let (w, g, b) = (Operand::new(&weights), Operand::new(&gradients), Operand::new(&values(4)));
        let other = Operand::new(&values(3));
        let (numbers, note) = ascent(&module, Order::Ascending, (&BALLS[0].0, PLAIN), &w, &g, None);
        assert_eq!((note[0], note[2]), (1.0, 41.0));
        assert!(!note[1].is_finite() && !numbers[0].is_finite());

        let (numbers, note) = (Guarded::new(&numbers), Guarded::new(&note));
        let tables_of_climb = tables([Some(&w), Some(&g), Some(&other)]);
        for (((tensors, blocks), sizes), factors) in
            tables_of_climb.into_iter().zip(same(-1.0)).zip(same(1.0))
        {
            let (ascent, found_inf) = (numbers.device(), note.device());
            let (power, of_gradient, of_memory) = (1.0, 1.0, 0.0);
            let arguments =
                Perturb { tensors, ascent, found_inf, power, of_gradient, of_memory, sizes, factors };
            module.launch("perturb", grid(blocks), Order::Ascending, &arguments);
        }
        for (tensors, blocks) in tables([Some(&other), Some(&g), Some(&b)]) {
            let step = SgdStep {
                learning_rate: 0.1,
                momentum: 0.9,
                dampening: 0.0,
                nesterov: false,
                weight_decay: 0.1,
            };
            module.launch(
                "sgd",
                grid(blocks),
                Order::Ascending,
                &Sgd::new(tensors, note.device(), true, &step),
            );
        }
        for (tensors, blocks) in tables([Some(&other), Some(&g), Some(&b), Some(&w)]) {
            let step = AdamWStep {
                learning_rate: 0.1,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step: 1,
            };
            module.launch(
                "adamw",
                grid(blocks),
                Order::Ascending,
                &AdamW::new(tensors, note.device(), &step),
            );
        }
        for (index, weights) in weights.iter().enumerate() {
            assert_eq!(other.values(index), weights);
            assert_eq!(b.values(index), values(4)[index]);
        }
    }
}

#[test]
fn steps_of_sgd_are_those_of_the_cpu() {
    let Some(module) = module() else { return };
    let (weights, gradients, momenta) = (values(1), values(2), values(3));
    let plain =
        SgdStep { learning_rate: 0.1, momentum: 0.9, dampening: 0.25, nesterov: false, weight_decay: 0.01 };
    for (step, has_buffer) in
        [(plain, true), (plain, false), (SgdStep { nesterov: true, dampening: 0.0, ..plain }, true)]
    {
        let (w, g, b) = (vars(&weights), tensors(&gradients), vars(&momenta));
        let buffer = |b| has_buffer.then_some(b);
        let parameters: Vec<_> = w.iter().zip(&g).zip(&b).map(|((w, g), b)| (w, g, buffer(b))).collect();
        super::sgd_all(Cpu::shared(), &parameters, &step).unwrap();
        for order in Order::BOTH {
            let operands = [&weights, &gradients, &momenta].map(|values| Operand::new(values));
            let buffer = has_buffer.then_some(&operands[2]);
            for (tensors, blocks) in tables([Some(&operands[0]), Some(&operands[1]), buffer]) {
                module.launch("sgd", grid(blocks), order, &Sgd::new(tensors, 0, has_buffer, &step));
            }
            assert_close("w", &operands[0], &w);
            assert_close("momentum", &operands[2], &b);
        }
    }
}

#[test]
fn steps_of_adamw_are_those_of_the_cpu() {
    let Some(module) = module() else { return };
    let (weights, gradients, means) = (values(1), values(2), values(3));
    let squares: Vec<Vec<f32>> = values(4).iter().map(|v| v.iter().map(|x| x.abs()).collect()).collect();
    let step =
        AdamWStep { learning_rate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1, step: 3 };
    let (w, g, m, v) = (vars(&weights), tensors(&gradients), vars(&means), vars(&squares));
    let parameters: Vec<_> =
        w.iter().zip(&g).zip(m.iter().zip(&v)).map(|((w, g), (m, v))| (w, g, m, v)).collect();
    super::adamw_all(Cpu::shared(), &parameters, &step).unwrap();
    for order in Order::BOTH {
        let operands = [&weights, &gradients, &means, &squares].map(|values| Operand::new(values));
        for (tensors, blocks) in tables(operands.each_ref().map(Some)) {
            module.launch("adamw", grid(blocks), order, &AdamW::new(tensors, 0, &step));
        }
        for (found, expected) in operands.iter().zip([&w, &vars(&gradients), &m, &v]) {
            assert_close("adamw", found, expected);
        }
    }
}

#[test]
fn copies_are_to_the_bit_until_a_gradient_was_not_finite() {
    let Some(module) = module() else { return };
    let (from, before) = (values(1), values(2));
    for (note, expected) in [(0.0, &from), (1.0, &before)] {
        for order in Order::BOTH {
            let (from, to, note) =
                (Operand::new(&from), Operand::new(&before), Guarded::new(&[note, f64::NAN]));
            for (tensors, blocks) in tables([Some(&from), Some(&to)]) {
                module.launch("copy", grid(blocks), order, &Copies { tensors, found_inf: note.device() });
            }
            for (index, expected) in expected.iter().enumerate() {
                assert_eq!(to.values(index), expected);
            }
        }
    }
}
