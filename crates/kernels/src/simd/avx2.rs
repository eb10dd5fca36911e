//! AVX2 with FMA: sixteen lanes in two registers.

use std::arch::x86_64::*;
use std::ops::{Add, Mul, Sub};

use super::{F32x16, LANES, UncheckedAlgorithm};

/// Runs `algorithm` with this instruction set.
///
/// # Safety
/// The processor has AVX2 and FMA, and what the algorithm asks of its caller holds.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<A: UncheckedAlgorithm>(algorithm: A) -> A::Output {
    // SAFETY: the caller's promise.
    unsafe { algorithm.run_unchecked::<Vector>() }
}

// SAFETY of every block below: a `Vector` reaches an algorithm only through `run`, so the processor has AVX2
// and FMA; what pointers must satisfy is the trait's contract.
#[derive(Clone, Copy)]
pub(super) struct Vector(__m256, __m256);

impl Add for Vector {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
}

impl Sub for Vector {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
}

impl Mul for Vector {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
}

impl F32x16 for Vector {
    // Twelve of sixteen registers for the sums, two for the right-hand vector, one for the broadcast.
    const TILE: (usize, usize) = (6, 1);
    const NARROW_TILE: (usize, usize) = Self::TILE;
    const LANE_TILE: (usize, usize) = (4, 1);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let half = _mm256_set1_ps(value);
            Self(half, half)
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see `Vector`.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_streaming(self, to: *mut f32) {
        // SAFETY: see `Vector`.
        unsafe {
            _mm256_stream_ps(to, self.0);
            _mm256_stream_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const f32, len: usize) -> Self {
        let (low, high) = masks(len);
        // SAFETY: see `Vector`; masked lanes are not read, `wrapping_add` makes no claim about the address.
        unsafe { Self(_mm256_maskload_ps(from, low), _mm256_maskload_ps(from.wrapping_add(8), high)) }
    }

    #[inline(always)]
    unsafe fn load_if(there: bool, from: *const f32) -> Self {
        // SAFETY: see `Vector`; masked lanes are not read, `wrapping_add` makes no claim about the address.
        unsafe {
            let mask = _mm256_set1_epi32(-i32::from(there));
            Self(_mm256_maskload_ps(from, mask), _mm256_maskload_ps(from.wrapping_add(8), mask))
        }
    }

    #[inline(always)]
    unsafe fn load_of_groups<const GROUP: usize>(from: *const f32, index: usize) -> Self {
        // SAFETY: see `Vector`; a group's element is one of the sixteen.
        unsafe {
            match GROUP {
                1 => Self::load(from),
                8 => {
                    let from = from.add(index);
                    Self(_mm256_broadcast_ss(&*from), _mm256_broadcast_ss(&*from.add(8)))
                }
                _ => {
                    let Self(low, high) = Self::load(from);
                    // Within each four lanes.
                    let second = if GROUP == 2 { 2 } else { 0 };
                    let [a, c] = [index as i32, (index + second) as i32];
                    let lanes = _mm256_setr_epi32(a, a, c, c, a, a, c, c);
                    Self(_mm256_permutevar_ps(low, lanes), _mm256_permutevar_ps(high, lanes))
                }
            }
        }
    }

    #[inline(always)]
    fn zero_unless(self, there: bool) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let mask = _mm256_castsi256_ps(_mm256_set1_epi32(-i32::from(there)));
            Self(_mm256_and_ps(self.0, mask), _mm256_and_ps(self.1, mask))
        }
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, len: usize) {
        let (low, high) = masks(len);
        // SAFETY: see `Vector`; masked lanes are not written, `wrapping_add` makes no claim about the
        // address.
        unsafe {
            _mm256_maskstore_ps(to, low, self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), high, self.1);
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let low = _mm256_fmadd_ps(self.0, factor.0, addend.0);
            Self(low, _mm256_fmadd_ps(self.1, factor.1, addend.1))
        }
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and another number, the instruction takes its second operand.
        unsafe {
            let zero = _mm256_setzero_ps();
            Self(_mm256_max_ps(zero, self.0), _mm256_max_ps(zero, self.1))
        }
    }

    #[inline(always)]
    fn through_relu(self, input: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let zero = _mm256_setzero_ps();
            let low = _mm256_cmp_ps::<_CMP_NLE_UQ>(input.0, zero);
            let high = _mm256_cmp_ps::<_CMP_NLE_UQ>(input.1, zero);
            Self(_mm256_and_ps(low, self.0), _mm256_and_ps(high, self.1))
        }
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        // Four blocks of eight by eight, the off-diagonal two exchanged.
        let mut blocks = [[rows[0].0; 8]; 4];
        for i in 0..8 {
            (blocks[0][i], blocks[1][i]) = (rows[i].0, rows[i].1);
            (blocks[2][i], blocks[3][i]) = (rows[i + 8].0, rows[i + 8].1);
        }
        for block in &mut blocks {
            transpose_eight(block);
        }
        for i in 0..8 {
            rows[i] = Self(blocks[0][i], blocks[2][i]);
            rows[i + 8] = Self(blocks[1][i], blocks[3][i]);
        }
    }
}

/// Transposes eight rows of eight.
#[inline(always)]
fn transpose_eight(rows: &mut [__m256; 8]) {
    let mut pairs = *rows;
    let mut fours = *rows;
    // SAFETY: see `Vector`.
    unsafe {
        for (i, pair) in pairs.iter_mut().enumerate() {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            *pair = if i & 1 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) };
        }
        for (i, four) in fours.iter_mut().enumerate() {
            let at = (i & !3) | (i >> 1 & 1);
            let (a, b) = (_mm256_castps_pd(pairs[at]), _mm256_castps_pd(pairs[at + 2]));
            let doubles = if i & 1 == 0 { _mm256_unpacklo_pd(a, b) } else { _mm256_unpackhi_pd(a, b) };
            *four = _mm256_castpd_ps(doubles);
        }
        for (i, row) in rows.iter_mut().enumerate() {
            let (a, b) = (fours[i & 3], fours[(i & 3) | 4]);
            *row = if i & 4 == 0 {
                _mm256_permute2f128_ps::<0x20>(a, b)
            } else {
                _mm256_permute2f128_ps::<0x31>(a, b)
            };
        }
    }
}

/// The masks of the first `len` lanes: the sign bit of each lane, for both registers.
#[inline(always)]
fn masks(len: usize) -> (__m256i, __m256i) {
    // SAFETY: see `Vector`.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let len = len as i32;
        (
            _mm256_cmpgt_epi32(_mm256_set1_epi32(len), lanes),
            _mm256_cmpgt_epi32(_mm256_set1_epi32(len - 8), lanes),
        )
    }
}
