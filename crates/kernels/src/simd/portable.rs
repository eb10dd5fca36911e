//! Plain arrays, in loops that the compiler vectorizes for any target.

use std::ops::{Add, Mul, Sub};

use super::{F32x16, LANES};

#[derive(Clone, Copy)]
pub(super) struct Vector([f32; LANES]);

impl Vector {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Add for Vector {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl Sub for Vector {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl Mul for Vector {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
}

impl F32x16 for Vector {
    // A vector is four registers of sixteen on SSE2, of thirty-two on NEON.
    const TILE: (usize, usize) = if cfg!(target_arch = "aarch64") { (6, 1) } else { (2, 1) };
    const NARROW_TILE: (usize, usize) = Self::TILE;
    const LANE_TILE: (usize, usize) = if cfg!(target_arch = "aarch64") { (4, 1) } else { (2, 1) };

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen readable elements (the trait's contract), any alignment.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen writable elements (the trait's contract), any alignment.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_streaming(self, to: *mut f32) {
        // SAFETY: the trait's contract is stricter than `store`'s.
        unsafe { self.store(to) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const f32, len: usize) -> Self {
        let mut lanes = [0.0; LANES];
        // SAFETY: `len <= 16` readable elements (the trait's contract).
        unsafe { from.copy_to_nonoverlapping(lanes.as_mut_ptr(), len) };
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn load_if(there: bool, from: *const f32) -> Self {
        // SAFETY: read only if readable (the trait's contract).
        if there { unsafe { Self::load(from) } } else { Self::zero() }
    }

    #[inline(always)]
    unsafe fn load_of_groups<const GROUP: usize>(from: *const f32, index: usize) -> Self {
        // SAFETY: sixteen readable elements (the trait's contract).
        let from = unsafe { Self::load(from) };
        Self(std::array::from_fn(|lane| from.0[lane / GROUP * GROUP + index]))
    }

    #[inline(always)]
    fn zero_unless(self, there: bool) -> Self {
        if there { self } else { Self::zero() }
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, len: usize) {
        // SAFETY: `len <= 16` writable elements (the trait's contract).
        unsafe { self.0.as_ptr().copy_to_nonoverlapping(to, len) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Not `f32::mul_add`: without the instruction that is a library call per lane.
        self * factor + addend
    }

    #[inline(always)]
    fn relu(self) -> Self {
        self.zip(Self::zero(), |x, zero| if x < zero { zero } else { x })
    }

    #[inline(always)]
    fn through_relu(self, input: Self) -> Self {
        self.zip(input, |gradient, x| if x <= 0.0 { 0.0 } else { gradient })
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        let from = *rows;
        *rows = std::array::from_fn(|i| Self(std::array::from_fn(|j| from[j].0[i])));
    }
}
