//! The innermost loop of every matrix product here: a block of sums in registers.
//!
//! `sums[i][j] += a[i][k] * b[k][j]` over `k`, where `j` counts vectors of sixteen columns. One step of `k`
//! loads `COLUMNS` vectors of `b` and broadcasts `ROWS` elements of `a`, for `ROWS * COLUMNS` vector
//! multiply-adds; all sums stay in registers from the first `k` to the last. Operands are read in place,
//! whatever their strides: where the elements of `a` that one step needs, and those of the steps that follow
//! it, share cache lines, no packing is needed.

use crate::simd::F32x16;

/// A block of sums: `ROWS` rows of `COLUMNS` vectors.
pub(crate) type RegisterBlock<V, const ROWS: usize, const COLUMNS: usize> = [[V; COLUMNS]; ROWS];

/// Where an operand of a product lies: its first element and the distances, in elements, from one row of
/// `a` (vector of columns of `b`) to the next and from one `k` to the next.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub start: *const f32,
    pub stride: usize,
    pub step: usize,
}

/// Adds the product of `a` (`ROWS` by `depth`) and `b` (`depth` by `COLUMNS` vectors) to `sums`.
///
/// # Safety
/// `a.start + i * a.stride + k * a.step` is readable for every `i < ROWS` and `k < depth`; sixteen elements
/// from `b.start + j * b.stride + k * b.step` are for every `j < COLUMNS` and `k < depth`.
#[inline(always)]
pub(crate) unsafe fn multiply_add<V: F32x16, const ROWS: usize, const COLUMNS: usize>(
    sums: &mut RegisterBlock<V, ROWS, COLUMNS>,
    depth: usize,
    a: Operand,
    b: Operand,
) {
    // A copy, so that the sums are the loop's own and live in registers.
    let mut local = *sums;
    for k in 0..depth {
        // SAFETY: `k < depth`, `j < COLUMNS` and `i < ROWS`: the caller's promise.
        unsafe {
            let mut right = [V::zero(); COLUMNS];
            for (j, right) in right.iter_mut().enumerate() {
                *right = V::load(b.start.add(j * b.stride + k * b.step));
            }
            for (i, row) in local.iter_mut().enumerate() {
                let left = V::splat(*a.start.add(i * a.stride + k * a.step));
                for (sum, right) in row.iter_mut().zip(right) {
                    *sum = left.mul_add(right, *sum);
                }
            }
        }
    }
    *sums = local;
}

/// A block of sums from memory: vector `j` of row `i` at `from + i * row + j * column`.
///
/// # Safety
/// Sixteen elements are readable at each of these places.
#[inline(always)]
pub(crate) unsafe fn load<V: F32x16, const ROWS: usize, const COLUMNS: usize>(
    from: *const f32,
    row: usize,
    column: usize,
) -> RegisterBlock<V, ROWS, COLUMNS> {
    let mut sums = [[V::zero(); COLUMNS]; ROWS];
    for (i, sums) in sums.iter_mut().enumerate() {
        for (j, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *sum = unsafe { V::load(from.add(i * row + j * column)) };
        }
    }
    sums
}

/// Writes a block of sums to memory: vector `j` of row `i` to `to + i * row + j * column`.
///
/// # Safety
/// Sixteen elements are writable at each of these places.
#[inline(always)]
pub(crate) unsafe fn store<V: F32x16, const ROWS: usize, const COLUMNS: usize>(
    sums: &RegisterBlock<V, ROWS, COLUMNS>,
    to: *mut f32,
    row: usize,
    column: usize,
) {
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { sum.store(to.add(i * row + j * column)) };
        }
    }
}
