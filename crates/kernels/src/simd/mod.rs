//! Vectors of sixteen `f32`, and the one place where an instruction set is chosen.
//!
//! An algorithm is written once, over [`F32x16`], as an [`Algorithm`]; [`InstructionSet::dispatch`]
//! compiles it for every instruction set and runs the one asked for. An algorithm that trusts its caller, because it
//! reads or writes through pointers, is an [`UncheckedAlgorithm`] and runs by
//! [`InstructionSet::dispatch_unchecked`]. The vector types are private to this module and reach an algorithm only
//! through these, which check the processor first; so whoever holds a `V: F32x16` may use it, and its arithmetic is
//! safe to call.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::mem::MaybeUninit;
use std::ops::{Add, Mul, Sub};

/// The number of lanes of every vector here.
pub(crate) const LANES: usize = 16;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// x86-64 with AVX-512F: sixteen lanes in one register.
    Avx512,
    /// x86-64 with AVX2 and FMA: sixteen lanes in two registers.
    Avx2,
    /// Whatever the compilation target has, vectorized by the compiler (SSE2, NEON, …).
    Portable,
}

impl InstructionSet {
    /// The instruction sets of this processor, the fastest first.
    ///
    /// ```
    /// use wrn_sam_kernels::InstructionSet;
    /// assert_eq!(InstructionSet::available().last(), Some(&InstructionSet::Portable));
    /// ```
    pub fn available() -> Vec<Self> {
        [Self::Avx512, Self::Avx2, Self::Portable].into_iter().filter(|set| set.is_available()).collect()
    }

    /// The fastest instruction set of this processor.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Runs `algorithm` compiled for this instruction set.
    ///
    /// Call it inside a parallel section's task, not around the section: the code of a task is compiled
    /// where its closure is written.
    pub(crate) fn dispatch<A: Algorithm>(self, algorithm: A) -> A::Output {
        // SAFETY: an `Algorithm` asks nothing of its caller.
        unsafe { self.dispatch_unchecked(algorithm) }
    }

    /// As [`dispatch`](Self::dispatch), for an algorithm that trusts its caller.
    ///
    /// # Safety
    /// What the algorithm's page says.
    pub(crate) unsafe fn dispatch_unchecked<A: UncheckedAlgorithm>(self, algorithm: A) -> A::Output {
        assert!(self.is_available(), "this processor has no {self:?}");
        // SAFETY: the processor has the instruction set (asserted above); the rest is the caller's promise.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512::run(algorithm),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2::run(algorithm),
                _ => algorithm.run_unchecked::<portable::Vector>(),
            }
        }
    }
}

/// Code over vectors of any instruction set: a closure generic in its vector type.
///
/// `run` and every function it calls that touches a `V` must be `#[inline(always)]`, for the compiler only
/// uses an instruction set's instructions within the function that enables it. So no closures over vectors
/// (nor `array::from_fn`, `Option::map` and the like): a closure cannot be marked, and one that is not
/// inlined calls a function for every operation.
pub(crate) trait Algorithm {
    type Output;

    fn run<V: F32x16>(self) -> Self::Output;
}

/// An [`Algorithm`] that trusts its caller: its page says for what.
pub(crate) trait UncheckedAlgorithm {
    type Output;

    /// # Safety
    /// What the type's page says.
    unsafe fn run_unchecked<V: F32x16>(self) -> Self::Output;
}

impl<A: Algorithm> UncheckedAlgorithm for A {
    type Output = A::Output;

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) -> A::Output {
        self.run::<V>()
    }
}

