//! AVX-512F: sixteen lanes in one register.

use std::arch::x86_64::*;
use std::ops::{Add, Mul, Sub};

use super::{F32x16, LANES, UncheckedAlgorithm};

/// Runs `algorithm` with this instruction set.
///
/// # Safety
/// The processor has AVX-512F, and what the algorithm asks of its caller holds.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run<A: UncheckedAlgorithm>(algorithm: A) -> A::Output {
    // SAFETY: the caller's promise.
    unsafe { algorithm.run_unchecked::<Vector>() }
}

// SAFETY of every block below: a `Vector` reaches an algorithm only through `run`, so the processor has
// AVX-512F; what pointers must satisfy is the trait's contract.
#[derive(Clone, Copy)]
pub(super) struct Vector(__m512);

impl Add for Vector {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
}

impl Sub for Vector {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
}

impl Mul for Vector {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
}

impl F32x16 for Vector {
    // 28 sums, two right-hand vectors and one broadcast in 32 registers.
    const TILE: (usize, usize) = (14, 2);
    const NARROW_TILE: (usize, usize) = (16, 1);
    const LANE_TILE: (usize, usize) = (8, 2);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see `Vector`.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_streaming(self, to: *mut f32) {
        // SAFETY: see `Vector`.
        unsafe { _mm512_stream_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const f32, len: usize) -> Self {
        // SAFETY: see `Vector`; masked lanes are not read.
        Self(unsafe { _mm512_maskz_loadu_ps(mask(len), from) })
    }

    #[inline(always)]
    unsafe fn load_if(there: bool, from: *const f32) -> Self {
        // SAFETY: see `Vector`; masked lanes are not read.
        Self(unsafe { _mm512_maskz_loadu_ps(all(there), from) })
    }

    #[inline(always)]
    unsafe fn load_of_groups<const GROUP: usize>(from: *const f32, index: usize) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let from = _mm512_loadu_ps(from);
            if GROUP == 1 {
                return Self(from);
            }
            let first = const { FIRST_OF_GROUPS[GROUP.trailing_zeros() as usize] };
            let first = _mm512_loadu_si512(first.as_ptr().cast());
            let lanes = _mm512_add_epi32(first, _mm512_set1_epi32(index as i32));
            Self(_mm512_permutexvar_ps(lanes, from))
        }
    }

    #[inline(always)]
    fn zero_unless(self, there: bool) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_maskz_mov_ps(all(there), self.0) })
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, len: usize) {
        // SAFETY: see `Vector`; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, mask(len), self.0) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and another number, the instruction takes its second operand.
        Self(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
    }

    #[inline(always)]
    fn through_relu(self, input: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let open = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(input.0, _mm512_setzero_ps());
            Self(_mm512_maskz_mov_ps(open, self.0))
        }
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        // Four steps that pair vectors and exchange ever larger units. Single elements:
        let mut pairs = *rows;
        for (i, pair) in pairs.iter_mut().enumerate() {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            *pair = if i & 1 == 0 { a.unpack_low(b) } else { a.unpack_high(b) };
        }
        // Pairs. Now vector `4 g + c` holds in its quarter `q` column `4 q + c` of rows `4 g ..`.
        let mut fours = *rows;
        for (i, four) in fours.iter_mut().enumerate() {
            let at = (i & !3) | (i >> 1 & 1);
            let (a, b) = (pairs[at], pairs[at + 2]);
            *four = if i & 1 == 0 { a.unpack_low_pairs(b) } else { a.unpack_high_pairs(b) };
        }
        // Quarters. Vector `8 h + 4 p + c` holds columns `4 p + c` and `8 + 4 p + c` of rows `8 h ..`.
        let mut eights = *rows;
        for (i, eight) in eights.iter_mut().enumerate() {
            let at = (i & 8) | (i & 3);
            *eight = fours[at].alternate_quarters(fours[at + 4], i & 4 != 0);
        }
        for (i, row) in rows.iter_mut().enumerate() {
            *row = eights[i & 7].alternate_quarters(eights[(i & 7) | 8], i & 8 != 0);
        }
    }
}

/// The steps of a transposition.
impl Vector {
    #[inline(always)]
    fn unpack_low(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_unpacklo_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn unpack_high(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { _mm512_unpackhi_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn unpack_low_pairs(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe {
            _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(self.0), _mm512_castps_pd(other.0)))
        })
    }

    #[inline(always)]
    fn unpack_high_pairs(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe {
            _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(self.0), _mm512_castps_pd(other.0)))
        })
    }

    /// The even (or odd) quarters of one vector, then of the other.
    #[inline(always)]
    fn alternate_quarters(self, other: Self, odd: bool) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe {
            if odd {
                _mm512_shuffle_f32x4::<0b11_01_11_01>(self.0, other.0)
            } else {
                _mm512_shuffle_f32x4::<0b10_00_10_00>(self.0, other.0)
            }
        })
    }
}

/// For each lane the first of its group, for groups of one, two, four and eight lanes.
const FIRST_OF_GROUPS: [[i32; LANES]; 4] = {
    let mut first = [[0; LANES]; 4];
    let mut at = 0;
    while at < 4 * LANES {
        first[at / LANES][at % LANES] = ((at % LANES) & (usize::MAX << (at / LANES))) as i32;
        at += 1;
    }
    first
};

/// The mask of all lanes, or of none.
#[inline(always)]
fn all(there: bool) -> __mmask16 {
    __mmask16::from(there).wrapping_neg()
}

/// The mask of the first `len` lanes.
#[inline(always)]
fn mask(len: usize) -> __mmask16 {
    ((1u32 << len) - 1) as __mmask16
}
