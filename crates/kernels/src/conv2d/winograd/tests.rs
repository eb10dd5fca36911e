//! Against plain loops in `f64`, on every instruction set.

use super::super::plain;
use super::*;
use crate::InstructionSet;
use crate::uninit::as_uninit;

fn forward(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    w: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) {
    // SAFETY: only sums are written.
    Convolution::forward(shape, x, activation, w, add, unsafe { as_uninit(y) }).run(cpu);
}

fn backward_input(
    cpu: &Cpu,
    shape: &Conv2dShape,
    dy: &[f32],
    w: &[f32],
    add: Option<&[f32]>,
    dx: &mut [f32],
) {
    // SAFETY: only sums are written.
    Convolution::backward_input(shape, dy, w, add, unsafe { as_uninit(dx) }).run(cpu);
}

fn backward_weight(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut [f32],
) {
    // SAFETY: only sums are written.
    super::backward_weight(cpu, shape, x, activation, dy, unsafe { as_uninit(dw) });
}

/// Numbers without pattern, from a seed.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    // Sums of uniform numbers: nearly Gaussian, as activations and gradients are.
    (0..len).map(|_| (0..6).map(|_| next()).sum::<f32>()).collect()
}

struct Case {
    shape: Conv2dShape,
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

fn case(batch: usize, height: usize, width: usize, in_channels: usize, out_channels: usize) -> Case {
    let shape = Conv2dShape::new([batch, height, width, in_channels], out_channels, 3, 1, 1).unwrap();
    let pixels = batch * height * width;
    Case {
        x: numbers(1, pixels * in_channels),
        w: numbers(2, 9 * in_channels * out_channels),
        dy: numbers(3, pixels * out_channels),
        scale: numbers(4, in_channels),
        shift: numbers(5, in_channels),
        shape,
    }
}

/// The three products by definition: `y`, `dx` and `dw`.
fn direct(case: &Case, activation: Option<Activation>) -> [Vec<f32>; 3] {
    let Case { shape, x, w, dy, .. } = case;
    let [mut y, mut dx, mut dw] = [dy, x, w].map(|like| vec![f32::NAN; like.len()]);
    plain::forward(shape, x, activation, w, None, &mut y);
    plain::backward_input(shape, dy, w, None, &mut dx);
    plain::backward_weight(shape, x, activation, dy, &mut dw);
    [y, dx, dw]
}

fn products(cpu: &Cpu, case: &Case, activation: Option<Activation>, add: bool) -> [Vec<f32>; 3] {
    let Case { shape, x, w, dy, .. } = case;
    let [mut y, mut dx, mut dw] = [dy, x, w].map(|like| vec![f32::NAN; like.len()]);
    forward(cpu, shape, x, activation, w, add.then_some(dy), &mut y);
    backward_input(cpu, shape, dy, w, add.then_some(x), &mut dx);
    backward_weight(cpu, shape, x, activation, dy, &mut dw);
    [y, dx, dw]
}

/// `max |a - b| / max |b|`.
fn error(a: &[f32], b: &[f32]) -> f32 {
    let (mut difference, mut largest) = (0f32, f32::MIN_POSITIVE);
    for (&a, &b) in a.iter().zip(b) {
        assert!(a.is_finite());
        difference = difference.max((a - b).abs());
        largest = largest.max(b.abs());
    }
    difference / largest
}

fn cpus() -> Vec<[Cpu; 2]> {
    let sets = InstructionSet::available().into_iter();
    sets.map(|set| [1, 5].map(|threads| Cpu::with_instruction_set(threads, set).unwrap())).collect()
}

fn check(cpus: &[[Cpu; 2]], case: &Case) {
    for activated in [false, true] {
        let activation = activated.then_some(Activation { scale: &case.scale, shift: &case.shift });
        let exact = direct(case, activation);
        for [one, two] in cpus {
            let found = products(one, case, activation, false);
            for (name, (found, exact)) in ["y", "dx", "dw"].into_iter().zip(found.iter().zip(&exact)) {
                let error = error(found, exact);
                assert!(error < 1e-5, "{name} of {:?} is off by {error:e} on {one:?}", case.shape);
            }
            let added = products(two, case, activation, true);
            let sum = |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
            assert_eq!(added[0], sum(&found[0], &case.dy), "{:?}", case.shape);
            assert_eq!(added[1], sum(&found[1], &case.x), "{:?}", case.shape);
            assert_eq!(added[2], found[2], "{:?}", case.shape);
        }
    }
}

#[test]
fn products_agree_with_the_definition_for_odd_shapes() {
    let cpus = cpus();
    for channels in [(1, 1), (3, 16), (16, 3), (17, 33), (48, 16), (8, 40)] {
        for (batch, height, width) in [(1, 1, 1), (2, 4, 4), (5, 3, 7), (1, 9, 2), (3, 8, 12)] {
            check(&cpus, &case(batch, height, width, channels.0, channels.1));
        }
    }
    for size in 1..=33 {
        check(&cpus, &case(1, size, 34 - size, 5, 18));
    }
    check(&cpus, &case(5, 10, 6, 160, 32));
    check(&cpus, &case(1, 8, 8, 16, 160));
}

#[test]
fn large_channel_counts_take_the_other_order() {
    let cpus = cpus();
    check(&cpus, &case(1, 4, 4, 320, 336));
    check(&cpus, &case(1, 5, 6, 650, 70));
    check(&cpus, &case(2, 4, 3, 70, 650));
}

/// A NaN in any operand reaches every result that depends on it. The transforms may carry it to others of its tile.
#[test]
fn nans_are_kept() {
    for channels in [(3, 16), (17, 33), (320, 48)] {
        for place in 0..5 {
            let mut case = case(2, 5, 7, channels.0, channels.1);
            let operands = [&mut case.x, &mut case.w, &mut case.dy, &mut case.scale, &mut case.shift]
                .map(|operand| &mut operand[..]);
            let operand = operands.into_iter().nth(place).expect("five operands");
            operand[operand.len() / 2] = f32::NAN;
            let activation = Some(Activation { scale: &case.scale, shift: &case.shift });
            let exact = direct(&case, activation);
            for cpu in cpus().into_iter().flatten() {
                let found = products(&cpu, &case, activation, false);
                for (found, exact) in found.iter().flatten().zip(exact.iter().flatten()) {
                    assert!(
                        found.is_nan() || !exact.is_nan(),
                        "operand {place} of {:?} on {cpu:?}",
                        case.shape
                    );
                }
            }
        }
    }
}

/// Tiles do not know of each other, so an image's results are the same to the last bit in any batch: whichever
/// order a batch's size leads to, in however many parts, written around the caches or not.
#[test]
fn images_do_not_depend_on_their_batch() {
    for [cpu, _] in cpus() {
        for (batch, size, in_channels, out_channels) in [(12, 16, 650, 70), (9, 8, 64, 80), (64, 32, 16, 16)]
        {
            let Case { shape, x, w, dy, .. } = case(batch, size, size, in_channels, out_channels);
            let (mut y, mut dx) = (cpu.buffer(dy.len()), cpu.buffer(x.len()));
            forward(&cpu, &shape, &x, None, &w, None, &mut y);
            backward_input(&cpu, &shape, &dy, &w, None, &mut dx);
            let one = Conv2dShape { batch: 1, ..shape };
            let (in_len, out_len) = (x.len() / batch, dy.len() / batch);
            let (mut one_y, mut one_dx) = (vec![0.0; out_len], vec![0.0; in_len]);
            for image in [0, batch / 2, batch - 1] {
                let (x, dy) = (&x[image * in_len..][..in_len], &dy[image * out_len..][..out_len]);
                forward(&cpu, &one, x, None, &w, None, &mut one_y);
                backward_input(&cpu, &one, dy, &w, None, &mut one_dx);
                assert_eq!(y[image * out_len..][..out_len], one_y, "{shape:?} on {cpu:?}");
                assert_eq!(dx[image * in_len..][..in_len], one_dx, "{shape:?} on {cpu:?}");
            }
        }
    }
}

#[test]
fn a_large_weight_gradient_is_the_same_at_any_address() {
    for [cpu, _] in cpus() {
        let Case { shape, x, w, dy, .. } = case(1, 4, 4, 352, 336);
        let (mut aligned, mut shifted) = (cpu.buffer(w.len()), cpu.buffer(w.len() + 1));
        backward_weight(&cpu, &shape, &x, None, &dy, &mut aligned);
        backward_weight(&cpu, &shape, &x, None, &dy, &mut shifted[1..]);
        assert_eq!(aligned[..], shifted[1..]);
    }
}

#[test]
fn an_empty_batch_has_empty_outputs_and_no_weight_gradient() {
    let [y, dx, dw] = products(&Cpu::new(2), &case(0, 8, 8, 16, 16), None, false);
    assert!(y.is_empty() && dx.is_empty());
    assert!(dw.iter().all(|&dw| dw == 0.0));
}