/// A vector of sixteen `f32`.
pub(crate) trait F32x16: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    /// The rows, and the vectors in each row, of the largest block of sums that fits the registers
    /// together with the operands of a matrix product (see [`microkernel`](crate::microkernel)).
    const TILE: (usize, usize);

    /// The same with a single vector in each row.
    const NARROW_TILE: (usize, usize);

    /// The same for products whose left rows are the lanes of a vector: the rows divide 16.
    const LANE_TILE: (usize, usize);

    fn splat(value: f32) -> Self;

    /// Loads sixteen elements.
    ///
    /// # Safety
    /// `from` is valid for reads of sixteen elements; any alignment.
    unsafe fn load(from: *const f32) -> Self;

    /// Stores sixteen elements.
    ///
    /// # Safety
    /// `to` is valid for writes of sixteen elements; any alignment.
    unsafe fn store(self, to: *mut f32);

    /// Stores sixteen elements around the caches where the processor can, for results that are not read
    /// soon. [`fence`] must follow before another thread reads them.
    ///
    /// # Safety
    /// `to` is valid for writes of sixteen elements and aligned to 64 bytes.
    unsafe fn store_streaming(self, to: *mut f32);

    /// Loads the first `len` lanes and zeros in the others.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` elements; `len <= 16`.
    unsafe fn load_partial(from: *const f32, len: usize) -> Self;

    /// Loads sixteen elements if `there`, else zeros. Where `there` is hard to predict, this is no branch.
    ///
    /// # Safety
    /// If `there`, `from` is valid for reads of sixteen elements.
    unsafe fn load_if(there: bool, from: *const f32) -> Self;

    /// For each `GROUP` lanes (1, 2, 4 or 8) their element `index`, in all of them.
    ///
    /// # Safety
    /// `from` is valid for reads of sixteen elements; `index < GROUP`.
    unsafe fn load_of_groups<const GROUP: usize>(from: *const f32, index: usize) -> Self;

    /// `self` if `there`, else zeros.
    fn zero_unless(self, there: bool) -> Self;

    /// Stores the first `len` lanes.
    ///
    /// # Safety
    /// `to` is valid for writes of `len` elements; `len <= 16`.
    unsafe fn store_partial(self, to: *mut f32, len: usize);

    /// `self * factor + addend`, rounded once where the instruction set can.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// Zero in the lanes below zero, the others as they are: a NaN stays a NaN.
    fn relu(self) -> Self;

    /// The gradient of [`relu`](Self::relu) at `input`, for this gradient of its output: zero in the lanes where
    /// `input <= 0`, this vector in the others. So it passes where the input is a NaN, as in PyTorch.
    fn through_relu(self, input: Self) -> Self;

    /// Transposes sixteen rows of sixteen.
    fn transpose(rows: &mut [Self; LANES]);

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
}

/// `lanes` elements of `from` from `at` on, and zeros in the other lanes.
///
/// # Panics
/// If these are not elements of `from`, or more than sixteen.
#[inline(always)]
pub(crate) fn load<V: F32x16>(from: &[f32], at: usize, lanes: usize) -> V {
    assert!(lanes <= LANES);
    let from = &from[at..at + lanes];
    // SAFETY: `lanes` elements; sixteen of them in the first case, fewer in the second.
    unsafe { if lanes == LANES { V::load(from.as_ptr()) } else { V::load_partial(from.as_ptr(), lanes) } }
}

/// `f32`, initialized or not yet.
pub(crate) trait Element {}

impl Element for f32 {}
impl Element for MaybeUninit<f32> {}

/// Writes the first `lanes` lanes to `to` from `at` on.
///
/// # Panics
/// If these are not elements of `to`, or more than sixteen.
#[inline(always)]
pub(crate) fn store<V: F32x16, E: Element>(vector: V, to: &mut [E], at: usize, lanes: usize) {
    assert!(lanes <= LANES);
    let to = to[at..at + lanes].as_mut_ptr().cast::<f32>();
    // SAFETY: `lanes` elements of `f32`'s layout; sixteen of them in the first case, fewer in the second.
    unsafe { if lanes == LANES { vector.store(to) } else { vector.store_partial(to, lanes) } }
}

