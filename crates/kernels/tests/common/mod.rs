//! What the tests of several operations share.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]

use candle_core::{Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wrn_sam_kernels::{Cpu, InstructionSet};

/// Numbers from -1 to 1 by a seed.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// One thread and two threads for each instruction set of this machine.
pub fn cpus() -> Vec<(InstructionSet, [Cpu; 2])> {
    let cpus = |set| [1, 2].map(|threads| Cpu::with_instruction_set(threads, set).unwrap());
    InstructionSet::available().into_iter().map(|set| (set, cpus(set))).collect()
}

/// Computes with every instruction set, and checks that threads change nothing and that the result is within
/// `tolerance` of `expected`, relative to its largest element.
pub fn check(name: &str, expected: &[f32], tolerance: f32, compute: impl Fn(&Cpu) -> Vec<f32>) {
    for (set, [one, two]) in cpus() {
        let found = compute(&one);
        assert!(found == compute(&two), "{name}, {set:?}: one and two threads differ");
        assert_close(&format!("{name}, {set:?}"), &found, expected, tolerance);
    }
}

/// That two slices agree within `tolerance` of the largest element of the second.
pub fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= tolerance * largest;
        assert!(close, "{name}: element {i} is {found}, expected {expected} (largest {largest})");
    }
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn variable(seed: u64, shape: &[usize]) -> Var {
    let values = random(seed, shape.iter().product());
    Var::from_tensor(&Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap()).unwrap()
}