/// Orders streaming stores before what this thread publishes next.
#[inline(always)]
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64 processor; touches no memory.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Hints that the cache line at `address` is read soon, but not at once: it is fetched to the second-level
/// cache. Any address will do.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64 processor; a hint that never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exercises every operation of one instruction set against plain arithmetic.
    struct Check;

    impl Algorithm for Check {
        type Output = ();

        #[inline(always)]
        fn run<V: F32x16>(self) {
            let a: Vec<f32> = (0..256).map(|i| (i as f32 - 100.0) / 8.0).collect();
            let b: Vec<f32> = (0..16).map(|i| 3.0 - i as f32 / 4.0).collect();
            let lanes = |vector: V| {
                let mut out = [0f32; LANES];
                // SAFETY: sixteen elements.
                unsafe { vector.store(out.as_mut_ptr()) };
                out
            };
            // SAFETY: `a` has 256 elements, `b` sixteen.
            let (x, y) = unsafe { (V::load(a.as_ptr().add(1)), V::load(b.as_ptr())) };
            let expect =
                |f: fn(f32, f32) -> f32| -> [f32; LANES] { std::array::from_fn(|i| f(a[i + 1], b[i])) };
            assert_eq!(lanes(x + y), expect(|x, y| x + y));
            assert_eq!(lanes(x - y), expect(|x, y| x - y));
            assert_eq!(lanes(x * y), expect(|x, y| x * y));
            assert_eq!(lanes((x + y).relu()), expect(|x, y| (x + y).max(0.0)));
            assert_eq!(lanes(y.through_relu(x + y)), expect(|x, y| if x + y > 0.0 { y } else { 0.0 }));
            let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0];
            let special: [f32; LANES] = std::array::from_fn(|i| special[i % 8]);
            // SAFETY: sixteen elements.
            let z = unsafe { V::load(special.as_ptr()) };
            for (i, (relu, gradient)) in lanes(z.relu()).into_iter().zip(lanes(y.through_relu(z))).enumerate()
            {
                let (expected, open) = match special[i] {
                    x if x.is_nan() => (x, true),
                    x => (x.max(0.0), x > 0.0),
                };
                assert!(
                    relu == expected || (relu.is_nan() && expected.is_nan()),
                    "relu({}): {relu}",
                    special[i]
                );
                assert_eq!(gradient, if open { b[i] } else { 0.0 }, "at {}", special[i]);
            }
            assert_eq!(lanes(x.mul_add(y, V::splat(0.5))), expect(|x, y| x * y + 0.5));
            for len in 0..=LANES {
                let mut out = [7f32; LANES];
                // SAFETY: `len <= 16` elements each.
                unsafe {
                    assert_eq!(lanes(V::load_partial(b.as_ptr(), len))[..len], b[..len]);
                    assert!(lanes(V::load_partial(b.as_ptr(), len))[len..].iter().all(|&v| v == 0.0));
                    y.store_partial(out.as_mut_ptr(), len);
                }
                assert_eq!(out[..len], b[..len]);
                assert!(out[len..].iter().all(|&v| v == 7.0));
            }
            check_groups::<V, 1>(&b);
            check_groups::<V, 2>(&b);
            check_groups::<V, 4>(&b);
            check_groups::<V, 8>(&b);
            // SAFETY: 256 elements.
            let mut rows: [V; LANES] = std::array::from_fn(|i| unsafe { V::load(a.as_ptr().add(LANES * i)) });
            V::transpose(&mut rows);
            for (i, row) in rows.into_iter().enumerate() {
                assert_eq!(lanes(row), std::array::from_fn::<f32, LANES, _>(|j| a[LANES * j + i]));
            }
            #[repr(align(64))]
            struct Aligned([f32; LANES]);
            let mut out = Aligned([0.0; LANES]);
            // SAFETY: sixteen elements, aligned to 64 bytes.
            unsafe { y.store_streaming(out.0.as_mut_ptr()) };
            fence();
            assert_eq!(out.0[..], b[..]);
        }
    }

    #[inline(always)]
    fn check_groups<V: F32x16, const GROUP: usize>(from: &[f32]) {
        for index in 0..GROUP {
            let mut found = [0f32; LANES];
            // SAFETY: sixteen elements each.
            unsafe { V::load_of_groups::<GROUP>(from.as_ptr(), index).store(found.as_mut_ptr()) };
            assert_eq!(found, std::array::from_fn(|lane| from[lane / GROUP * GROUP + index]));
        }
    }

    #[test]
    fn every_instruction_set_computes_the_same() {
        for set in InstructionSet::available() {
            set.dispatch(Check);
        }
    }
}
